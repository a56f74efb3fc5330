"""The items of the leaves that a search has found."""

import jax
import jax.numpy as jnp

from recjax.decode.excluded import occurs
from recjax.decode.mask_slots import RowMasks
from recjax.decode.trie import Trie


def rank_items(
  trie: Trie,
  leaves_BM: jax.Array,
  scores_BM: jax.Array,
  excluded_BE: jax.Array,
  beams: int,
  masks: RowMasks | None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the first `beams` items of leaves that are sorted by score, and the scores of the items.

  Args:
    trie: the catalogue.
    leaves_BM: int32, distinct in a row; of padding, whose score is -inf, any.
    scores_BM: float32, descending.
    excluded_BE: int32 items that must not be returned; -1 is padding.
    beams: number of items, or of leaves with `Trie.ranks_first`.
    masks: the masks of the rows. None: all items.

  Returns:
    Items int32 and scores float32, `[B, beams]`, or fewer; after the last item -1 and -inf.
  """
  items_BM, scores_BM = _items(trie, leaves_BM, scores_BM, excluded_BE, beams, masks)
  return jnp.where(jnp.isfinite(scores_BM), items_BM, -1), scores_BM


def _items(trie: Trie, leaves_BM, scores_BM, excluded_BE, beams: int, masks: RowMasks | None):
  if trie.max_leaf_items == 1:
    return jnp.take(trie.leaf_items, leaves_BM), scores_BM
  items_BMK, exists_BMK = trie.items(leaves_BM)
  exists_BMK &= ~occurs(items_BMK, excluded_BE)
  if masks is not None:
    exists_BMK &= masks.has(items_BMK)
  B, width = len(leaves_BM), min(beams, len(trie.leaf_items))
  if trie.ranks_first:
    exists_BMK &= jnp.cumsum(exists_BMK, axis=-1) == 1
    width = leaves_BM.shape[1]
  scores_BMK = jnp.where(exists_BMK, scores_BM[..., None], -jnp.inf)
  # top_k takes the first of equal scores, so a leaf's items stay together and in order.
  scores_BM, best_BM = jax.lax.top_k(scores_BMK.reshape(B, -1), width)
  return jnp.take_along_axis(items_BMK.reshape(B, -1), best_BM, axis=1), scores_BM
