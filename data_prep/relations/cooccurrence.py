"""Counts co-occurrences of items, and computes item vectors by a truncated SVD of the counts."""

import math

import numpy as np
import scipy.sparse

from recjax.data import sequences

_KEYS_AT_ONCE = 1 << 24  # 128 MiB
_UNIT = math.lcm(*range(1, 21))  # sums of 1/d are exact integers in units of 1/_UNIT
_SMALLEST_SINGULAR = 1e-3  # relative to the largest singular value


def cooccurrence_counts(
  train: sequences.Sequences, num_items: int, window: int, distance_weight: str = 'inverse'
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

  Returns:
    A symmetric float64 `[I, I]` matrix with an empty diagonal, in canonical format.

  Raises:
    ValueError: two items and a distance do not fit into 63 bits, so `window` must be smaller. A window beyond
      the longest sequence is first cut to it.
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
  users = np.repeat(np.arange(len(train), dtype=np.int32), train.lengths)
  counts = scipy.sparse.csr_matrix((num_items, num_items), dtype=np.int64)
  block = max(1, _KEYS_AT_ONCE // (2 * window))
  for first in range(0, len(users), block):
    # The first item of a pair is in the block; the second may follow it.
    part = slice(first, first + block + window)
    keys = _keys(train.values[part], users[part], block, window, num_items, weights_W is not None)
    summed = _sum_keys(keys, weights_W, num_items)
    counts = summed if first == 0 else counts + summed
  counts.data = counts.data / (1 if weights_W is None else _UNIT)
  return counts


def _keys(
  items: np.ndarray, users: np.ndarray, block: int, window: int, num_items: int, with_distance: bool
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
    for pairs in (shifted[:-d] + items[d:], shifted[d:] + items[:-d]):
      pairs = pairs.take(valid)
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


def vectors(
  train: sequences.Sequences, num_items: int, width: int, window: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Computes co-occurrence vectors of items: U √S of D^-1/2 A D^-1/2 = U S Vᵀ, cut at `width`.

  A is the co-occurrence and D its row sums, the normalisation of spectral clustering (Ng, Jordan and Weiss,
  NIPS 2001). Dividing the singular values between both sides follows Levy and Goldberg, "Neural Word Embedding
  as Implicit Matrix Factorization" (NIPS 2014, section 4.2).

  Args:
    train: item indices of every user's training part.
    num_items: I.
    width: D, the width of the vectors.
    window: see `cooccurrence_counts`.
    seed: seed of the randomized SVD. Equal arguments give equal vectors, including signs.

  Returns:
    vectors: float32 `[I, width]`, unit rows; zero rows for items without co-occurrence; columns beyond the
      number of items are zero.
    basis: float32 `[I, width]`, D^-1/2 V / √S. `fold_in` uses it to compute vectors of new items.
  """
  from sklearn.utils import extmath  # imported here: it takes a second

  counts = cooccurrence_counts(train, num_items, window)
  degrees = np.asarray(counts.sum(axis=1)).ravel()
  seen = degrees > 0
  scale_I = np.where(seen, 1 / np.sqrt(np.where(seen, degrees, 1)), 0)
  scale = scipy.sparse.diags(scale_I)
  left, singular, right = extmath.randomized_svd(
    (scale @ counts @ scale).tocsr(), min(width, num_items), n_iter=15, random_state=seed
  )
  embedded_ID = np.zeros((num_items, width))
  embedded_ID[:, : left.shape[1]] = left * np.sqrt(singular)[None, :]
  # Directions with tiny singular values are noise; dividing by these values would amplify it.
  is_used = singular > _SMALLEST_SINGULAR * singular[0]
  roots = np.where(is_used, 1 / np.sqrt(np.where(is_used, singular, 1)), 0)
  basis_ID = np.zeros((num_items, width), np.float32)
  basis_ID[:, : left.shape[1]] = scale_I[:, None] * right.T * roots[None, :]
  return _unit_rows(embedded_ID, seen), basis_ID


def fold_in(
  train: sequences.Sequences, items: np.ndarray, window: int, basis_ID: np.ndarray
) -> np.ndarray:
  """Computes vectors of new items in the space of earlier `vectors`, from co-occurrence with earlier items.

  An item's row a of the normalised co-occurrence becomes a V / √S, which is U √S for the items of the
  decomposition (folding in, as in Deerwester et al., "Indexing by latent semantic analysis", JASIS 1990). The
  degree of the item only scales its row, which is normalised.

  Args:
    train: item indices of every user's current training part.
    items: int `[n]`, the new items.
    window: see `cooccurrence_counts`.
    basis_ID: the earlier basis, with one row per item of the current catalogue; zero rows for new items.

  Returns:
    float32 `[n, D]`: unit rows; zero rows for items that co-occur with no item of the basis.
  """
  counts = cooccurrence_counts(train, len(basis_ID), window)[items]
  known = counts @ (basis_ID.any(axis=1)) > 0
  return _unit_rows(counts @ basis_ID.astype(np.float64), known)


def _unit_rows(rows_ID: np.ndarray, known_I: np.ndarray) -> np.ndarray:
  """Normalises rows to float32 unit rows; rows outside `known_I` become zero."""
  lengths = np.linalg.norm(rows_ID, axis=1, keepdims=True)
  known = known_I[:, None] & (lengths > 0)
  return np.where(known, rows_ID / np.where(known, lengths, 1), 0).astype(np.float32)
