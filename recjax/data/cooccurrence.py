"""Counts co-occurrences of items in sequences."""

from collections.abc import Iterator
import math
from typing import Any

import numpy as np
import scipy.sparse

from recjax.data.sequences import Sequences, blocks, offsets_of

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
  found = cooccurrence_blocks(train, num_items, window, distance_weight, is_target)
  return stacked([counts for _, counts in found], num_items)


def stacked(parts: list[scipy.sparse.csr_matrix], num_items: int) -> scipy.sparse.csr_matrix:
  """Returns the rows of all parts as one matrix `[I, I]`."""
  if not parts:
    return scipy.sparse.csr_matrix((num_items, num_items))
  offsets = offsets_of(np.concatenate([np.diff(part.indptr) for part in parts]))
  data, indices = (
    np.concatenate([getattr(p, name) for p in parts]) for name in ('data', 'indices')
  )
  return scipy.sparse.csr_matrix((data, indices, offsets), shape=(num_items, num_items))


def cooccurrence_blocks(
  train: Sequences,
  num_items: int,
  window: int,
  distance_weight: str = 'inverse',
  is_target: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, scipy.sparse.csr_matrix]]:
  """Yields consecutive rows of `cooccurrence_counts`: the items, and the matrix `[len(items), I]`.

  Time is linear in the number of pairs. Memory holds 24 bytes an interaction and the pairs of one block.
  """
  window = max(1, min(window, int(train.lengths.max(initial=0)) - 1))
  if num_items**2 * window > 2**63:
    raise ValueError(
      f'the window must be at most {2**63 // num_items**2} for {num_items} items; got {window}. '
      'Set --config.relations.window and --config.sids.cooccurrence_window'
    )
  weights_W = None
  if distance_weight == 'inverse':
    weights_W = np.array([_UNIT // d for d in range(1, window + 1)])
  values, counts_I = np.asarray(train.values), train.counts(num_items)
  users = np.repeat(np.arange(len(train), dtype=np.int32), train.lengths)
  places, starts = _by_item(values), offsets_of(counts_I)
  for rows in blocks(counts_I * (2 * window), _KEYS_AT_ONCE):
    at = places[starts[rows[0]] : starts[rows[-1] + 1]]
    keys = _keys(
      at, values, users, is_target, int(rows[0]), len(rows), window, num_items, weights_W
    )
    counts = _sum_keys(keys, weights_W, len(rows), num_items)
    counts.data = counts.data / (1 if weights_W is None else _UNIT)
    yield rows, counts


def _by_item(values: np.ndarray) -> np.ndarray:
  """Returns the places of all values, int64: by item, then ascending."""
  bits = max(len(values) - 1, 0).bit_length()
  packed = values.astype(np.int64) << bits
  packed |= np.arange(len(values))
  packed.sort()
  packed &= (1 << bits) - 1
  return packed


def _keys(
  at: np.ndarray,
  values: np.ndarray,
  users: np.ndarray,
  is_target: Any,
  first: int,
  num_rows: int,
  window: int,
  num_items: int,
  weights_W: np.ndarray | None,
) -> np.ndarray:
  """Encodes all pairs whose first interaction is at one of the places: (item - first) · I + the other item.

  With weights, a key is multiplied by the window, and the distance minus one is added. Keys have 32 bits if
  that is enough, because these sort in half the time; else 64.
  """
  dtype = np.uint32 if num_rows * num_items * window < 2**32 else np.int64
  items, owners = values[at], users[at]
  heads = (items.astype(np.int64) - first).astype(dtype) * num_items
  keys = []
  for step in (s for d in range(1, window + 1) for s in (d, -d)):
    other = at + step
    valid = (other < len(values)) if step > 0 else (other >= 0)
    np.clip(other, 0, len(values) - 1, out=other)
    others = values[other]
    valid &= (users[other] == owners) & (others != items)
    if is_target is not None:
      valid &= is_target[other]
    pairs = heads[valid] + others[valid].astype(dtype)
    keys.append(pairs if weights_W is None else pairs * window + (abs(step) - 1))
  return np.concatenate([np.zeros(0, dtype), *keys])


def _sum_keys(
  keys: np.ndarray, weights_W: np.ndarray | None, num_rows: int, num_items: int
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
  rows = np.arange(num_rows + 1, dtype=np.int64) * num_items
  offsets = np.searchsorted(pairs.astype(np.int64), rows)
  columns = (pairs - np.repeat(rows[:-1], np.diff(offsets))).astype(np.int32)
  return scipy.sparse.csr_matrix((sums, columns, offsets), shape=(num_rows, num_items))
