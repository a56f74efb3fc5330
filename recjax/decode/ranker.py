"""Ranks the catalogue for histories of item indices, on any mesh."""

from collections.abc import Mapping, Sequence
import copy

from etils import epath
import jax
import numpy as np

from recjax.data.dataset import Dataset
from recjax.data.tasks.masked import Mim
from recjax.data.tasks.next_item import NextItem
from recjax.decode import blend, mask_slots, precision
from recjax.decode.blend import Weights
from recjax.decode.candidates import Candidates
from recjax.decode.given import Given
from recjax.decode.loaded import Loaded, Loader
from recjax.decode.masks import Mask
from recjax.decode.prompt_store import PromptStore
from recjax.decode.search import (
  EXCLUDED,
  Rows,
  make_search,
  power_of_two,
  round_up,
  search_batch,
  shape_of,
)
from recjax.decode.trie import Trie
from recjax.decode.widths import by_level
from recjax.runtime import logs, preemption, watchdog
from recjax.schema.model import Model
from recjax.schema.run import Eval, Hosts
from recjax.sharding import mesh as mesh_lib


class Ranker:
  """Ranks the catalogue for histories of item indices with the model of a run.

  Attributes:
    beams: beams of the search.
    weights: of the scores of candidates in `rank`; the codes alone unless they are set.
    loaded: the catalogue that is searched unless a call names another.
    buckets: lengths in tokens that `few_shapes` pads prompts to, ascending; see `recjax.decode.warm`.
    kept: the prompts that are kept between calls (`keep_prompts`). None: none are.
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
    room: float | None = None,
    masks: epath.PathLike | None = None,
  ):
    """Puts the catalogue on the devices.

    Args:
      component: the component whose prompt the search continues.
      model: the model of the run.
      settings: the eval section: beams, rows of a batch, whether seen items are excluded, shared SIDs, and the lookups,
        which are those of the next item.
      limits: time limits.
      dataset: the prepared data.
      mesh: the devices.
      beams: beams of the search. None: `eval.beams`.
      room: later catalogues may be so many times as large as this one, and are searched by the same program (`load`).
        None: the program is that of this catalogue, and its items are constants.
      masks: folder of the named masks of the catalogue. None: there are none.
    """
    self.beams = beams or settings.beams
    self.weights = Weights()
    self._batch_size = round_up(settings.batch_size, mesh_lib.batch_shards(mesh))
    self._mesh = mesh
    self._exclude_seen = settings.exclude_seen
    self._timeout = limits.phase_timeout  # a batch of a new shape is compiled first
    self._task = component
    model, self._dtype = precision.of_search(model, settings, mesh), settings.weights_dtype
    self._loader = Loader(component, model, settings, dataset, mesh, room, masks)
    self.load, self.loaded = self._loader.load, self._loader.first
    self._model, self._space = model, dataset.vocabulary.space
    self._widths, self._cuts = settings.beam_widths, settings.beam_cut
    self.longest = self._loader.longest  # tokens of the longest prompt
    self.buckets: tuple[int, ...] = (self.longest,)
    self.kept: PromptStore | None = None
    self._search = self._jitted(self.beams)
    self._given = Given(model, self._space, mesh, self._batch_size, self._timeout)

  def _jitted(self, beams: int):
    widths = by_level(self._widths, beams, self._space.num_levels)
    search = make_search(self._model, self._space, widths, self._dtype, self._cuts)
    return jax.jit(search, out_shardings=mesh_lib.replicated(self._mesh))

  def _searched(self, params, loaded: Loaded, rows: Rows, shape) -> Candidates:
    return search_batch(self._search, self._mesh, self.kept, params, loaded, rows, shape)

  def with_beams(self, beams: int) -> 'Ranker':
    """Returns a ranker with another number of beams, which shares everything but the compiled search."""
    other = copy.copy(self)
    other.beams, other._search = beams, other._jitted(beams)
    return other

  def keep_prompts(self, limit: int) -> PromptStore:
    """Keeps the keys and values of prompts in at most `limit` bytes; see `PromptStore`, also for its errors."""
    self.kept = PromptStore(self._model, self._space, self._mesh, self.longest, limit)
    return self.kept

  def compile(self, params, rows: int, tokens: int) -> None:
    """Compiles the search of `few_shapes` for `rows` histories and prompts of `tokens` tokens."""
    none = [np.empty(0, np.int32)] * rows
    shape = (self.rows_of(rows), tokens, EXCLUDED)
    with jax.set_mesh(self._mesh), watchdog.expect(f'compiling for {rows} rows', self._timeout):
      prompts = [self.prompt(none[0], {})] * rows
      self._searched(params, self.loaded, Rows(prompts, none, none, [None] * rows), shape)
      if self.kept is not None:
        self.kept.compile(rows, params, self.trie, self.loaded.items)

  def rows_of(self, rows: int) -> int:
    """Returns the rows of a batch of `few_shapes` for a number of histories."""
    shards = mesh_lib.batch_shards(self._mesh)
    return min(self._batch_size, round_up(power_of_two(rows, 1), shards))

  @property
  def trie(self) -> Trie:
    """The semantic IDs of the catalogue, on every device."""
    return self.loaded.trie

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that prompts show or that tell seen items from context: `times`, `events`, both or none."""
    target_events = self.loaded.catalogue.dataset.target_events
    telling = {'events'} if self._exclude_seen and target_events is not None else set()
    return tuple(sorted(telling | self._task.needs & {'times', 'events'}))

  def rank(
    self,
    params,
    histories: Sequence[np.ndarray],
    progress: str | None = None,
    known: Sequence[Mapping[str, np.ndarray]] | None = None,
    excluded: Sequence[np.ndarray] | None = None,
    few_shapes: int = False,
    masks: Sequence[Mask | None] | None = None,
    loaded: Loaded | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns distinct items for every history, best first; independent of batch size and devices.

    Args:
      params: parameters on the mesh.
      histories: item indices, oldest first. They are excluded from the ranking unless `eval.exclude_seen`
        is off; with context events, and where the kinds are known, only items that may be targets are.
      progress: label of the progress bar. None: no bar.
      known: other columns of each history by name (see `columns`), one value per item. None: none.
      excluded: item indices that are excluded for each history. None: none.
      few_shapes: whether calls with other lengths use the same compiled program, at the cost of padding; the batch
        then has room for as many histories as the next power of two, and for at least so many.
      masks: the sub-catalogue of every history (`Masks.mask`); None: all items.
      loaded: the catalogue (`load`) of the indices and masks. None: the attribute.

    Returns:
      Items int32 `[U, M]`, best first, -1 after the end of a list; and their float32 scores: with one score the
      log-probability of the codes, else the weighted sum of `recjax.decode.blend`.
    """
    options = (known, excluded, few_shapes, masks, loaded)
    found = self.candidates(params, histories, progress, *options)
    return blend.ranked(found, self.weights, self.beams)

  def candidates(
    self,
    params,
    histories: Sequence[np.ndarray],
    progress: str | None = None,
    known: Sequence[Mapping[str, np.ndarray]] | None = None,
    excluded: Sequence[np.ndarray] | None = None,
    few_shapes: int = False,
    masks: Sequence[Mask | None] | None = None,
    loaded: Loaded | None = None,
  ) -> Candidates:
    """Returns the candidates of every history with their scores, numpy arrays `[U, …]`; see `rank`."""
    U, B = len(histories), self._batch_size
    loaded = loaded or self.loaded
    if few_shapes:
      B = self.rows_of(max(U, few_shapes))
    known = known or [{}] * U
    hidden = self.hidden(histories, known, excluded, loaded)
    if few_shapes:  # no row needs more room
      hidden, masks = loaded.catalogue.masks.moved(hidden, masks, EXCLUDED)
    order = np.argsort([-len(history) for history in histories], kind='stable')
    most = 1 if masks is None else loaded.slots.most
    found: Candidates | None = None
    is_shown = progress is not None and jax.process_index() == 0
    bar = logs.progress(
      total=U, desc=progress or '', unit=' rows', disable=not is_shown, leave=False
    )
    with bar, jax.set_mesh(self._mesh):
      for rows in mask_slots.batches(order, B, masks, most):
        preemption.check()
        prompts = [self.prompt(histories[u], known[u], loaded) for u in rows]
        with watchdog.expect(f'ranking {len(rows)} of {U} rows', self._timeout):
          hides = [hidden[u] for u in rows]
          none = [None] * len(rows) if few_shapes else None
          within = none if masks is None else [masks[u] for u in rows]
          shape = shape_of(B, prompts, hides, self.longest, self.buckets if few_shapes else None)
          batch = Rows(prompts, [histories[u] for u in rows], hides, within)
          batch = self._searched(params, loaded, batch, shape)
        if found is None:
          found = jax.tree.map(lambda x: np.empty((U, x.shape[1]), x.dtype), batch)
        for all_UM, of_BM in zip(jax.tree.leaves(found), jax.tree.leaves(batch), strict=True):
          all_UM[rows] = of_BM
        bar.update(len(rows))
    return found

  def given(
    self,
    params,
    histories: Sequence[np.ndarray],
    items_UN: np.ndarray,
    known: Sequence[Mapping[str, np.ndarray]] | None = None,
    few_shapes: bool = False,
    loaded: Loaded | None = None,
  ) -> np.ndarray:
    """Returns the scores of given items that order `rank`, float32 `[U, N]`; -inf for -1. See `rank`."""
    loaded = loaded or self.loaded
    pairs = zip(histories, known or [{}] * len(histories), strict=True)
    prompts = [self.prompt(*pair, loaded) for pair in pairs]
    length = self.longest if few_shapes else None
    found = self._given.candidates(params, loaded, prompts, items_UN, length)
    if loaded.lookups is not None:
      found = loaded.lookups.scored(loaded.lookups.read(histories), found)
    return blend.scores(found, self.weights)

  def prompt(
    self, history: np.ndarray, known: Mapping[str, np.ndarray], loaded: Loaded | None = None
  ) -> np.ndarray:
    """Returns the prompt that the search continues after a history, int32 tokens; see `rank`."""
    corpus = (loaded or self.loaded).corpus
    return self._task.inference_prompt(corpus, history, known.get('times'), known.get('events'))

  def hidden(
    self,
    histories: Sequence[np.ndarray],
    known: Sequence[Mapping[str, np.ndarray]],
    excluded: Sequence[np.ndarray] | None,
    loaded: Loaded,
  ) -> list[np.ndarray]:
    """Returns the items that are excluded from each ranking, the seen ones among them; see `rank`."""
    hidden = [self._seen(loaded, *each) for each in zip(histories, known, strict=True)]
    if excluded is not None:
      hidden = [np.concatenate(pair) for pair in zip(hidden, excluded, strict=True)]
    return hidden

  def _seen(
    self, loaded: Loaded, history: np.ndarray, known: Mapping[str, np.ndarray]
  ) -> np.ndarray:
    """The items of a history that are excluded from its ranking; see `Dataset.seen`."""
    if not self._exclude_seen:
      return history[:0]
    target_events = loaded.catalogue.dataset.target_events
    is_told = target_events is not None and 'events' in known
    return history[target_events[known['events']]] if is_told else history
