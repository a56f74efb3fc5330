"""Recommends items for histories of raw item ids, with the best checkpoint of a run."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import logging
import os
from typing import Any, NamedTuple, overload

from etils import epath
import jax
import numpy as np

from recjax import config as config_lib
from recjax import models
from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.data.histories import Reader, Row, read_histories
from recjax.data.requests import Answer as Answer
from recjax.data.requests import History as History
from recjax.data.requests import Recommendation as Recommendation
from recjax.data.requests import Request as Request
from recjax.data.requests import Within as Within
from recjax.decode.ranker import Ranker
from recjax.runtime import device, distributed
from recjax.runtime.files import replacing
from recjax.sharding import mesh as mesh_lib
from recjax.training.start import best_params as best_params
from recjax.workdir import checkpoint_name, identity, paths, weights

log = logging.getLogger(__name__)


def make_ranker(
  config: Config, dataset: Dataset, mesh: jax.sharding.Mesh, beams: int | None = None
) -> Ranker:
  """Returns the ranker of a run; `beams` is `eval.beams` by default.

  Raises:
    ValueError: see `config.next_item_component`.
  """
  component = config_lib.next_item_component(config)
  return Ranker(component, config.model, config.eval, config.hosts, dataset, mesh, beams)


def best_ranker(
  config: Config,
  workdir: epath.Path,
  dataset: Dataset,
  mesh: jax.sharding.Mesh,
  beams: int | None = None,
) -> tuple[Ranker, Any, int]:
  """Returns the ranker of the best checkpoint with the weights of its scores, its parameters, and its step.

  Raises:
    ValueError: see `make_ranker`, `best_params` and `workdir.weights.recorded`.
  """
  params, step = best_params(config, workdir, dataset, mesh)
  ranker = make_ranker(config, dataset, mesh, beams)
  ranker.weights = weights.recorded(config, workdir, step)
  return ranker, params, step


class _Parsed(NamedTuple):
  """A request by item indices."""

  place: int
  request: Request
  row: Row
  excluded: np.ndarray


class Recommender:
  """Recommends items for histories of raw item ids, with the best checkpoint of a run.

  Attributes:
    beams: items that the search finds for a history, the largest `k`.
    columns: the columns beside `history` that the model reads: `events`, `times`, both or none.
    step: training step of the checkpoint.
  """

  def __init__(self, ranker: Ranker, dataset: Dataset, params: Any, step: int):
    """Wraps a ranker and its parameters; see `from_workdir` for a run."""
    self.beams, self.columns, self.step = ranker.beams, ranker.columns, step
    self._ranker, self._params, self._items = ranker, params, dataset.items
    self._rankers = {ranker.beams: ranker}
    self._popularity_I = np.bincount(dataset.train.values, minlength=dataset.num_items)
    self._reader = Reader(dataset, ranker.columns)

  @classmethod
  def from_workdir(
    cls,
    workdir: epath.PathLike,
    beams: int | None = None,
    prepared_dir: epath.PathLike | None = None,
  ) -> 'Recommender':
    """Loads the best checkpoint of a run on the devices of this process, and compiles the search for one history.

    Args:
      workdir: the workdir.
      beams: items that the search finds for a history. None: `eval.beams` of the run.
      prepared_dir: folder of the prepared data. None: where the run found them.

    Raises:
      OSError, ValueError: the folder is no workdir, it has no undamaged checkpoint, or the data are missing or do
        not fit.
    """
    workdir = epath.Path(workdir).expanduser()
    _check(beams is None or _is_count(beams), 'beams must be a positive number', beams)
    with _as_arguments():
      config = identity.required_config(workdir)
      if prepared_dir is not None:
        data = dataclasses.replace(config.data, prepared_dir=os.fspath(prepared_dir))
        config = dataclasses.replace(config, data=data)
      device.set_library_cache(workdir)
      config = checkpoint_name.resolved(config, workdir)
      dataset = Dataset.load(paths.prepared_data(config, workdir))
      config = dataclasses.replace(config, model=models.without_source(config.model, workdir))
      mesh = mesh_lib.make_mesh(mesh_lib.fitted(config.mesh, jax.device_count()))
      ranker, params, step = best_ranker(config, workdir, dataset, mesh, beams)
      recommender = cls(ranker, dataset, params, step)
    recommender.recommend([])  # compiles
    return recommender

  @overload
  def recommend(
    self,
    histories: History,
    k: int = 10,
    within: Within | None = None,
    exclude: Collection[str] = (),
    beams: int | None = None,
    unknown: str = 'error',
  ) -> list[Recommendation]: ...

  @overload
  def recommend(
    self,
    histories: Sequence[History],
    k: int = 10,
    within: Within | None = None,
    exclude: Collection[str] = (),
    beams: int | None = None,
    unknown: str = 'error',
  ) -> list[list[Recommendation]]: ...

  def recommend(self, histories, k=10, within=None, exclude=(), beams=None, unknown='error'):
    """Recommends items for one history or for several.

    Args:
      histories: item ids, oldest first, or a mapping with the list `history` and, for a model that reads them
        (`columns`), `times` and `events`; or a sequence of such histories. Items of a history are not recommended
        (unless the run sets `eval.exclude_seen` to False). For an empty history the model ranks without any.
      k: items per history, at most the beams. Fewer are returned if the catalogue or the beams have no more.
      within, exclude, beams, unknown: see `Request`.

    Returns:
      The items, best first; for a sequence of histories a list of such lists in its order.

    Raises:
      ValueError: an item of a history is unknown, or an argument is out of range.
    """
    is_one, histories = _listed(histories)
    shared = {
      'k': k, 'within': within, 'exclude': _ids(exclude), 'beams': beams, 'unknown': unknown
    }  # fmt: skip
    requests = [Request(history=history, **shared) for history in histories]
    places = ['the history'] if is_one else [f'history {n}' for n in range(len(requests))]
    found = [answer.recommendations for answer in self._answers(requests, places)]
    return found[0] if is_one else found

  def answer(
    self,
    requests: Sequence[Request],
    popular: bool = False,
    raises: bool = True,
    size: int = 1,
  ) -> list[Answer]:
    """Answers a wave of requests; a wave of a size that occurred before compiles nothing.

    Args:
      requests: each with its own `k`, `within`, `exclude`, `candidates` and `beams`.
      popular: whether an empty history gets the most popular items, with a note. False: the model ranks without one.
      size: a power of two; the search is padded to so many histories, so that all waves of at most so many have one
        shape, and an answer does not depend on the others of its wave, to the last bit.
      raises: False gives a request that is wrong an answer with `error`; the others are answered.

    Raises:
      ValueError: a request is wrong, and `raises` is set.
    """
    places = [f'request {n}' for n in range(len(requests))]
    return self._answers(requests, places, popular, raises, size)

  def _answers(
    self,
    requests: Sequence[Request],
    places: Sequence[str],
    popular: bool = False,
    raises: bool = True,
    size: int = 1,
  ) -> list[Answer]:
    """Answers requests; `places` name them in messages."""
    answers: list[Answer] = [Answer()] * len(requests)
    by_beams: dict[int, list[_Parsed]] = {}
    excluded: dict[int, np.ndarray] = {}  # of every collection once
    for n, (request, place) in enumerate(zip(requests, places, strict=True)):
      try:
        parsed = self._parsed(n, request, place, excluded)
      except ValueError as error:
        if raises:
          raise
        answers[n] = Answer(error=str(error))
        continue
      unknown = parsed.row.fields.get('unknown', [])
      answers[n] = Answer(unknown=unknown)
      if popular and not len(parsed.row.items) and request.candidates is None:
        answers[n] = dataclasses.replace(answers[n], **self._popular(parsed))
      else:
        by_beams.setdefault(request.beams or self.beams, []).append(parsed)
    for beams, wave in by_beams.items():
      padded = wave + [wave[0]] * (size - len(wave))
      items_UM, scores_UM = self._of_beams(beams).rank(
        self._params,
        [parsed.row.items for parsed in padded],
        known=[parsed.row.known for parsed in padded],
        excluded=[parsed.excluded for parsed in padded],
        few_shapes=True,
      )
      for parsed, items, scores in zip(wave, items_UM, scores_UM, strict=False):
        n, k = parsed.place, parsed.request.k
        found = self._recommendations(items[:k], scores[:k])
        answers[n] = dataclasses.replace(answers[n], recommendations=found)
    return answers

  def _parsed(
    self, n: int, request: Request, place: str, excluded: dict[int, np.ndarray]
  ) -> _Parsed:
    """Checks a request and looks its items up.

    Raises:
      ValueError: an argument is out of range, or an item of the history is unknown.
    """
    beams, k = request.beams, request.k
    _check(beams is None or _is_count(beams), 'beams must be a positive number', beams)
    most, of = (beams, 'argument beams') if beams else (self.beams, 'argument beams of load')
    _check(
      _is_count(k) and k <= most, f'k must be from 1 to {most}, the beams of the search ({of})', k
    )
    _check(
      request.unknown in ('error', 'skip'), "unknown must be 'error' or 'skip'", request.unknown
    )
    _check(request.within is None, 'within must be None: sub-catalogues come later', request.within)
    _check(
      request.candidates is None, 'candidates must be None: they come later', request.candidates
    )
    exclude = _ids(request.exclude)
    if id(exclude) not in excluded:
      excluded[id(exclude)] = self._reader.known(exclude)
    row = self._row(request.history, place, request.unknown == 'skip')
    return _Parsed(n, request, row, excluded[id(exclude)])

  def _popular(self, parsed: _Parsed) -> dict[str, Any]:
    """Returns the answer to an empty history: the items with the most training interactions.

    The score is the logarithm of an item's share of them, with one added to every count.
    """
    counts_I = self._popularity_I + 1.0
    counts_I[parsed.excluded] = 0
    items = np.argsort(-counts_I, kind='stable')[: parsed.request.k]
    items = items[counts_I[items] > 0]
    scores = np.log(counts_I[items] / (self._popularity_I + 1.0).sum())
    note = 'the history is empty: these are the most popular items'
    return {'recommendations': self._recommendations(items, scores), 'note': note}

  def _of_beams(self, beams: int) -> Ranker:
    if beams not in self._rankers:
      self._rankers[beams] = self._ranker.with_beams(beams)
    return self._rankers[beams]

  def recommend_file(
    self, histories: epath.PathLike, out: epath.PathLike, k: int, skip_unknown: bool = False
  ) -> None:
    """Recommends items for every line of a file and writes the lines with `recommendations`.

    Args:
      histories: path of the file; see `recjax.data.histories` for its format.
      out: file that is written atomically; its folder is created.
      k: items per history.
      skip_unknown: leave out items of a history that are not in the catalogue.

    Raises:
      OSError: the file of histories does not exist.
      ValueError: a line of it is not a history.
    """
    rows = read_histories(histories, self._reader, skip_unknown)
    unknown = [len(row.fields['unknown']) for row in rows if 'unknown' in row.fields]
    if unknown:
      log.warning(
        'left out %d items of %d histories: they are not in the catalogue',
        *(sum(unknown), len(unknown)),
      )
    items_UM, scores_UM = self._ranker.rank(
      self._params, [row.items for row in rows], 'recommend', [row.known for row in rows]
    )
    if not distributed.is_host0():
      return
    out = epath.Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as f:
      for row, items, scores in zip(rows, items_UM[:, :k], scores_UM[:, :k], strict=True):
        found = [each._asdict() for each in self._recommendations(items, scores)]
        f.write(json.dumps(row.fields | {'recommendations': found}) + '\n')
    log.info('%d histories -> %s', len(rows), out)

  def _row(self, history: Any, place: str, skip_unknown: bool) -> Row:
    fields = dict(history) if isinstance(history, Mapping) else {'history': history}
    if 'history' not in fields:
      raise ValueError(
        f'{place}: a mapping must have the key history; got {sorted(map(str, fields))}'
      )
    for name in ('history', *self.columns):
      if name in fields:
        must = (
          'a history must be a list of item ids'
          if name == 'history'
          else f'{place}: {name} must be a list'
        )
        _check(_is_collection(fields[name]), must, fields[name])
        fields[name] = list(fields[name])
    return self._reader.row(
      fields, place, skip_unknown, "Set unknown='skip' to leave such items out"
    )

  def _recommendations(self, items: np.ndarray, scores: np.ndarray) -> list[Recommendation]:
    return [
      Recommendation(self._items[i]['id'], self._items[i].get('title'), float(score))
      for i, score in zip(items, scores, strict=True)
      if i >= 0
    ]


def _listed(histories: Any) -> tuple[bool, list[Any]]:
  """Returns whether one history was given, and the histories."""
  if isinstance(histories, Mapping):
    return True, [histories]
  _check(_is_collection(histories), 'a history must be a list of item ids', histories)
  histories = list(histories)
  nested = [not isinstance(each, str | int | np.integer) for each in histories]
  if not any(nested):
    return True, [histories]
  _check(all(nested), 'histories must be item ids or lists of item ids, not both', histories)
  return False, histories


def _ids(exclude: Any) -> Collection[Any]:
  """Returns ids that may be read several times."""
  _check(_is_collection(exclude), 'exclude must be a collection of ids', exclude)
  return exclude if isinstance(exclude, Collection) else list(exclude)


def _is_collection(value: Any) -> bool:
  return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _check(condition: bool, must: str, got: Any) -> None:
  if not condition:
    raise ValueError(f'{must}; got {repr(got)[:80]}')


def _is_count(value: Any) -> bool:
  return isinstance(value, int | np.integer) and not isinstance(value, bool) and value > 0


# Text of a message of a command → the same for `load`.
_AS_ARGUMENTS = {
  'without --config, --workdir (with --mode=refresh: --from) must': 'workdir must',
  'Set --workdir to a run, or start one with --config, such as --config=recjax:table': 'Set workdir to a run',
  '--config.data.prepared_dir': 'prepared_dir',
  'Set --config.model.pretrained to the folder where it is now': 'Set model.pretrained in config.json of the workdir',
  ', or give a new --workdir': '',
  'Set --workdir': 'Set workdir',
}


@contextlib.contextmanager
def _as_arguments() -> Iterator[None]:
  """Names the arguments of `load` in the messages that commands have too."""
  try:
    yield
  except (ValueError, OSError) as error:
    text = str(error)
    for flag, argument in _AS_ARGUMENTS.items():
      text = text.replace(flag, argument)
    if text == str(error):
      raise
    raise type(error)(text) from error.__cause__
