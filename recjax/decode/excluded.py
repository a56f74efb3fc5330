"""Items that a search must not return: leaves of the trie without another item."""

import jax
import jax.numpy as jnp

from recjax.decode.mask_slots import RowMasks
from recjax.decode.trie import Trie


def occurs(values: jax.Array, row_BE: jax.Array) -> jax.Array:
  """Returns whether each value `[B, M, X]` occurs in its user's row `[B, E]`, bool."""

  def add(found, column_B):
    return found | (values == column_B[:, None, None]), None

  return jax.lax.scan(add, jnp.zeros(values.shape, bool), row_BE.T)[0]


def dead_leaves(trie: Trie, excluded_BE: jax.Array, masks: RowMasks | None = None) -> jax.Array:
  """Returns the leaves that have no item left for the user, int32 `[B, E]`; -1 is padding.

  A leaf is dead if all of its items that are in the row's mask are excluded.

  Args:
    trie: the catalogue.
    excluded_BE: int32 items; -1 is padding.
    masks: the masks of the rows. None: all items.
  """
  leaves_BE = jnp.where(excluded_BE < 0, -1, jnp.take(trie.item_leaves, excluded_BE))
  if trie.max_leaf_items == 1:
    return leaves_BE
  excluded_BE = jnp.sort(excluded_BE, axis=1)  # an item counts once even if the history repeats it
  counts_BE = (excluded_BE >= 0).at[:, 1:].min(excluded_BE[:, 1:] != excluded_BE[:, :-1])
  items_BE = jnp.maximum(excluded_BE, 0)
  if masks is not None:
    counts_BE &= masks.has(items_BE)
  leaves_BE = jnp.sort(jnp.where(counts_BE, jnp.take(trie.item_leaves, items_BE), -1), axis=1)
  excluded_BE = _count_of_each(leaves_BE)
  offsets = jnp.asarray(trie.leaf_offsets)
  at_BE = jnp.maximum(leaves_BE, 0)
  if masks is None:
    left_BE = offsets[at_BE + 1] - offsets[at_BE]
  else:
    items_BEK, exists_BEK = trie.items(at_BE)
    left_BE = jnp.sum(exists_BEK & masks.has(items_BEK), axis=-1)
  return jnp.where(excluded_BE == left_BE, leaves_BE, -1)


def without(trie: Trie, scores_BX: jax.Array, nodes_BM: jax.Array, dead_BE: jax.Array) -> jax.Array:
  """Returns the scores of the children of the last beams, -inf for dead leaves.

  A dead leaf is the child of at most one real beam. Its place follows from the beam whose range of children holds it, so
  no child is compared.

  Args:
    trie: the catalogue.
    scores_BX: float32, the scores of all children of M nodes, `max_branch` of each, in the order of `Trie.children`.
    nodes_BM: int32, nodes of depth L - 1; real beams come first.
    dead_BE: int32 leaves; -1 is padding.
  """
  first_child, branch = jnp.asarray(trie.first_child[-1]), trie.max_branch[-1]
  begin_BM, end_BM = first_child[nodes_BM], first_child[nodes_BM + 1]
  dead_BE1 = dead_BE[..., None]
  is_in_BEM = (dead_BE1 >= begin_BM[:, None]) & (dead_BE1 < end_BM[:, None])
  beam_BE = jnp.argmax(is_in_BEM, axis=-1)
  place_BE = beam_BE * branch + dead_BE - jnp.take_along_axis(begin_BM, beam_BE, axis=1)
  place_BE = jnp.where(jnp.any(is_in_BEM, axis=-1), place_BE, scores_BX.shape[1])
  return jax.vmap(lambda x, at: x.at[at].set(-jnp.inf, mode='drop'))(scores_BX, place_BE)


def _count_of_each(sorted_BE: jax.Array) -> jax.Array:
  """Returns how often each value of sorted rows `[B, E]` occurs in its row; E may be symbolic (`jax.export`)."""
  is_other_BE = sorted_BE[:, 1:] != sorted_BE[:, :-1]
  places_BE = jnp.broadcast_to(jnp.arange(sorted_BE.shape[1])[None], sorted_BE.shape)
  is_first_BE = jnp.pad(is_other_BE, ((0, 0), (1, 0)), constant_values=True)
  is_last_BE = jnp.pad(is_other_BE, ((0, 0), (0, 1)), constant_values=True)
  last = sorted_BE.shape[1] - 1
  firsts_BE = jax.lax.cummax(jnp.where(is_first_BE, places_BE, 0), axis=1)
  lasts_BE = jax.lax.cummin(jnp.where(is_last_BE, places_BE, last), axis=1, reverse=True)
  return lasts_BE - firsts_BE + 1
