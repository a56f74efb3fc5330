"""The recommender as the service uses it: waves, explanations, versions of the catalogue.

`answer`, `warm`, `take` and `roll_back` run in one thread, that of the search; `load` runs beside it.
"""

from collections.abc import Sequence
import os
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from recjax.data.dataset import Dataset
from recjax.data.requests import Answer, Recommendation, Request
from recjax.decode.catalogue import Catalogue
from recjax.decode.masks import contains
from recjax.decode.prompt_store import Counts
from recjax.decode.waves import Waves
from recjax.recommend import Recommender
from recjax.serve.one_hop import OneHop
from recjax.serve.view import View
from recjax.serve.wire import Limits, Query, Refused

_KEYWORDS = 3  # of a code, in an explanation
_NAMED = 20  # unknown items that a message names; the answer lists all
_SHOWN = 80  # characters of their ids
_IDS = 10_000  # ids of a history, of `exclude` or of `within`
_CANDIDATES = 256
_NONE = 'no item is left: the history, within, exclude and candidates leave none'


class Loaded(NamedTuple):
  """A catalogue that the engine may take without a delay."""

  waves: Waves
  view: View


class Engine:
  """Answers queries with a recommender.

  Attributes:
    view: the version of the catalogue that is used.
    beams: numbers of beams that a request may choose, of which the first is the default.
    prompts: the prompts that are kept between requests. None: none are.
  """

  def __init__(
    self,
    recommender: Recommender,
    dataset: Dataset,
    max_wave: int,
    most: int,
    beams: Sequence[int] = (),
    masks: epath.PathLike | None = None,
    warms: bool = False,
    keep_prompts: int = 0,
  ):
    """Builds the indices of titles and of successors.

    Args:
      recommender: answers; its beams are the default.
      dataset: the data of the run.
      max_wave: beam rows of a wave.
      most: requests of a wave: those of one batch of the search.
      beams: other numbers of beams that a request may choose.
      masks: folder of the masks of the recommender; later catalogues read it again.
      warms: whether `warm` compiles programs for small waves and short prompts too, which waves then use.
      keep_prompts: bytes for kept prompts; see `Recommender.keep_prompts`. 0: none are kept.

    Raises:
      ValueError: prompts cannot be kept, or the bytes do not hold those of a wave.
    """
    self._recommender, self._masks = recommender, masks
    self.beams = tuple(dict.fromkeys((recommender.beams, *beams)))
    self._max_wave, self._most, self._warms = max_wave, most, warms
    self.prompts = recommender.keep_prompts(keep_prompts) if keep_prompts else None
    if self.prompts is not None:
      self._check_prompts(keep_prompts)
    self._candidates = min(_CANDIDATES, dataset.num_items)
    self._one_hop = OneHop(dataset)
    words = dataset.keywords or []
    self._keywords = {entry['token']: entry['keywords'][:_KEYWORDS] for entry in words}
    self.view, self._earlier = View(recommender.catalogue, self._keywords), None

  def _check_prompts(self, limit: int) -> None:
    wave, slots = max(map(self.size, self.beams)), self.prompts.slots
    if slots < wave:
      need = (wave + 1) * self.prompts.num_bytes // (slots + 1)
      raise ValueError(
        f'--keep_prompts must hold the prompts of one wave, {wave} requests: at least {need:,} bytes; got {limit:,}'
      )

  def load(self, folder: str, masks: str | None = None) -> Loaded:
    """Reads a prepared folder and puts its catalogue on the devices; the service answers in the meantime.

    Args:
      folder: the prepared folder.
      masks: folder of its masks. None: that of the start, which is read again.

    Raises:
      OSError, ValueError: it is no catalogue for the running search; see `recjax.decode.catalogue`.
    """
    catalogue = Catalogue.load(os.path.expanduser(folder), masks or self._masks)
    return Loaded(self._recommender.loaded(catalogue), View(catalogue, self._keywords))

  def take(self, loaded: Loaded) -> None:
    """Answers from a loaded catalogue from now on."""
    self._recommender.swap(loaded.waves)
    self._earlier, self.view = self.view, loaded.view

  def roll_back(self) -> None:
    """Answers from the earlier catalogue again.

    Raises:
      ValueError: there is none.
    """
    if self._earlier is None:
      raise ValueError('roll_back needs an earlier catalogue; none was swapped since the start')
    self._recommender.roll_back()
    self._earlier, self.view = self.view, self._earlier

  def limits(self, requests: int) -> Limits:
    """Returns what a request may ask for in a call of at most `requests`."""
    return Limits(self.beams, requests, _IDS, self._candidates, self.view.size)

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
    """Compiles the waves: one shape for every number of beams, or several, and one for candidates."""
    for beams in self.beams:
      rows = self.size(beams)
      if self._warms:
        self._recommender.warm(rows, beams=beams)
      else:
        self._recommender.compile(rows, beams)
    self.answer([Query(self._padding(), 0)])
    if self.prompts is not None:
      self.prompts.counts = Counts()  # of requests alone

  def _padding(self) -> Request:
    """Returns a request with as many candidates as one may have."""
    items = self.view.catalogue.items[: self._candidates]
    ids = [item['id'] for item in items]
    return Request(history=ids[:1], candidates=ids)

  def answer(self, queries: Sequence[Query]) -> list[dict[str, Any] | Refused]:
    """Answers one wave with one version of the catalogue.

    Args:
      queries: at most `size` of them, all with the same number of beams.

    Returns:
      For every query the fields of its JSON answer, or why it is refused.
    """
    requests = [query.request for query in queries]
    size = self.size(queries[0].beams)
    if not queries[0].beams:  # the shape of the wave is that of its longest list
      requests.append(self._padding())
      size += 1
    elif self._warms:
      size = 1
    answers = self._recommender.answer(requests, popular=True, raises=False, size=size)
    answers = answers[: len(queries)]
    return [self._result(n, *pair) for n, pair in enumerate(zip(queries, answers, strict=True))]

  def _result(self, n: int, query: Query, answer: Answer) -> dict[str, Any] | Refused:
    if answer.error:
      return Refused(400, query.place + answer.error.removeprefix(f'request {n}: '))
    if answer.unknown and not query.skips_unknown:
      named = ', '.join(f'{id[:_SHOWN]!r}' for id in answer.unknown[:_NAMED])
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
    elif not answer.recommendations:
      fields['note'] = _NONE
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
      shown['sid'] = self.view.path(each.item)
    catalogue = self.view.catalogue
    history = request.history['history'] if isinstance(request.history, dict) else request.history
    hidden = {str(id) for id in request.exclude}
    counted = self._one_hop.recommend([str(id) for id in history], self.view.size, hidden)
    places = [catalogue.index[id] for id in counted if id in catalogue.index]
    items = np.array(places, np.int64)
    if request.within is not None:
      items = items[contains(catalogue.masks.mask(request.within).bits_W, items)]
    fields['one_hop'] = [self.view.named(item) for item in items[: request.k].tolist()]

  def describe(self) -> dict[str, Any]:
    """Returns the version and the size of the catalogue, and what a request may choose."""
    view, earlier = self.view, self._earlier
    return {
      'catalogue': view.version,
      'items': view.size,
      'masks': list(view.catalogue.masks.names),
      'earlier': None if earlier is None else earlier.version,
      'beams': list(self.beams),
      'waves': {str(beams): self.size(beams) for beams in self.beams},
      'columns': list(self._recommender.columns),
      'step': self._recommender.step,
    }
