"""Masks on the devices: node masks of a trie in slots, so that the rows of one batch may have different masks.

A slot holds one mask as packed bits for every level: the bit of a node says whether an item below it is in the mask.
A jitted function prunes the trie bottom-up: the bits of the leaves come from those of the items, and a node is alive
if one of its children is. The children of a node are contiguous, so the number of alive ones is a difference of two
prefix counts of packed bits. A search reads the slots and a slot number for every row. A new mask replaces the bits
of a slot, and nothing is compiled.
"""

import collections
from collections.abc import Iterator, Sequence
import dataclasses
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np

from recjax.decode.masks import Mask, words
from recjax.decode.trie import Trie
from recjax.sharding import mesh as mesh_lib

# Distinct masks of a batch, that of all items included: as many as fit SLOT_BYTES, within these limits.
SLOTS = (16, 128)
SLOT_BYTES = 2**26


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RowMasks:
  """The masks of the rows of a batch, as arguments of a search.

  Attributes:
    nodes: uint32 `[S, words]` of the nodes of every depth from 1.
    items: uint32 `[S, words]`.
    slot_B: int32, the slot of every row.
  """

  nodes: tuple[jax.Array, ...]
  items: jax.Array
  slot_B: jax.Array

  def children(self, level: int, nodes_BMX: jax.Array) -> jax.Array:
    """Returns which children of `Trie.children` lead to an item of the row's mask, bool `[B, M, X]`.

    Only the entries of real children have a meaning. Their bits are contiguous, so whole words are read.
    """
    X = nodes_BMX.shape[-1]
    begin_BM1 = nodes_BMX[..., :1]
    steps = jnp.arange((X + 31) // 32 + 1, dtype=jnp.int32)[None, None]
    words_BMW = self._words(self.nodes[level], (begin_BM1 >> 5) + steps)
    shift_BM1 = (begin_BM1 & 31).astype(jnp.uint32)
    low = words_BMW[..., :-1] >> shift_BM1
    high = jnp.where(shift_BM1 == 0, 0, words_BMW[..., 1:] << (32 - shift_BM1))
    return _unpacked(low | high)[..., :X]

  def has(self, items: jax.Array) -> jax.Array:
    """Returns whether items `[B, …]` are in the mask of their row."""
    bits = self._words(self.items, items >> 5) >> (items & 31).astype(jnp.uint32)
    return (bits & 1).astype(bool)

  def items_of_rows(self, num_items: int) -> jax.Array:
    """Returns whether each item is in the mask of each row, bool `[B, num_items]`."""
    return _unpacked(jnp.take(self.items, self.slot_B, axis=0))[:, :num_items]

  def _words(self, of_slots_SW: jax.Array, at: jax.Array) -> jax.Array:
    slot = self.slot_B.reshape((-1,) + (1,) * (at.ndim - 1))
    return of_slots_SW[slot, jnp.minimum(at, of_slots_SW.shape[1] - 1)]


def _unpacked(words_W: jax.Array) -> jax.Array:
  """Returns the bits of words `[…, W]` as bool `[…, 32 W]`."""
  shifts = jnp.arange(32, dtype=jnp.uint32).reshape((1,) * words_W.ndim + (32,))
  bits = (words_W[..., None] >> shifts) & 1
  return bits.reshape(*words_W.shape[:-1], -1).astype(bool)


def _packed(is_in: jax.Array) -> jax.Array:
  """Returns bits `[N]` as words uint32 `[words(N)]`."""
  is_in = jnp.pad(is_in, (0, -len(is_in) % 32)).reshape(-1, 32)
  return jnp.sum(
    is_in.astype(jnp.uint32) << jnp.arange(32, dtype=jnp.uint32)[None], axis=1, dtype=jnp.uint32
  )


def _alive(words_W: jax.Array, offsets_N1: jax.Array) -> jax.Array:
  """Returns which of N consecutive ranges of bits hold a set bit, as words; range n begins at `offsets_N1[n]`."""
  counts_W = jax.lax.population_count(words_W).astype(jnp.int32)
  before_W = jnp.cumsum(counts_W) - counts_W
  at = jnp.minimum(offsets_N1 >> 5, len(words_W) - 1)
  # An offset at the end of the last word counts the whole word: its shift would be 32.
  is_end = (offsets_N1 >> 5) >= len(words_W)
  below = jnp.where(is_end, 0, jnp.uint32(1) << (offsets_N1 & 31).astype(jnp.uint32)) - jnp.uint32(
    1
  )
  ranks = before_W[at] + jax.lax.population_count(words_W[at] & below).astype(jnp.int32)
  return _packed(ranks[1:] > ranks[:-1])


def pruned(trie: Trie, items_W: jax.Array) -> tuple[jax.Array, ...]:
  """Returns the nodes of every depth from 1 that have an item of a mask below, uint32 `[words(nodes)]` each.

  Args:
    trie: the catalogue.
    items_W: uint32, the packed mask of its items.
  """
  places = jnp.asarray(trie.leaf_items)
  alive_W = _packed((items_W[places >> 5] >> (places & 31).astype(jnp.uint32) & 1).astype(bool))
  if trie.max_leaf_items > 1:
    alive_W = _alive(alive_W, jnp.asarray(trie.leaf_offsets))
  found = [alive_W]
  for first_child, nodes in zip(trie.first_child[:0:-1], trie.num_nodes[-2:0:-1], strict=True):
    found.append(_alive(found[-1], jnp.asarray(first_child)[: nodes + 1]))
  return tuple(found[::-1])


@functools.partial(jax.jit, donate_argnums=(0, 1), static_argnums=5)
def _fill(nodes, items, trie: Trie, slot: jax.Array, items_W: jax.Array, shardings):
  """Replaces the mask of a slot in arrays of these shardings."""
  found = pruned(trie, items_W)
  nodes = tuple(old.at[slot].set(new) for old, new in zip(nodes, found, strict=True))
  return jax.lax.with_sharding_constraint((nodes, items.at[slot].set(items_W)), shardings)


def batches(
  order: np.ndarray, size: int, masks: Sequence[Mask | None] | None, most: int
) -> Iterator[np.ndarray]:
  """Yields the rows of `order` in batches of at most `size` rows with at most `most` distinct masks."""
  rows, keys = [], set()
  for row in order.tolist():
    mask = masks and masks[row]
    if len(rows) == size or (mask and mask.key not in keys and len(keys) == most):
      yield np.array(rows)
      rows, keys = [], set()
    rows.append(row)
    keys |= {mask.key} if mask else set()
  if rows:
    yield np.array(rows)


class MaskSlots:
  """The slots of a catalogue on the devices. The least recently used mask leaves its slot to a new one.

  Attributes:
    lock: is held while rows get slots and a search with them is started, since a new mask writes into the slots.
    most: number of distinct masks that the rows of a batch may have.
  """

  def __init__(
    self, trie: Trie, mesh: jax.sharding.Mesh, everything: Mask, slots: int | None = None
  ):
    """Makes the slots and compiles their filling.

    Args:
      trie: the catalogue, on the devices.
      mesh: the devices.
      everything: the mask of rows without one: slot 0.
      slots: number of slots. None: see SLOTS.
    """
    self._words = words(len(trie.leaf_items))
    if slots is None:
      size = 4 * (self._words + sum(map(words, trie.num_nodes[1:])))
      slots = min(max(SLOT_BYTES // size, SLOTS[0]), SLOTS[1])
    self.lock, self.most = threading.Lock(), slots - 1
    self._trie, self._replicated = trie, mesh_lib.replicated(mesh)
    self._slot_of: collections.OrderedDict[bytes, int] = collections.OrderedDict()
    zeros = lambda size: np.zeros((slots, size), np.uint32)  # noqa: E731
    arrays = tuple(zeros(words(nodes)) for nodes in trie.num_nodes[1:]), zeros(self._words)
    self._shardings = jax.tree.map(lambda x: mesh_lib.index_sharding(x, mesh), arrays)
    self._nodes, self._items = jax.device_put(arrays, self._shardings)
    self._put(0, everything)

  def slots(self, masks: Sequence[Mask | None]) -> np.ndarray:
    """Returns the slot of every row, int32 `[B]`; call it with `lock`.

    Args:
      masks: of the rows, at most `most` distinct ones. None: all items.
    """
    wanted = {mask.key: mask for mask in masks if mask is not None}
    for key in wanted.keys() & self._slot_of.keys():
      self._slot_of.move_to_end(key)
    for key, mask in wanted.items():
      if key not in self._slot_of:
        is_full = len(self._slot_of) == self.most
        slot = self._slot_of.popitem(last=False)[1] if is_full else len(self._slot_of) + 1
        self._put(slot, mask)
        self._slot_of[key] = slot
    return np.array([(mask and self._slot_of[mask.key]) or 0 for mask in masks], np.int32)

  def rows(self, slot_B: jax.Array) -> RowMasks:
    """Returns the argument of a search for rows with these slots; start the search before `lock` is released."""
    return RowMasks(self._nodes, self._items, slot_B)

  def _put(self, slot: int, mask: Mask) -> None:
    bits_W = np.pad(mask.bits_W, (0, self._words - len(mask.bits_W)))
    arguments = jax.device_put((np.int32(slot), bits_W), self._replicated)
    self._nodes, self._items = _fill(
      self._nodes, self._items, self._trie, *arguments, self._shardings
    )
