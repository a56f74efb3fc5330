"""Counts co-occurrences of items in sequences."""

import math

import numpy as np
import scipy.sparse

from recjax.data.sequences import Sequences

_KEYS_AT_ONCE = 1 << 24  # 128 MiB
_UNIT = math.lcm(*range(1, 21))  # sums of 1/d are exact integers in units of 1/_UNIT


def cooccurrence_counts(
  train: Sequences,
  num_items: int,
  window: int,
  distance_weight: str = 'inverse',
  is_target: np.ndarray | None = None,
) -> scipy.sparse.csr_matrix:
  """Counts pairs of different items within a window of a user's sequence.

  A pair of positions at distance d ≤ window adds 1 ('none') or 1/d ('inverse') to both entries of its items.
  Sums are exact, so the order of users does not matter: they are integers, for 'inverse' in units of
  1/lcm(1 … 20), to which 1/d is rounded down for d > 20.

  Time is linear in the number of pairs. Pairs are counted in blocks, so memory holds one block and the
  distinct pairs.

  Args:
    train: item indices of every user's training part.
    num_items: I.
    window: the largest distance in positions, at least 1.
    distance_weight: 'none' or 'inverse'.
    is_target: bool, aligned with `train.values`: a pair adds to the column of an item only where its interaction is
      marked. None: all are.

  Returns:
    A float64 `[I, I]` matrix with an empty diagonal, in canonical format. It is symmetric if all are targets.

  Raises:
    ValueError: two items and a distance do not fit into 63 bits, so `window` must be smaller. A window beyond
      the longest sequence is first cut to it.
  """
  counts, count_unit = summed_counts(train, num_items, window, distance_weight, is_target)
  counts.data = counts.data / count_unit
  return counts


def summed_counts(
  train: Sequences,
  num_items: int,
  window: int,
  distance_weight: str = 'inverse',
  is_target: np.ndarray | None = None,
) -> tuple[scipy.sparse.csr_matrix, int]:
  """Returns `cooccurrence_counts` as int64 in units of 1/n, and n. Sums of parts of the users are those of all."""
  window = max(1, min(window, int(train.lengths.max(initial=0)) - 1))
  if num_items**2 * window > 2**63:
    raise ValueError(
      f'the window must be at most {2**63 // num_items**2} for {num_items} items; got {window}. '
      'Set --config.relations.window and --config.sids.cooccurrence_window'
    )
  weights_W = None
  if distance_weight == 'inverse':
    weights_W = np.array([_UNIT // d for d in range(1, window + 1)])
  users = np.repeat(np.arange(len(train), dtype=np.int32), train.lengths)
  counts = scipy.sparse.csr_matrix((num_items, num_items), dtype=np.int64)
  block = max(1, _KEYS_AT_ONCE // (2 * window))
  for first in range(0, len(users), block):
    # The first item of a pair is in the block; the second may follow it.
    part = slice(first, first + block + window)
    marks = None if is_target is None else is_target[part]
    keys = _keys(
      train.values[part], users[part], marks, block, window, num_items, weights_W is not None
    )
    summed = _sum_keys(keys, weights_W, num_items)
    counts = summed if first == 0 else counts + summed
  return counts, unit(distance_weight)


def unit(distance_weight: str) -> int:
  """Returns n of `summed_counts`."""
  return _UNIT if distance_weight == 'inverse' else 1


def _keys(
  items: np.ndarray,
  users: np.ndarray,
  marks: np.ndarray | None,
  block: int,
  window: int,
  num_items: int,
  with_distance: bool,
) -> np.ndarray:
  """Encodes all pairs that start in a block as integers, in both orders: first · I + second item.

  With the distance, a key is multiplied by the window, and the distance minus one is added. Keys have 32 bits if
  that is enough, because these sort in half the time; else 64.
  """
  items = items.astype(np.uint32 if num_items**2 * window < 2**32 else np.int64)
  shifted = items * num_items
  keys = []
  for d in range(1, min(window, len(items) - 1) + 1):
    valid = np.flatnonzero((users[d:] == users[:-d])[:block] & (items[d:] != items[:-d])[:block])
    for first, second in ((slice(None, -d), slice(d, None)), (slice(d, None), slice(None, -d))):
      kept = valid if marks is None else valid[marks[second][valid]]
      pairs = (shifted[first] + items[second]).take(kept)
      keys.append(pairs * window + (d - 1) if with_distance else pairs)
  return np.concatenate([np.zeros(0, items.dtype), *keys])


def _sum_keys(
  keys: np.ndarray, weights_W: np.ndarray | None, num_items: int
) -> scipy.sparse.csr_matrix:
  """Counts equal pairs, or sums the weights of their distances. Sorts the keys in place."""
  keys.sort()
  pairs, distances = (keys, None) if weights_W is None else np.divmod(keys, len(weights_W))
  is_first = np.ones(len(pairs), bool)
  np.not_equal(pairs[1:], pairs[:-1], out=is_first[1:])
  starts = np.flatnonzero(is_first)
  if weights_W is None:
    sums = np.diff(starts, append=len(pairs))
  else:
    sums = np.add.reduceat(weights_W[distances], starts)
  pairs = pairs.take(starts)
  rows = np.arange(num_items + 1, dtype=pairs.dtype) * num_items
  offsets = np.searchsorted(pairs, rows)
  columns = (pairs - np.repeat(rows[:-1], np.diff(offsets))).astype(np.int32)
  return scipy.sparse.csr_matrix((sums, columns, offsets), shape=(num_items, num_items))
