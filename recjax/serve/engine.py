"""The recommender as the service uses it: waves, titles, SID paths, one-hop counting, versions of the catalogue.

`answer`, `warm`, `swap` and `roll_back` use the devices and run in one thread, that of the search. The others may run
in any thread.
"""

from collections.abc import Sequence
import dataclasses
import logging
from typing import Any

import numpy as np

from recjax.data.dataset import Dataset
from recjax.data.requests import Answer, Recommendation, Request
from recjax.decode.masks import contains
from recjax.recommend import Recommender
from recjax.runtime.files import digest
from recjax.serve.one_hop import OneHop
from recjax.serve.titles import Titles
from recjax.serve.wire import Limits, Query, Refused
from recjax.sids.token_space import sid_name

log = logging.getLogger(__name__)

_KEYWORDS = 3  # of a code, in an explanation
_NAMED = 20  # unknown items that a message names; the answer lists all
_IDS = 10_000  # ids of a history, of `exclude` or of `within`
_CANDIDATES = 256


@dataclasses.dataclass(frozen=True)
class View:
  """One version of the catalogue.

  Attributes:
    version: names it in answers.
    items: the items in index order: `id`, and optionally `title`.
    codes_IL: their semantic IDs.
    titles: finds items.
    masks: names of the sub-catalogues.
  """

  version: str
  items: Sequence[dict[str, Any]]
  codes_IL: np.ndarray
  titles: Titles
  masks: tuple[str, ...] = ()


class Engine:
  """Answers queries with a recommender.

  Attributes:
    view: the version of the catalogue that is used.
    beams: numbers of beams that a request may choose, of which the first is the default.
  """

  def __init__(
    self,
    recommender: Recommender,
    dataset: Dataset,
    max_wave: int,
    most: int,
    beams: Sequence[int] = (),
  ):
    """Builds the indices of titles and of successors.

    Args:
      recommender: answers; its beams are the default.
      dataset: the data of the run.
      max_wave: beam rows of a wave.
      most: requests of a wave: those of one batch of the search.
      beams: other numbers of beams that a request may choose.
    """
    self._recommender = recommender
    self.beams = tuple(dict.fromkeys((recommender.beams, *beams)))
    self._max_wave, self._most = max_wave, most
    self._candidates = min(_CANDIDATES, dataset.num_items)
    self._popularity_I = np.bincount(dataset.train.values, minlength=dataset.num_items)
    self._one_hop = OneHop(dataset)
    words = dataset.keywords or []
    self._keywords = {entry['token']: entry['keywords'][:_KEYWORDS] for entry in words}
    version = digest([dataset.files_digest(stage) for stage in ('interactions', 'sids')])[:12]
    titles = Titles(dataset.items, self._popularity_I)
    self._show(View(version, dataset.items, dataset.sids.codes_IL, titles, recommender.masks))

  def _show(self, view: View) -> None:
    self.view = view
    self._index = {item['id']: i for i, item in enumerate(view.items)}

  def limits(self, requests: int) -> Limits:
    """Returns what a request may ask for in a call of at most `requests`."""
    return Limits(self.beams, requests, _IDS, self._candidates, len(self.view.items))

  def size(self, beams: int) -> int:
    """Returns the requests of a wave: a power of two, to which it is padded.

    Args:
      beams: beams of its requests. 0: they name candidates; such a wave has room for one more, its padding.
    """
    if not beams:
      return max(1, self._power(self._candidates) - 1)
    return self._power(beams)

  def _power(self, rows: int) -> int:
    return 1 << max(0, min(self._max_wave // rows, self._most).bit_length() - 1)

  def warm(self) -> None:
    """Compiles the waves: one shape for every number of beams, and one for candidates."""
    history = [self.view.items[0]['id']]
    for beams in self.beams:
      chosen = None if beams == self._recommender.beams else beams
      self.answer([Query(Request(history=history, k=1, beams=chosen), beams)])
    self.answer([Query(self._padding(), 0)])

  def _padding(self) -> Request:
    """Returns a request with as many candidates as one may have."""
    ids = [item['id'] for item in self.view.items[: self._candidates]]
    return Request(history=ids[:1], candidates=ids)

  def answer(self, queries: Sequence[Query]) -> list[dict[str, Any] | Refused]:
    """Answers one wave with one version of the catalogue.

    Args:
      queries: at most `size` of them, all with the same number of beams.

    Returns:
      For every query the fields of its JSON answer, or why it is refused.
    """
    requests = [query.request for query in queries]
    beams = queries[0].beams
    if not beams:  # the shape of the wave is that of its longest list
      size = max(2, self._power(self._candidates))
      requests += [self._padding()] * (size - len(requests))
    size = self.size(beams)
    answers = self._recommender.answer(requests, popular=True, raises=False, size=size)
    answers = answers[: len(queries)]
    return [self._result(n, *pair) for n, pair in enumerate(zip(queries, answers, strict=True))]

  def _result(self, n: int, query: Query, answer: Answer) -> dict[str, Any] | Refused:
    if answer.error:
      return Refused(400, query.place + answer.error.removeprefix(f'request {n}: '))
    if answer.unknown and not query.skips_unknown:
      named = ', '.join(map(repr, answer.unknown[:_NAMED]))
      more = len(answer.unknown) - _NAMED
      return Refused(
        400,
        f'{query.place}every item of the history must be in the catalogue; {named}'
        f'{f" and {more} more" if more > 0 else ""} {"is" if len(answer.unknown) == 1 else "are"} not. '
        'Set "unknown": "skip" to leave such items out',
        unknown=answer.unknown,
      )
    fields: dict[str, Any] = {
      'recommendations': [each._asdict() for each in answer.recommendations]
    }
    if answer.note:
      fields['note'] = answer.note
    if answer.unknown:
      fields['unknown'] = answer.unknown
    fields['catalogue'] = self.view.version
    if query.explain:
      self._explain(fields, query.request, answer.recommendations)
    return fields

  def _explain(
    self, fields: dict[str, Any], request: Request, found: Sequence[Recommendation]
  ) -> None:
    """Adds the SID path of every item, and what one-hop counting recommends under the same mask."""
    for shown, each in zip(fields['recommendations'], found, strict=True):
      shown['sid'] = self._path(self._index[each.item])
    history = request.history['history'] if isinstance(request.history, dict) else request.history
    ids = [str(id) for id in history]
    hidden = {str(id) for id in request.exclude}
    counted = self._one_hop.recommend(ids, len(self.view.items), hidden)
    items = np.array([self._index[id] for id in counted if id in self._index], np.int64)
    if request.within is not None:
      items = items[contains(self._recommender.mask(request.within).bits_W, items)]
    fields['one_hop'] = [self._named(item) for item in items[: request.k].tolist()]

  def _path(self, item: int) -> list[dict[str, Any]]:
    """Returns the codes of an item, each with its keywords where the run has them."""
    names = [sid_name(level, code) for level, code in enumerate(self.view.codes_IL[item].tolist())]
    return [{'code': name, 'keywords': self._keywords.get(name, [])} for name in names]

  def _named(self, item: int) -> dict[str, Any]:
    fields = self.view.items[item]
    return {'item': fields['id'], 'title': fields.get('title')}

  def search(self, text: str, limit: int) -> list[dict[str, Any]]:
    """Returns items by words of their title or by id, the most popular first."""
    view = self.view
    found = view.titles.search(text, limit)
    return [{'item': view.items[i]['id'], 'title': view.items[i].get('title')} for i in found]

  def describe(self) -> dict[str, Any]:
    """Returns the version and the size of the catalogue, and what a request may choose."""
    view = self.view
    return {
      'catalogue': view.version,
      'items': len(view.items),
      'masks': list(view.masks),
      'beams': list(self.beams),
      'waves': {str(beams): self.size(beams) for beams in self.beams},
      'columns': list(self._recommender.columns),
      'step': self._recommender.step,
    }
