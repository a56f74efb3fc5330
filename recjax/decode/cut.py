"""The beam search of `recjax.decode.beam` without the beams that cannot enter: the same items and order, for less work.

A log-probability is at most 0, so no child has a higher score than its beam. A first search with few beams finds k items
for each row. The score of its k-th item is a bound b: beams with a lower score cannot have one of k better items below
them. The wide search reads its beams in blocks, best first, and ends a level when in no row the best beam left reaches b,
or the last one of the beams that the level keeps so far. A row whose search does not end with k items from b on is
searched again without its bound.

Proof that the k items are those of the search F without a cut, in the same order. Let C be the search with the cut.
(1) At every level, the beams of F with a score of at least b are beams of C, in the same order before all others. That
holds for the root. If it holds at a level, then the children with a score of at least b have parents with such a score,
so both searches see the same of them, in the same order; children below b are ranked after them. Both keep the first
M, and of equal scores the first. A level that ends because the M-th kept child is not below the best beam left leaves
out children that are ranked after M others.
(2) So the leaves with a score of at least b are the same in F and C. If C has k items with such scores, its first k are
those of F. Otherwise C is repeated with b = -inf, and (1) says that the beams are those of F.
F may keep M beams that leave out a prefix of the first search, so the repetition is needed: a beam search with more
beams is not always better.

With floats a score may exceed its parent's by rounding, and a block may round otherwise than all beams together. So beams
are left out only if they are below the bound by more than SLACK, and rows are searched again if their k-th item is
below it by more than half of that.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recjax.decode import beam
from recjax.decode.excluded import dead_leaves
from recjax.decode.leaf_items import rank_items
from recjax.decode.mask_slots import RowMasks
from recjax.decode.top_k import top_k
from recjax.decode.trie import Trie
from recjax.decode.widths import Beams, widths_of

BLOCK = 32  # beams that are read together, and least number of beams of the first search
_PAYS = 4  # beams of a level for each one of the first search
SLACK = 1e-3  # of scores, far above their rounding


class _Grown(NamedTuple):
  """The beams after a level, best first.

  Attributes:
    scores_BM: float32.
    nodes_BM: int32.
    parents_BM: int32, the beam of the level before that each continues.
  """

  scores_BM: jax.Array
  nodes_BM: jax.Array
  parents_BM: jax.Array

  def at(self, start: jax.Array, count: int) -> '_Grown':
    """Returns `count` beams from `start` on."""
    return _Grown(*(jax.lax.dynamic_slice_in_dim(x, start, count, axis=1) for x in self))

  def padded(self, fill: int) -> '_Grown':
    """Returns the beams with `fill` more that are none."""
    values = (-jnp.inf, 0, 0)
    pairs = zip(self, values, strict=True)
    return _Grown(*(jnp.pad(x, ((0, 0), (0, fill)), constant_values=v) for x, v in pairs))

  def merged(self, scores_BX: jax.Array, nodes_BX: jax.Array, first: jax.Array, branch: int):
    """Returns the best of these and of the children of the beams from `first` on, as many as these."""
    M = self.scores_BM.shape[1]
    scores_BM, best_BM = top_k(jnp.concatenate([self.scores_BM, scores_BX], axis=1), M)
    nodes_BM = jnp.concatenate([self.nodes_BM, nodes_BX], axis=1)
    nodes_BM = jnp.take_along_axis(nodes_BM, best_BM, axis=1)
    old_BM = jnp.take_along_axis(self.parents_BM, jnp.minimum(best_BM, M - 1), axis=1)
    new_BM = first + (best_BM - M) // branch
    return _Grown(scores_BM, nodes_BM, jnp.where(best_BM < M, old_BM, new_BM))


def pays(trie: Trie, beams: Beams) -> bool:
  """Returns whether a level has so many beams that a first search with few can save time."""
  widths = widths_of(trie, beams)
  return max(widths[:-1], default=0) >= _PAYS * max(BLOCK, widths[-1])


def beams_after(
  model,
  trie: Trie,
  x_BD: jax.Array,
  cache: Any,
  excluded_BE: jax.Array,
  beams: Beams,
  sid_softmax: str,
  masks: RowMasks | None = None,
  first: int = BLOCK,
  block: int = BLOCK,
) -> tuple[jax.Array, jax.Array]:
  """Returns the items and scores of `beam.beams_after`; see the module.

  Args:
    model, trie, x_BD, cache, excluded_BE, beams, sid_softmax, masks: as there.
    first: beams of the first search; at least as many as items that are returned.
    block: beams that are read together.
  """
  widths, most = widths_of(trie, beams), beams if isinstance(beams, int) else beams[-1]
  first = max(first, widths[-1])
  options = (sid_softmax, masks)
  narrow = (*(min(first, width) for width in widths[:-1]), most)
  few = cache.choose_beams(jnp.zeros((len(x_BD), narrow[0]), jnp.int32))
  found_BM = beam.beams_after(model, trie, x_BD, few, excluded_BE, narrow, *options)[1]
  dead_BE = dead_leaves(trie, excluded_BE, masks)
  grow = functools.partial(_grow, model, trie, dead_BE, options, block)

  def search(state):
    bound_B = state[1]
    grown, of_parents = _first(model, trie, x_BD, widths[0], dead_BE, options), cache
    for level in range(1, trie.levels):
      grown, of_parents = grow(level, widths[level], grown, of_parents, bound_B)
    leaves = (grown.nodes_BM, grown.scores_BM)
    items_BM, scores_BM = rank_items(trie, *leaves, excluded_BE, most, masks)
    is_missed_B = scores_BM[:, -1] < bound_B - SLACK / 2
    bound_B = jnp.where(is_missed_B, -jnp.inf, bound_B)
    return jnp.any(is_missed_B), bound_B, items_BM, scores_BM

  nothing = (jnp.zeros(found_BM.shape, jnp.int32), found_BM)
  state = (jnp.array(True), found_BM[:, -1], *nothing)
  return jax.lax.while_loop(lambda state: state[0], search, state)[2:]


def _first(model, trie: Trie, x_BD, width: int, dead_BE, options) -> _Grown:
  """Returns the beams after the first level, whose parent is the root."""
  root = (jnp.zeros((len(x_BD), 1), jnp.int32), jnp.zeros((len(x_BD), 1)))
  nodes_BX, scores_BX = beam.children(model, trie, 0, x_BD[:, None], *root, dead_BE, *options)
  scores_BM, best_BM = top_k(scores_BX, width)
  nodes_BM = jnp.take_along_axis(nodes_BX, best_BM, axis=1)
  return _Grown(scores_BM, nodes_BM, jnp.zeros_like(nodes_BM))


def _grow(
  model,
  trie: Trie,
  dead_BE: jax.Array,
  options: tuple[str, RowMasks | None],
  block: int,
  level: int,
  width: int,
  grown: _Grown,
  cache: Any,
  bound_B: jax.Array,
) -> tuple[_Grown, Any]:
  """Returns the beams after a level, and the cache of their parents.

  Args:
    model, trie, dead_BE, options, block: as in `beams_after`.
    level: the level, from 1.
    width: beams after it.
    grown: the beams before it.
    cache: of their parents.
    bound_B: float32, beams with lower scores are not needed.
  """
  beams, branch = grown.scores_BM.shape[1], trie.max_branch[level]
  block = min(block, beams)
  grown = grown.padded(-beams % block)
  beams += -beams % block
  places = _Places(cache, len(bound_B), block, beams)

  def reaches(state):
    start, best, _ = state
    next_B = jax.lax.dynamic_index_in_dim(
      grown.scores_BM, jnp.minimum(start, beams - 1), 1, keepdims=False
    )
    least_B = jnp.maximum(bound_B, best.scores_BM[:, -1]) - SLACK
    return (start < beams) & jnp.any(jnp.isfinite(next_B) & (next_B >= least_B))

  def read(state):
    start, best, kept = state
    these = grown.at(start, block)
    tokens_BM = beam.tokens_of(model, trie, level - 1, these.nodes_BM)
    own = cache.choose_beams(these.parents_BM)
    x_BMD, own = model.step(tokens_BM, level - 1, own)
    of_these = (x_BMD, these.nodes_BM, these.scores_BM, dead_BE, *options)
    nodes_BX, scores_BX = beam.children(model, trie, level, *of_these)
    best = best.merged(scores_BX, nodes_BX, start, branch)
    return start + block, best, kept if is_last else places.put(kept, own, start)

  is_last = level == trie.levels - 1
  none = jnp.zeros((len(bound_B), 0))
  best = _Grown(none, none.astype(jnp.int32), none.astype(jnp.int32)).padded(width)
  state = (jnp.array(0), best, () if is_last else places.empty())
  _, best, kept = jax.lax.while_loop(reaches, read, state)
  return best, None if is_last else places.filled(kept)


class _Places:
  """The arrays of a cache that have an axis of beams, and where it is."""

  def __init__(self, cache: Any, rows: int, block: int, beams: int):
    """Compares the shapes of the cache with `block` beams and with `beams`, of which one is larger."""

    def shapes(count: int):
      return jax.eval_shape(cache.choose_beams, jax.ShapeDtypeStruct((rows, count), jnp.int32))

    self._cache = cache
    self._shapes, other = jax.tree.leaves(shapes(beams)), jax.tree.leaves(shapes(beams + block))
    self._axes = [
      next((i for i, n in enumerate(x.shape) if n != y.shape[i]), None)
      for x, y in zip(self._shapes, other, strict=True)
    ]

  def empty(self) -> list[jax.Array]:
    """Returns arrays for all beams, without their values."""
    pairs = zip(self._shapes, self._axes, strict=True)
    return [jnp.zeros(x.shape, x.dtype) for x, axis in pairs if axis is not None]

  def put(self, kept: list[jax.Array], cache: Any, start: jax.Array) -> list[jax.Array]:
    """Returns the arrays with those of a cache from beam `start` on."""
    leaves = zip(jax.tree.leaves(cache), self._axes, strict=True)
    of_beams = [(x, axis) for x, axis in leaves if axis is not None]
    update = jax.lax.dynamic_update_slice_in_dim
    return [update(old, x, start, axis) for old, (x, axis) in zip(kept, of_beams, strict=True)]

  def filled(self, kept: list[jax.Array]) -> Any:
    """Returns the cache with the arrays in place of its own."""
    leaves, kept = jax.tree.leaves(self._cache), iter(kept)
    pairs = zip(leaves, self._axes, strict=True)
    leaves = [x if axis is None else next(kept) for x, axis in pairs]
    return jax.tree.unflatten(jax.tree.structure(self._cache), leaves)
