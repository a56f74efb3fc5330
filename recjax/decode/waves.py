"""Waves of requests: many histories with their own sub-catalogues, exclusions and numbers of beams, ranked together."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from recjax.data.histories import Reader, Row
from recjax.data.requests import (
  Answer,
  History,
  Recommendation,
  Request,
  check,
  ids,
  is_collection,
  is_count,
)
from recjax.decode.loaded import Loaded
from recjax.decode.masks import Mask, contains, unpacked
from recjax.decode.ranker import Ranker

_MANY = 128  # histories that are scored with few compiled shapes
_LOST = 'no item is within the beams, of which items of the history take all: ask for more beams'
_LONG = 128  # excluded items of a request that become a mask


class Parsed(NamedTuple):
  """A request by item indices.

  Attributes:
    place: its number in the wave.
    request: the request.
    row: its history.
    excluded: int32, the distinct items of `exclude`; none if they are left out of `mask` instead.
    mask: the items of `within`. None: all.
    excludes: whether items of the catalogue are excluded.
    candidates: int32, the items of `candidates`. None: the search finds items.
  """

  place: int
  request: Request
  row: Row
  excluded: np.ndarray
  mask: Mask | None
  candidates: np.ndarray | None
  excludes: bool


class Waves:
  """Answers requests with one model and one catalogue.

  Attributes:
    beams: beams of a request that names none.
    catalogue: the catalogue.
    reader: looks items up.
  """

  def __init__(self, rankers: dict[int, Ranker], beams: int, params: Any, loaded: Loaded):
    """Wraps a catalogue and the model.

    Args:
      rankers: by their number of beams; further ones are added when a request asks for them.
      beams: beams of a request that names none, one of those of `rankers`.
      params: parameters on the mesh.
      loaded: the catalogue on the devices.
    """
    self.beams, self.catalogue = beams, loaded.catalogue
    self._rankers, self._params, self._loaded = rankers, params, loaded
    self._columns = rankers[beams].columns
    self.reader = Reader(loaded.catalogue.dataset, self._columns)

  def with_catalogue(self, loaded: Loaded) -> 'Waves':
    """Returns the same with another catalogue."""
    return Waves(self._rankers, self.beams, self._params, loaded)

  def answers(
    self,
    requests: Sequence[Request],
    places: Sequence[str],
    popular: bool = False,
    raises: bool = True,
    few_shapes: bool = True,
    size: int = 1,
  ) -> list[Answer]:
    """Answers requests; see `recjax.recommend.Recommender.answer`.

    Args:
      requests: the requests.
      places: name them in messages.
      popular: whether an empty history gets the most popular items.
      raises: whether a wrong request raises a ValueError.
      few_shapes: see `Ranker.rank`.
      size: histories that a search, or the scoring of candidates, is padded to.
    """
    answers: list[Answer] = [Answer()] * len(requests)
    by_beams: dict[int, list[Parsed]] = {}
    given: list[Parsed] = []
    shared: dict[Any, Any] = {}
    for n, (request, place) in enumerate(zip(requests, places, strict=True)):
      try:
        parsed = self.parsed(n, request, place, shared)
      except ValueError as error:
        if raises:
          raise
        answers[n] = Answer(error=str(error))
        continue
      answers[n] = Answer(unknown=list(map(str, parsed.row.unknown)))
      if parsed.candidates is not None:
        given.append(parsed)
      elif popular and not len(parsed.row.items):
        answers[n] = dataclasses.replace(answers[n], **self._popular(parsed))
      else:
        by_beams.setdefault(request.beams or self.beams, []).append(parsed)
    found = [
      pair
      for beams, wave in by_beams.items()
      for pair in self._found(beams, wave, few_shapes, size)
    ]
    for parsed, recommendations in [*found, *self._chosen(given, size)]:
      is_lost = (
        not recommendations and parsed.candidates is None and _size(*self._masks_left([parsed])) > 0
      )
      answers[parsed.place] = dataclasses.replace(
        answers[parsed.place],
        recommendations=recommendations,
        note=_LOST if is_lost else None,
      )
    return answers

  def parsed(self, n: int, request: Request, place: str, shared: dict[Any, Any]) -> Parsed:
    """Checks a request and looks its items up.

    Args:
      n: number of the request in its wave.
      request: the request.
      place: names it in messages.
      shared: what earlier requests of the wave looked up, by name and identity of the argument.

    Raises:
      ValueError: an argument is out of range, or an item of the history or a candidate is unknown.
    """
    beams, k, candidates = request.beams, request.k, request.candidates
    check(beams is None or is_count(beams), 'beams must be a positive number', beams)
    if candidates is None:
      most, of = (beams, 'argument beams') if beams else (self.beams, 'argument beams of load')
      check(
        is_count(k) and k <= most, f'k must be from 1 to {most}, the beams of the search ({of})', k
      )
    check(is_count(k), 'k must be a positive number', k)
    check(
      request.unknown in ('error', 'skip'), "unknown must be 'error' or 'skip'", request.unknown
    )

    def once(name: str, look_up: Callable[[Any], Any]) -> Any:
      value = getattr(request, name)
      if value is not None and (name, id(value)) not in shared:
        shared[name, id(value)] = look_up(value)
      return shared.get((name, id(value)))

    excluded = once('exclude', lambda x: np.unique(self.reader.known(ids(x, 'exclude'))))
    mask = once('within', self.catalogue.masks.mask)
    excludes = bool(len(excluded))
    if len(excluded) > _LONG:  # in the mask the items need no place in every row
      mask, excluded = self._without(mask, excluded, shared), excluded[:0]
    elif len(excluded) and ('left', id(mask), id(excluded)) not in shared:
      self.catalogue.masks.check_left(mask, excluded)
      shared['left', id(mask), id(excluded)] = True
    row = self._row(request.history, place, request.unknown == 'skip')
    if candidates is not None:
      candidates = self.reader.indices(ids(candidates, 'candidates'), f'{place}: candidates')
    return Parsed(n, request, row, excluded, mask, candidates, excludes)

  def _without(self, mask: Mask | None, excluded: np.ndarray, shared: dict[Any, Any]) -> Mask:
    """Returns a mask without excluded items; see `parsed` for `shared`."""
    key = ('without', id(mask), id(excluded))
    if key not in shared:
      shared[key] = (self.catalogue.masks.without(mask, excluded), mask, excluded)
    return shared[key][0]

  def _found(
    self, beams: int, wave: Sequence[Parsed], few_shapes: bool, size: int
  ) -> Iterator[tuple[Parsed, list[Recommendation]]]:
    """Yields the requests of a wave with the items that the search finds."""
    items_UM, scores_UM = self._ranked(beams, wave, few_shapes and max(len(wave), size))
    for parsed, items, scores in zip(wave, items_UM, scores_UM, strict=True):
      k = parsed.request.k
      yield parsed, self.recommendations(items[:k], scores[:k])

  def _chosen(
    self, wave: Sequence[Parsed], size: int
  ) -> Iterator[tuple[Parsed, list[Recommendation]]]:
    """Yields the requests of a wave that name candidates, with the best of these."""
    lists, padded = [], [*wave, *wave[:1] * (size - len(wave))]
    for parsed in padded:
      items = np.array(list(dict.fromkeys(parsed.candidates.tolist())), np.int32)
      is_open = ~np.isin(items, parsed.excluded)
      if parsed.mask is not None:
        is_open &= contains(parsed.mask.bits_W, items)
      lists.append(items[is_open])
    scores = self._given(lists, [parsed.row for parsed in padded], True) if wave else []
    for parsed, items, scores_N in zip(wave, lists, scores, strict=False):  # without the padding
      order = np.argsort(-scores_N, kind='stable')[: parsed.request.k]
      yield parsed, self.recommendations(items[order], scores_N[order])

  def _popular(self, parsed: Parsed) -> dict[str, Any]:
    """Returns the answer to an empty history: the items with the most training interactions.

    The score is the logarithm of an item's share of them, with one added to every count.
    """
    counts_I = self.catalogue.popularity_I + 1.0
    total = counts_I.sum()
    counts_I[parsed.excluded] = 0
    if parsed.mask is not None:
      counts_I *= unpacked(parsed.mask.bits_W, len(counts_I))
    items = np.argsort(-counts_I, kind='stable')[: parsed.request.k]
    items = items[counts_I[items] > 0]
    of = '' if parsed.mask is None else ' of the sub-catalogue'
    note = f'the history is empty: these are the most popular items{of}'
    scores = np.log(counts_I[items] / total)
    return {'recommendations': self.recommendations(items, scores), 'note': note}

  def ranker(self, beams: int) -> Ranker:
    """Returns the ranker with a number of beams."""
    if beams not in self._rankers:
      self._rankers[beams] = self._rankers[self.beams].with_beams(beams)
    return self._rankers[beams]

  def scores(
    self,
    histories: Sequence[History],
    candidates: Sequence[Collection[str]],
    unknown: str,
    first: int | None,
  ) -> list[list[float]]:
    """Returns the scores of the candidates of every history; `first` is its number for messages, None: the only one."""
    places = (
      ['the history'] if first is None else [f'history {first + n}' for n in range(len(histories))]
    )
    rows = [self._row(*pair, unknown == 'skip') for pair in zip(histories, places, strict=True)]
    shared = {id(each): each for each in candidates}
    self.reader.indices((item for each in shared.values() for item in each), 'candidates', 'item')
    found = {key: self.reader.indices(each, 'candidates') for key, each in shared.items()}
    scores = self._given([found[id(each)] for each in candidates], rows, len(rows) < _MANY)
    return [each.tolist() for each in scores]

  def _given(
    self, items: Sequence[np.ndarray], rows: Sequence[Row], few_shapes: bool
  ) -> list[np.ndarray]:
    """Returns the scores of the items of every row."""
    items_UN = np.full((len(items), max(map(len, items))), -1, np.int32)
    for u, each in enumerate(items):
      items_UN[u, : len(each)] = each
    histories, known = [row.items for row in rows], [row.known for row in rows]
    ranker = self.ranker(self.beams)
    scores_UN = ranker.given(self._params, histories, items_UN, known, few_shapes, self._loaded)
    return [scores[: len(each)] for scores, each in zip(scores_UN, items, strict=True)]

  def _row(self, history: Any, place: str, skip_unknown: bool) -> Row:
    fields = dict(history) if isinstance(history, Mapping) else {'history': history}
    if 'history' not in fields:
      found = sorted(map(str, fields))
      raise ValueError(f'{place}: a mapping must have the key history; got {found}')
    for name in ('history', *self._columns):
      if name in fields:
        must = f'{place}: {name} must be a list'
        if name == 'history':
          must = 'a history must be a list of item ids, oldest first'
        is_ordered = is_collection(fields[name]) and not isinstance(fields[name], set | frozenset)
        check(is_ordered, must, fields[name])
        fields[name] = list(fields[name])
    return self.reader.row(
      fields, place, skip_unknown, "Set unknown='skip' to leave such items out"
    )

  def rank(
    self, beams: int, rows: Sequence[Row], asked: Parsed, progress: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Ranks many rows for the arguments of one request; see `Ranker.rank`."""
    return self._ranked(beams, [asked._replace(row=row) for row in rows], progress=progress)

  def _ranked(
    self, beams: int, wave: Sequence[Parsed], few_shapes: int = False, progress: str | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns items and scores for every request of a wave; see `Ranker.rank`.

    The search finds hidden items too, and drops them at its end. A request with exclusions that gets fewer than `k`
    items in this way, while more are left, is searched again with a mask without hidden items, so that every beam leads
    to an item that is left.
    """
    ranker, loaded = self.ranker(beams), self._loaded

    def rank(wave, masks, few_shapes, progress=None):
      rows, hides = [parsed.row for parsed in wave], [parsed.excluded for parsed in wave]
      histories, known = [row.items for row in rows], [row.known for row in rows]
      is_masked = any(mask is not None for mask in masks)
      options = (few_shapes, masks if is_masked else None, loaded)
      return ranker.rank(self._params, histories, progress, known, hides, *options)

    masks = [parsed.mask for parsed in wave]
    items_UM, scores_UM = rank(wave, masks, few_shapes, progress)
    short = self._short(wave, (items_UM >= 0).sum(axis=1))
    if not short:
      return items_UM, scores_UM
    # Without `few_shapes` the searches have one further program, for as many rows as masks go together.
    size = len(wave) if few_shapes else 1 << (loaded.slots.most.bit_length() - 1)
    found, chosen = (items_UM.copy(), scores_UM.copy()), list(short)
    for first in range(0, len(chosen), size):
      at = chosen[first : first + size]
      again = rank([wave[u] for u in at], [short[u] for u in at], few_shapes or size)
      for all_UM, of_BM in zip(found, again, strict=True):
        all_UM[at] = of_BM
    return found

  def _short(self, wave: Sequence[Parsed], counts_U: np.ndarray) -> dict[int, Mask]:
    """Returns the requests with exclusions that got fewer items than they want and are left, with the mask of these.

    Args:
      wave: the requests.
      counts_U: the number of items that each of them got.
    """
    few = [u for u, each in enumerate(wave) if each.excludes and counts_U[u] < each.request.k]
    masks = self._masks_left([wave[u] for u in few])
    return {u: mask for u, mask in zip(few, masks, strict=True) if _size(mask) > counts_U[u]}

  def _masks_left(self, wave: Sequence[Parsed]) -> list[Mask]:
    """Returns the items that each request leaves, without those that are hidden."""
    rows, excluded = [parsed.row for parsed in wave], [parsed.excluded for parsed in wave]
    histories, known = [row.items for row in rows], [row.known for row in rows]
    hidden = self.ranker(self.beams).hidden(histories, known, excluded, self._loaded)
    _, masks = self.catalogue.masks.moved(hidden, [parsed.mask for parsed in wave], 0)
    return [mask or self.catalogue.masks.all for mask in masks]

  def recommendations(self, items: np.ndarray, scores: np.ndarray) -> list[Recommendation]:
    """Returns items with their titles, without the padding -1."""
    return [
      Recommendation(
        self.catalogue.items[i]['id'], self.catalogue.items[i].get('title'), float(score)
      )
      for i, score in zip(items, scores, strict=True)
      if i >= 0
    ]


def _size(mask: Mask) -> int:
  """Returns the number of items in a mask."""
  return int(np.bitwise_count(mask.bits_W).sum())
