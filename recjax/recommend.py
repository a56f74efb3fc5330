"""Ranks the catalogue for histories: `Ranker` for arrays on any mesh, `Recommender` for raw item ids."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import logging
import os
from typing import Any, NamedTuple, overload

from etils import epath
from flax import nnx
import jax
import numpy as np

from recjax import config as config_lib
from recjax import models
from recjax.config import Config
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.histories import Reader, Row, read_histories
from recjax.decode.beam import beam_search
from recjax.decode.trie import Trie
from recjax.models import lora
from recjax.runtime import device, distributed, logs, preemption, watchdog
from recjax.runtime.files import replacing
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import state as state_lib
from recjax.workdir import checkpoint_name, identity, paths, resume
from recjax.workdir.checkpoints import Checkpoints, read_run

log = logging.getLogger(__name__)

# Prompt lengths are rounded up to a multiple of this, so that few shapes are compiled.
PROMPT_MULTIPLE = 32
# A recommender compiles its searches for this number of excluded items, or a larger power of two.
_EXCLUDED = 256


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _power_of_two(n: int, least: int = 16) -> int:
  return max(least, 1 << (max(n, 1) - 1).bit_length())


def make_search(config: Config, space: TokenSpace, beams: int | None = None):
  """Returns the pure search: (params, trie, prompts, excluded_BE) -> (items_BM, scores_BM).

  See `recjax.decode.beam.beam_search` for its arguments. `beams` is `eval.beams` by default.
  """
  graph, beams = state_lib.graph(config.model, space), beams or config.eval.beams

  def search(params, trie, prompts, excluded_BE):
    model = nnx.merge(graph, lora.merge(params, config.model.lora_alpha))
    return beam_search(model, trie, prompts, excluded_BE, beams, config.model.sid_softmax)

  return search


class Ranker:
  """Ranks the catalogue for histories of item indices with the model of a run."""

  def __init__(
    self, config: Config, dataset: Dataset, mesh: jax.sharding.Mesh, beams: int | None = None
  ):
    """Puts the catalogue on the devices.

    Args:
      config: config of the run.
      dataset: the prepared data.
      mesh: the devices.
      beams: beams of the search. None: `eval.beams`.
    """
    self.beams = beams or config.eval.beams
    shards = mesh_lib.batch_shards(mesh)
    self._batch_size = _round_up(config.eval.batch_size, shards)
    self._mesh = mesh
    self._exclude_seen = config.eval.exclude_seen
    self._timeout = config.hosts.phase_timeout  # a batch of a new shape is compiled first
    self._task = config_lib.next_item_component(config)
    self._target_events = dataset.target_events if config.eval.exclude_seen else None
    self._corpus = Corpus(dataset, models.family(config.model).is_encoder_decoder)
    popularity_I = np.bincount(dataset.train.values, minlength=dataset.num_items)
    trie = jax.tree.map(np.asarray, Trie.from_table(dataset.sids, popularity_I))

    self._trie = jax.device_put(trie, mesh_lib.replicated(mesh))
    search = make_search(config, dataset.vocabulary.space, self.beams)
    self._search = jax.jit(search, out_shardings=mesh_lib.replicated(mesh))

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that prompts show or that tell seen items from context: `times`, `events`, both or none."""
    telling = set() if self._target_events is None else {'events'}
    return tuple(sorted(telling | self._task.needs & {'times', 'events'}))

  def rank(
    self,
    params,
    histories: Sequence[np.ndarray],
    progress: str | None = None,
    known: Sequence[Mapping[str, np.ndarray]] | None = None,
    excluded: np.ndarray | None = None,
    few_shapes: bool = False,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns distinct items for every history, best first; independent of batch size and devices.

    Args:
      params: parameters on the mesh.
      histories: item indices, oldest first. They are excluded from the ranking unless `eval.exclude_seen`
        is off; with context events, and where the kinds are known, only items that may be targets are.
      progress: label of the progress bar. None: no bar.
      known: other columns of each history by name (see `columns`), one value per item. None: none.
      excluded: item indices that are excluded for every history.
      few_shapes: whether calls with other lengths use the same compiled program, at the cost of padding; the
        batch then has room for as many histories as the next power of two.

    Returns:
      Items int32 `[U, M]`, best first, -1 after the end of a list; and their float32 log-probabilities.
    """
    U, B = len(histories), self._batch_size
    if few_shapes:
      B = min(B, _round_up(_power_of_two(U, 1), mesh_lib.batch_shards(self._mesh)))
    excluded = np.empty(0, np.int32) if excluded is None else excluded
    known = known or [{}] * U
    hidden = [np.concatenate([items, excluded]) for items in map(self._seen, histories, known)]
    order = np.argsort([-len(history) for history in histories], kind='stable')
    items_UM = scores_UM = None
    is_shown = progress is not None and jax.process_index() == 0
    bar = logs.progress(
      total=U, desc=progress or '', unit=' rows', disable=not is_shown, leave=False
    )
    with bar, jax.set_mesh(self._mesh):
      for start in range(0, U, B):
        preemption.check()
        rows = order[start : start + B]
        prompts = [self._prompt(histories[u], known[u]) for u in rows]
        with watchdog.expect(f'ranking rows {start} to {start + B} of {U}', self._timeout):
          shape = self._shape(B, prompts, [hidden[u] for u in rows], few_shapes)
          items_BM, scores_BM = self._rank_batch(params, prompts, [hidden[u] for u in rows], shape)
        if items_UM is None:
          items_UM = np.full((U, items_BM.shape[1]), -1, np.int32)
          scores_UM = np.full((U, items_BM.shape[1]), -np.inf, np.float32)
        items_UM[rows] = items_BM[: len(rows)]
        scores_UM[rows] = scores_BM[: len(rows)]
        bar.update(len(rows))
    return items_UM, scores_UM

  def _prompt(self, history: np.ndarray, known: Mapping[str, np.ndarray]) -> np.ndarray:
    return self._task.inference_prompt(
      self._corpus, history, known.get('times'), known.get('events')
    )

  def _seen(self, history: np.ndarray, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """The items of a history that are excluded from its ranking; see `Dataset.seen`."""
    if not self._exclude_seen:
      return history[:0]
    is_told = self._target_events is not None and 'events' in known
    return history[self._target_events[known['events']]] if is_told else history

  def _shape(
    self, B: int, prompts: list[np.ndarray], excluded: list[np.ndarray], few_shapes: bool
  ) -> tuple[int, int, int]:
    """Returns (B, S, E): rows of a batch, tokens of a prompt, excluded items of a row."""
    S = self._task.max_prompt_length(self._corpus)
    if not few_shapes:
      S = min(_round_up(max(map(len, prompts)), PROMPT_MULTIPLE), S)
    E = _power_of_two(max(map(len, excluded)), _EXCLUDED if few_shapes else 16)
    return B, S, E

  def _rank_batch(
    self, params, prompts: list[np.ndarray], excluded: list[np.ndarray], shape: tuple[int, int, int]
  ) -> tuple[np.ndarray, np.ndarray]:
    B, S, E = shape
    tokens_BS = np.zeros((B, S), np.int32)
    lengths_B = np.ones(B, np.int32)  # padding rows have length one
    excluded_BE = np.full((B, E), -1, np.int32)
    for b, (prompt, items) in enumerate(zip(prompts, excluded, strict=True)):
      tokens_BS[b, : len(prompt)] = prompt
      lengths_B[b] = len(prompt)
      excluded_BE[b, : len(items)] = items
    batch = {'tokens': tokens_BS, 'lengths': lengths_B, 'excluded': excluded_BE}
    batch = mesh_lib.global_rows(batch, self._mesh)
    excluded = batch.pop('excluded')
    return jax.device_get(self._search(params, self._trie, batch, excluded))


def best_params(
  config: Config, workdir: epath.Path, dataset: Dataset, mesh: jax.sharding.Mesh
) -> tuple[Any, int]:
  """Returns the parameters of the workdir's best checkpoint, on a mesh, and its step.

  Raises:
    ValueError: the workdir has no undamaged checkpoint, or the data have another code space or tokenizer.
  """
  abstract = state_lib.abstract_params(config.model, dataset.vocabulary.space, mesh)

  def choose(checkpoints: Checkpoints) -> int:
    step = checkpoints.best_step()
    if step is None:
      raise ValueError(
        f'{checkpoints.folder} must hold an undamaged checkpoint; it has none. Set --workdir'
      )
    return step

  def read(checkpoints: Checkpoints, step: int):
    resume.check_tokens(checkpoints.meta(step), dataset, checkpoints.folder)
    return jax.block_until_ready(checkpoints.restore_params(step, abstract)), step

  return read_run(workdir, choose, read)


class Recommendation(NamedTuple):
  """A recommended item.

  Attributes:
    item: its id in the log.
    title: its title; None: the item table has none.
    score: log-probability of its semantic ID.
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
      params, step = best_params(config, workdir, dataset, mesh)
      recommender = cls(Ranker(config, dataset, mesh, beams), dataset, params, step)
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
