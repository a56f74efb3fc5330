"""Ranks the catalogue for histories, on any mesh."""

from collections.abc import Mapping, Sequence
import json
import logging

from etils import epath
from flax import nnx
import jax
import numpy as np
from tqdm import tqdm

from recjax import config as config_lib
from recjax import models
from recjax.config import Config
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.histories import Row, read_histories
from recjax.decode.beam import beam_search
from recjax.decode.trie import Trie
from recjax.models import lora
from recjax.runtime import distributed, preemption, watchdog
from recjax.runtime.files import replacing
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import state as state_lib

log = logging.getLogger(__name__)

# Prompt lengths are rounded up to a multiple of this, so that few shapes are compiled.
PROMPT_MULTIPLE = 32


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _power_of_two(n: int, least: int = 16) -> int:
  return max(least, 1 << (max(n, 1) - 1).bit_length())


def make_search(config: Config, space: TokenSpace):
  """Returns the pure search: (params, trie, prompts, excluded_BE) -> (items_BM, scores_BM).

  See `recjax.decode.beam.beam_search` for its arguments.
  """
  graph = state_lib.graph(config.model, space)

  def search(params, trie, prompts, excluded_BE):
    model = nnx.merge(graph, lora.merge(params, config.model.lora_alpha))
    return beam_search(
      model, trie, prompts, excluded_BE, config.eval.beams, config.model.sid_softmax
    )

  return search


class Recommender:
  """Ranks the catalogue for histories with the model of a run."""

  def __init__(self, config: Config, dataset: Dataset, mesh: jax.sharding.Mesh):
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
    search = make_search(config, dataset.vocabulary.space)
    self._search = jax.jit(search, out_shardings=mesh_lib.replicated(mesh))

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that prompts show or that tell seen items from context: `times`, `events`, both or none."""
    shown = self._task.needs & {'times', 'events'}
    return tuple(sorted(shown if self._target_events is None else shown | {'events'}))

  def rank(
    self,
    params,
    histories: Sequence[np.ndarray],
    progress: str | None = None,
    known: Sequence[Mapping[str, np.ndarray]] | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns distinct items for every history, best first; independent of batch size and devices.

    Args:
      params: parameters on the mesh.
      histories: item indices, oldest first. They are excluded from the ranking unless `eval.exclude_seen`
        is off; with context events, and where the kinds are known, only items that may be targets are.
      progress: label of the progress bar. None: no bar.
      known: other columns of each history by name (see `columns`), one value per item. None: none.

    Returns:
      Items int32 `[U, M]`, best first, -1 after the end of a list; and their float32 log-probabilities.
    """
    U, B = len(histories), self._batch_size
    order = np.argsort([-len(history) for history in histories], kind='stable')
    items_UM = scores_UM = None
    is_shown = progress is not None and jax.process_index() == 0
    bar = tqdm(total=U, desc=progress, unit=' rows', disable=not is_shown, leave=False)
    with bar, jax.set_mesh(self._mesh):
      for start in range(0, U, B):
        preemption.check()
        rows = order[start : start + B]
        prompts = [self._prompt(histories[u], known[u] if known else {}) for u in rows]
        with watchdog.expect(f'ranking rows {start} to {start + B} of {U}', self._timeout):
          seen = [self._seen(histories[u], known[u] if known else {}) for u in rows]
          items_BM, scores_BM = self._rank_batch(params, seen, prompts)
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
    if self._target_events is None or 'events' not in known:
      return history
    return history[self._target_events[known['events']]]

  def _rank_batch(
    self, params, seen: list[np.ndarray], prompts: list[np.ndarray]
  ) -> tuple[np.ndarray, np.ndarray]:
    longest = max(len(prompt) for prompt in prompts)
    S = min(_round_up(longest, PROMPT_MULTIPLE), self._task.max_prompt_length(self._corpus))
    E = _power_of_two(max(len(items) for items in seen))
    tokens_BS = np.zeros((self._batch_size, S), np.int32)
    lengths_B = np.ones(self._batch_size, np.int32)  # padding rows have length one
    excluded_BE = np.full((self._batch_size, E), -1, np.int32)
    for b, (prompt, items) in enumerate(zip(prompts, seen, strict=True)):
      tokens_BS[b, : len(prompt)] = prompt
      lengths_B[b] = len(prompt)
      if self._exclude_seen:
        excluded_BE[b, : len(items)] = items
    batch = {'tokens': tokens_BS, 'lengths': lengths_B, 'excluded': excluded_BE}
    batch = mesh_lib.global_rows(batch, self._mesh)
    excluded = batch.pop('excluded')
    return jax.device_get(self._search(params, self._trie, batch, excluded))


def recommend_file(
  recommender: Recommender,
  params,
  dataset: Dataset,
  histories: str,
  out: str,
  k: int,
  skip_unknown: bool = False,
) -> None:
  """Ranks items for every line of a file of histories and writes the lines with `recommendations`.

  Args:
    recommender: the search.
    params: parameters on the mesh.
    dataset: the prepared data.
    histories: path of the file; see `recjax.data.histories` for its format.
    out: file that is written atomically; its folder is created.
    k: items per history.
    skip_unknown: leave out items of a history that are not in the catalogue.

  Raises:
    OSError: the file of histories does not exist.
    ValueError: a line of it is not a history.
  """
  rows = read_histories(histories, dataset, recommender.columns, skip_unknown)
  unknown = [len(row.fields['unknown']) for row in rows if 'unknown' in row.fields]
  if unknown:
    log.warning(
      'left out %d items of %d histories: they are not in the catalogue', sum(unknown), len(unknown)
    )
  ranked = recommender.rank(
    params, [row.items for row in rows], 'recommend', [row.known for row in rows]
  )
  if distributed.is_host0():
    _write(epath.Path(out), dataset, rows, *ranked, k)
    log.info('%d histories -> %s', len(rows), out)


def _write(
  path: epath.Path,
  dataset: Dataset,
  rows: Sequence[Row],
  items_UM: np.ndarray,
  scores_UM: np.ndarray,
  k: int,
) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as f:
    for row, items, scores in zip(rows, items_UM[:, :k], scores_UM[:, :k], strict=True):
      ranked = [
        {'item': dataset.items[i]['id'], 'title': dataset.items[i].get('title'), 'score': float(s)}
        for i, s in zip(items, scores, strict=True)
        if i >= 0
      ]
      f.write(json.dumps(row.fields | {'recommendations': ranked}) + '\n')
