"""The trie of the catalogue's semantic IDs, as arrays for the jitted search."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.sequences import offsets_of
from recjax.sids.table import SidTable


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['first_child', 'child_code', 'leaf_offsets', 'leaf_items', 'item_leaves'],
  meta_fields=['codes_per_level', 'num_nodes', 'max_branch', 'max_leaf_items', 'ranks_first'],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Trie:
  """Prefixes of semantic IDs in code space; a pytree with static sizes.

  The nodes of depth l are the distinct prefixes of l codes, numbered in lexicographic order. So the children
  of a node are contiguous: node s of depth l has the children `first_child[l][s]` …
  `first_child[l][s + 1] - 1` of depth l + 1. Depth 0 has one node, the root. The nodes of depth L are the
  leaves.

  Attributes:
    first_child: int32 `[num_nodes[l] + 1]` for each level l.
    child_code: int32 `[num_nodes[l + 1]]` for each level l: the last code of each node of depth l + 1.
    leaf_offsets: int32 `[num_nodes[L] + 1]`.
    leaf_items: int32 `[I]`. Leaf s holds the items `leaf_items[leaf_offsets[s]:leaf_offsets[s + 1]]`, the
      most popular first. With unique SIDs leaf s holds only `leaf_items[s]`.
    item_leaves: int32 `[I]`, the leaf of each item.
    codes_per_level: number of codes of each level, as in the table.
    num_nodes: number of nodes of each depth, L + 1 numbers.
    max_branch: largest number of children of a node, for each level.
    max_leaf_items: largest number of items of a leaf.
    ranks_first: whether a search ranks only the first item of a leaf that is not excluded.
  """

  first_child: tuple[np.ndarray, ...]
  child_code: tuple[np.ndarray, ...]
  leaf_offsets: np.ndarray
  leaf_items: np.ndarray
  item_leaves: np.ndarray
  codes_per_level: tuple[int, ...]
  num_nodes: tuple[int, ...]
  max_branch: tuple[int, ...]
  max_leaf_items: int
  ranks_first: bool = False

  @classmethod
  def from_table(
    cls, table: SidTable, popularity_I: np.ndarray | None = None, ranks_first: bool = False
  ) -> 'Trie':
    """Builds the trie of a table as numpy arrays.

    Args:
      table: the SIDs.
      popularity_I: number of training interactions of each item. Items that share a SID are sorted by
        descending popularity, then by index. None: by index alone.
      ranks_first: see the class.

    Raises:
      ValueError: the table has no items.
    """
    if not table.num_items:
      raise ValueError('a trie needs at least one item; the SID table has none')
    by_popularity = [] if popularity_I is None else [-np.asarray(popularity_I, np.int64)]
    # lexsort is stable: items with equal keys stay in item order.
    order = np.lexsort((*by_popularity, *table.codes_IL.T[::-1]))
    codes_IL = table.codes_IL[order]
    is_new = np.zeros(len(order), bool)
    is_new[0] = True
    node = np.zeros(len(order), np.int64)  # each sorted item's node of depth l
    num_nodes, first_child, child_code = [1], [], []
    for level in range(table.levels):
      is_new[1:] |= codes_IL[1:, level] != codes_IL[:-1, level]
      starts = np.flatnonzero(is_new)  # the first item of each node of depth level + 1
      children = np.bincount(node[starts], minlength=num_nodes[-1])
      first_child.append(_offsets(children))
      child_code.append(codes_IL[starts, level].astype(np.int32))
      num_nodes.append(len(starts))
      node = np.cumsum(is_new) - 1
    leaf_sizes = np.bincount(node)
    item_leaves = np.empty(len(order), np.int32)
    item_leaves[order] = node
    return cls(
      first_child=tuple(first_child),
      child_code=tuple(child_code),
      leaf_offsets=_offsets(leaf_sizes),
      leaf_items=order.astype(np.int32),
      item_leaves=item_leaves,
      codes_per_level=table.codes_per_level,
      num_nodes=tuple(num_nodes),
      max_branch=tuple(int(np.diff(offsets).max()) for offsets in first_child),
      max_leaf_items=int(leaf_sizes.max()),
      ranks_first=ranks_first,
    )

  @property
  def levels(self) -> int:
    return len(self.child_code)

  def children(self, level: int, nodes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns all children of nodes of depth `level`, in the order of their codes.

    Args:
      level: static, in [0, L).
      nodes: int32 of any shape, nodes of depth `level`.

    Returns:
      Nodes of depth level + 1 (int32), their last codes (int32), and a mask of the real children (bool),
      each of the shape of `nodes` with `max_branch[level]` appended. Masked entries hold valid but
      meaningless indices.
    """
    first_child = jnp.asarray(self.first_child[level])
    begin, end = first_child[nodes][..., None], first_child[nodes + 1][..., None]
    steps = jnp.arange(self.max_branch[level], dtype=jnp.int32)
    candidates = begin + steps.reshape((1,) * nodes.ndim + (-1,))
    is_child = candidates < end
    child_nodes = jnp.minimum(candidates, self.num_nodes[level + 1] - 1)
    return child_nodes, jnp.asarray(self.child_code[level])[child_nodes], is_child

  def items(self, leaves: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the items of leaves, the most popular first.

    Args:
      leaves: int32 of any shape.

    Returns:
      Items (int32) and a mask of the real items (bool), each of the shape of `leaves` with
      `max_leaf_items` appended. Masked entries hold valid but meaningless indices.
    """
    offsets = jnp.asarray(self.leaf_offsets)
    begin, end = offsets[leaves][..., None], offsets[leaves + 1][..., None]
    steps = jnp.arange(self.max_leaf_items, dtype=jnp.int32)
    places = begin + steps.reshape((1,) * leaves.ndim + (-1,))
    items = jnp.asarray(self.leaf_items)[jnp.minimum(places, len(self.leaf_items) - 1)]
    return items, places < end


def _offsets(sizes: np.ndarray) -> np.ndarray:
  return offsets_of(sizes).astype(np.int32)
