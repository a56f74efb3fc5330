"""Recommends items for histories of raw item ids, with the best checkpoint of a run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Recommendation(NamedTuple):
  """A recommended item.

  Attributes:
    item: its id in the log.
    title: its title; None: the item table has none.
    score: log-probability of its semantic ID; where candidates have several scores, their weighted sum.
  """

  item: str
  title: str | None
  score: float


# Item ids, oldest first; or a mapping with `history` and optionally `times` (seconds since 1970) and `events`.
History = Sequence[str] | Mapping[str, Any]


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
    self, histories: History, k: int = 10, exclude: Iterable[str] = (), unknown: str = 'error'
  ) -> list[Recommendation]: ...

  @overload
  def recommend(
    self,
    histories: Sequence[History],
    k: int = 10,
    exclude: Iterable[str] = (),
    unknown: str = 'error',
  ) -> list[list[Recommendation]]: ...

  def recommend(self, histories, k=10, exclude=(), unknown='error'):
    """Recommends items for one history or for several.

    Args:
      histories: item ids, oldest first, or a mapping with the list `history` and, for a model that reads them
        (`columns`), `times` and `events`; or a sequence of such histories. Items of a history are not recommended
        (unless the run sets `eval.exclude_seen` to False). For an empty history the model ranks without any.
      k: items per history, at most `beams`. Fewer are returned if the catalogue or the beams have no more.
      exclude: ids of items that are not recommended; ids that are not in the catalogue have no effect.
      unknown: 'error', or 'skip' to leave out items of a history that are not in the catalogue.

    Returns:
      The items, best first; for a sequence of histories a list of such lists in its order.

    Raises:
      ValueError: an item of a history is unknown, or an argument is out of range.
    """
    rule = f'k must be from 1 to {self.beams}, the beams of the search (argument beams of load)'
    _check(_is_count(k) and k <= self.beams, rule, k)
    _check(unknown in ('error', 'skip'), "unknown must be 'error' or 'skip'", unknown)
    _check(not isinstance(exclude, str), 'exclude must be a collection of ids', exclude)
    is_one, rows = self._rows(histories, unknown == 'skip')
    items_UM, scores_UM = self._ranker.rank(
      self._params,
      [row.items for row in rows],
      known=[row.known for row in rows],
      excluded=self._reader.known(exclude),
      few_shapes=True,
    )
    found = [
      self._recommendations(items[:k], scores[:k])
      for items, scores in zip(items_UM, scores_UM, strict=True)
    ]
    return found[0] if is_one else found

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

  def _rows(self, histories: Any, skip_unknown: bool) -> tuple[bool, list[Row]]:
    """Returns whether one history was given, and the histories as indices."""
    _check(
      not isinstance(histories, str | bytes), 'a history must be a list of item ids', histories
    )
    if isinstance(histories, Mapping):
      return True, [self._row(histories, 'the history', skip_unknown)]
    _check(isinstance(histories, Iterable), 'a history must be a list of item ids', histories)
    histories = list(histories)
    nested = [not isinstance(each, str | int | np.integer) for each in histories]
    if not any(nested):
      return True, [self._row(histories, 'the history', skip_unknown)]
    _check(all(nested), 'histories must be item ids or lists of item ids, not both', histories)
    rows = [self._row(h, f'history {n}', skip_unknown) for n, h in enumerate(histories)]
    return False, rows

  def _row(self, history: Any, place: str, skip_unknown: bool) -> Row:
    fields = dict(history) if isinstance(history, Mapping) else {'history': history}
    if 'history' not in fields:
      raise ValueError(f'{place}: a mapping must have the key history; got {sorted(fields)}')
    columns = ('history', *self.columns)
    fields |= {name: list(fields[name]) for name in columns if name in fields}
    return self._reader.row(
      fields, place, skip_unknown, "Set unknown='skip' to leave such items out"
    )

  def _recommendations(self, items: np.ndarray, scores: np.ndarray) -> list[Recommendation]:
    return [
      Recommendation(self._items[i]['id'], self._items[i].get('title'), float(score))
      for i, score in zip(items, scores, strict=True)
      if i >= 0
    ]


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
