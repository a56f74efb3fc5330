"""The trie of the catalogue's semantic IDs, as arrays for the jitted search."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.sequences import offsets_of
from recjax.sids.table import SidTable

_MULTIPLE = 1024  # of large arrays, so that the devices of a mesh may share them


class Capacity(NamedTuple):
  """Sizes of a trie's arrays: a search compiled for them takes every catalogue that fits.

  Attributes:
    items: number of items.
    nodes: number of nodes of each depth, L + 1 numbers.
    branch: largest number of children of a node, for each level.
    leaf_items: largest number of items of a leaf; 1 if every item has a leaf of its own.
  """

  items: int
  nodes: tuple[int, ...]
  branch: tuple[int, ...]
  leaf_items: int

  @classmethod
  def of(cls, trie: 'Trie', shares: bool, room: float = 1.25) -> 'Capacity':
    """Returns room for catalogues that are `room` times as large in every size, as far as the codes allow.

    Args:
      trie: the catalogue.
      shares: whether items of later catalogues may share a semantic ID.
      room: at least 1.
    """
    nodes, branch = [1], []
    for level, codes in enumerate(trie.codes_per_level):
      # The root is the only node of its depth: it has room for all codes.
      branch.append(min(codes, _up(room * trie.max_branch[level], 8)) if level else codes)
      nodes.append(min(nodes[-1] * branch[-1], _up(room * trie.num_nodes[level + 1], _MULTIPLE)))
    nodes[1] = branch[0]
    if not shares:
      return cls(nodes[-1], tuple(nodes), tuple(branch), 1)
    items = _up(room * len(trie.leaf_items), _MULTIPLE)
    return cls(items, tuple(nodes), tuple(branch), max(math.ceil(room * trie.max_leaf_items), 2))

  def check(self, trie: 'Trie') -> None:
    """Raises a ValueError if a catalogue does not fit."""
    for what, most, got in (
      ('items', self.items, len(trie.leaf_items)),
      *(
        (f'prefixes of {depth} codes', most, got)
        for depth, (most, got) in enumerate(zip(self.nodes, trie.num_nodes, strict=True))
      ),
      *(
        (f'codes after a prefix of {level} codes', most, got)
        for level, (most, got) in enumerate(zip(self.branch, trie.max_branch, strict=True))
      ),
      ('items with one semantic ID', self.leaf_items, trie.max_leaf_items),
    ):
      if got > most:
        raise ValueError(
          f'a catalogue must fit the capacity of the running search, at most {most:,} {what}; it has {got:,}. Start '
          'again with it'
        )


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
    first_child: int32 `[num_nodes[l] + 1]` for each level l, or longer: the last entries are equal.
    child_code: int32 `[num_nodes[l + 1]]` for each level l: the last code of each node of depth l + 1.
    leaf_offsets: int32 `[num_nodes[L] + 1]`; not used, and empty with a capacity, if `max_leaf_items` is 1.
    leaf_items: int32 `[I]`. Leaf s holds the items `leaf_items[leaf_offsets[s]:leaf_offsets[s + 1]]`, the
      most popular first. With unique SIDs leaf s holds only `leaf_items[s]`.
    item_leaves: int32 `[I]`, the leaf of each item.
    codes_per_level: number of codes of each level, as in the table.
    num_nodes: number of nodes of each depth, L + 1 numbers; with a capacity at most so many, as the other sizes.
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

  def padded(self, capacity: Capacity) -> 'Trie':
    """Returns the trie with arrays of the sizes of a capacity; padding nodes have no parent and no children.

    Raises:
      ValueError: it does not fit.
    """
    capacity.check(self)
    offsets, shares = self.leaf_offsets, capacity.leaf_items > 1
    above = zip(self.first_child, capacity.nodes[:-1], strict=True)
    below = zip(self.child_code, capacity.nodes[1:], strict=True)
    return dataclasses.replace(
      self,
      first_child=tuple(
        _padded(places, _up(nodes + 1, _MULTIPLE), places[-1]) for places, nodes in above
      ),
      child_code=tuple(_padded(codes, nodes, 0) for codes, nodes in below),
      leaf_offsets=_padded(offsets, capacity.nodes[-1] + 1, offsets[-1]) if shares else offsets[:0],
      leaf_items=_padded(self.leaf_items, capacity.items, 0),
      item_leaves=_padded(self.item_leaves, capacity.items, -1),
      num_nodes=capacity.nodes,
      max_branch=capacity.branch,
      max_leaf_items=capacity.leaf_items,
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

  def find(self, codes: jax.Array) -> jax.Array:
    """Returns the first item with these codes, int32 `[...]`, -1 where there is none.

    Args:
      codes: int32 `[..., L]`, also values that are no codes.
    """
    node = jnp.zeros(codes.shape[:-1], jnp.int32)
    is_item = jnp.ones(codes.shape[:-1], bool)
    for level, most in enumerate(self.max_branch):
      first_child, code = jnp.asarray(self.first_child[level]), codes[..., level]
      low, end = first_child[node], first_child[node + 1]
      high, code_N = end, jnp.asarray(self.child_code[level])
      for _ in range(most.bit_length()):  # a binary search
        middle = jnp.minimum((low + high) // 2, len(code_N) - 1)
        is_below = code_N[middle] < code
        low, high = (
          jnp.where((low < high) & is_below, middle + 1, low),
          jnp.where(is_below, high, middle),
        )
      node = jnp.minimum(low, len(code_N) - 1)
      is_item &= (low < end) & (code_N[node] == code)
    place = node if self.max_leaf_items == 1 else jnp.asarray(self.leaf_offsets)[node]
    return jnp.where(is_item, jnp.asarray(self.leaf_items)[place], -1)

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


def _up(size: float, multiple: int) -> int:
  return multiple * math.ceil(size / multiple)


def _padded(values: np.ndarray, size: int, value: int) -> np.ndarray:
  return np.pad(values, (0, size - len(values)), constant_values=value)
