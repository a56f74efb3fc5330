"""The items of a catalogue by their semantic IDs, for models with a row for every item."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


class Catalogue:
  """Finds items by their codes, on the device.

  A node of depth l is a distinct prefix of l codes, numbered in lexicographic order. `keys[l]` holds parent x codes
  + code of every node of depth l + 1, ascending, so a binary search finds the child of a node.

  Attributes:
    codes_IL: the codes of the items.
    codes_per_level: the number of codes of every level.
    exists_I: bool, which items are real and which are padding. None: all are real.
  """

  exists_I = None

  def __init__(self, codes_IL: np.ndarray, codes_per_level: tuple[int, ...]):
    """Keeps the codes of the items; everything else is computed at its first use."""
    self.codes_IL = np.asarray(codes_IL)
    self.codes_per_level = tuple(codes_per_level)

  @property
  def num_items(self) -> int:
    """Number of items (I)."""
    return len(self.codes_IL)

  @functools.cached_property
  def _keys(self) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The int32 keys of every level, and the first item of every leaf."""
    node_I, keys = np.zeros(self.num_items, np.int64), []
    for level, codes in enumerate(self.codes_per_level):
      found, node_I = np.unique(node_I * codes + self.codes_IL[:, level], return_inverse=True)
      if found[-1] > np.iinfo(np.int32).max:
        raise ValueError(
          f'the codes of an item head must have fewer than 2^31 pairs of a prefix and a code; level {level + 1} has '
          f'{found[-1]:,}. Set --config.sids.codes lower, or --config.model.item_head=False'
        )
      keys.append(found.astype(np.int32))
    leaf_items = np.full(len(keys[-1]), self.num_items, np.int64)
    np.minimum.at(leaf_items, node_I, np.arange(self.num_items))
    return tuple(keys), leaf_items.astype(np.int32)

  @property
  def is_unique(self) -> bool:
    """Whether every item has codes of its own."""
    return len(self._keys[1]) == self.num_items

  def find(self, codes: jax.Array) -> jax.Array:
    """Returns the items with these codes, int32 `[...]`, -1 where there is none.

    Args:
      codes: int32 `[..., L]`, also values that are no codes.
    """
    keys, leaf_items = self._keys
    node = jnp.zeros(codes.shape[:-1], jnp.int32)
    is_item = jnp.ones(codes.shape[:-1], bool)
    for level, keys_N in enumerate(keys):
      size, code = self.codes_per_level[level], codes[..., level]
      is_item &= (code >= 0) & (code < size)
      key = node * size + jnp.where(is_item, code, 0)
      node = jnp.minimum(jnp.searchsorted(jnp.asarray(keys_N), key), len(keys_N) - 1)
      node = node.astype(jnp.int32)
      is_item &= jnp.asarray(keys_N)[node] == key
    return jnp.where(is_item, jnp.asarray(leaf_items)[node], -1)
