"""Ranks the catalogue for histories of item indices, on any mesh."""

from collections.abc import Mapping, Sequence

from flax import nnx
import jax
import numpy as np

from recjax import models
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.tasks.masked import Mim
from recjax.data.tasks.next_item import NextItem
from recjax.decode import blend
from recjax.decode.batches import PROMPT_MULTIPLE
from recjax.decode.blend import Weights
from recjax.decode.candidates import Candidates, search_candidates
from recjax.decode.memory import Memory
from recjax.decode.trie import Trie
from recjax.models import lora
from recjax.runtime import logs, preemption, watchdog
from recjax.schema.model import Model
from recjax.schema.run import Eval, Hosts
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace

# A recommender compiles its searches for this number of excluded items, or a larger power of two.
_EXCLUDED = 256


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple


def _power_of_two(n: int, least: int = 16) -> int:
  return max(least, 1 << (max(n, 1) - 1).bit_length())


def make_search(model: Model, space: TokenSpace, beams: int):
  """Returns the pure search: (params, trie, prompts, excluded_BE, given_BN) -> candidates; see `search_candidates`."""
  graph = models.graph(model, space)

  def search(params, trie, prompts, excluded_BE, given_BN=None):
    merged = nnx.merge(graph, lora.merge(params, model.lora_alpha))
    return search_candidates(
      *(merged, trie, prompts, excluded_BE, beams, model.sid_softmax, model.item_head, given_BN)
    )

  return search


class Ranker:
  """Ranks the catalogue for histories of item indices with the model of a run.

  Attributes:
    beams: beams of the search.
    weights: of the scores of candidates in `rank`; the codes alone unless they are set.
    trie: the semantic IDs of the catalogue, on every device.
  """

  def __init__(
    self,
    component: NextItem | Mim,
    model: Model,
    settings: Eval,
    limits: Hosts,
    dataset: Dataset,
    mesh: jax.sharding.Mesh,
    beams: int | None = None,
  ):
    """Puts the catalogue on the devices.

    Args:
      component: the component whose prompt the search continues.
      model: the model of the run.
      settings: the eval section: beams, rows of a batch, whether seen items are excluded, shared SIDs, and the memory,
        which is that of the next item.
      limits: time limits.
      dataset: the prepared data.
      mesh: the devices.
      beams: beams of the search. None: `eval.beams`.
    """
    self.beams = beams or settings.beams
    self.weights = Weights()
    shards = mesh_lib.batch_shards(mesh)
    self._batch_size = _round_up(settings.batch_size, shards)
    self._mesh = mesh
    self._exclude_seen = settings.exclude_seen
    self._timeout = limits.phase_timeout  # a batch of a new shape is compiled first
    self._task = component
    self._target_events = dataset.target_events if settings.exclude_seen else None
    self._memory = Memory.of(settings, dataset) if isinstance(component, NextItem) else None
    self._corpus = Corpus(dataset, models.family(model).is_encoder_decoder)
    popularity_I = np.bincount(dataset.train.values, minlength=dataset.num_items)
    trie = Trie.from_table(dataset.sids, popularity_I, settings.shared_sids == 'first')
    trie = jax.tree.map(np.asarray, trie)

    self.trie = jax.device_put(trie, mesh_lib.replicated(mesh))
    search = make_search(model, dataset.vocabulary.space, self.beams)
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
      Items int32 `[U, M]`, best first, -1 after the end of a list; and their float32 scores: with one score the
      log-probability of the codes, else the weighted sum of `recjax.decode.blend`.
    """
    found = self.candidates(params, histories, progress, known, excluded, few_shapes)
    return blend.ranked(found, self.weights, self.beams)

  def candidates(
    self,
    params,
    histories: Sequence[np.ndarray],
    progress: str | None = None,
    known: Sequence[Mapping[str, np.ndarray]] | None = None,
    excluded: np.ndarray | None = None,
    few_shapes: bool = False,
  ) -> Candidates:
    """Returns the candidates of every history with their scores, numpy arrays `[U, …]`; see `rank`."""
    U, B = len(histories), self._batch_size
    if few_shapes:
      B = min(B, _round_up(_power_of_two(U, 1), mesh_lib.batch_shards(self._mesh)))
    excluded = np.empty(0, np.int32) if excluded is None else excluded
    known = known or [{}] * U
    hidden = [np.concatenate([items, excluded]) for items in map(self._seen, histories, known)]
    order = np.argsort([-len(history) for history in histories], kind='stable')
    found: Candidates | None = None
    is_shown = progress is not None and jax.process_index() == 0
    bar = logs.progress(
      total=U, desc=progress or '', unit=' rows', disable=not is_shown, leave=False
    )
    with bar, jax.set_mesh(self._mesh):
      for start in range(0, U, B):
        preemption.check()
        rows = order[start : start + B]
        prompts = [self.prompt(histories[u], known[u]) for u in rows]
        with watchdog.expect(f'ranking rows {start} to {start + B} of {U}', self._timeout):
          hides = [hidden[u] for u in rows]
          shape = self._shape(B, prompts, hides, few_shapes)
          batch = self._search_batch(params, prompts, [histories[u] for u in rows], hides, shape)
        if found is None:
          found = jax.tree.map(lambda x: np.empty((U, x.shape[1]), x.dtype), batch)
        for all_UM, of_BM in zip(jax.tree.leaves(found), jax.tree.leaves(batch), strict=True):
          all_UM[rows] = of_BM
        bar.update(len(rows))
    return found

  def prompt(self, history: np.ndarray, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the prompt that the search continues after a history, int32 tokens; see `rank`."""
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

  def _search_batch(
    self,
    params,
    prompts: list[np.ndarray],
    histories: list[np.ndarray],
    excluded: list[np.ndarray],
    shape: tuple[int, int, int],
  ) -> Candidates:
    """Returns the candidates of at most B rows; see `_shape`."""
    B, S, E = shape
    tokens_BS = np.zeros((B, S), np.int32)
    lengths_B = np.ones(B, np.int32)  # padding rows have length one
    excluded_BE = np.full((B, E), -1, np.int32)
    for b, (prompt, items) in enumerate(zip(prompts, excluded, strict=True)):
      tokens_BS[b, : len(prompt)] = prompt
      lengths_B[b] = len(prompt)
      excluded_BE[b, : len(items)] = items
    batch = {'tokens': tokens_BS, 'lengths': lengths_B, 'excluded': excluded_BE}
    counts_RI = None if self._memory is None else self._memory.counts(histories)
    if counts_RI is not None and self._memory.candidates:
      given_BN = np.full((B, self._memory.candidates), -1, np.int32)
      given_BN[: len(prompts)] = self._memory.best(counts_RI, excluded)
      batch['given'] = given_BN
    batch = mesh_lib.global_rows(batch, self._mesh)
    others = [batch.pop(name) for name in ('excluded', 'given') if name in batch]
    found = jax.device_get(self._search(params, self.trie, batch, *others))
    found = jax.tree.map(lambda x: x[: len(prompts)], found)
    if counts_RI is None:
      return found
    return found._replace(memory_BM=self._memory.scores(counts_RI, found.items_BM))
