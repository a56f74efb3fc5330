"""Computes item vectors by a truncated SVD of co-occurrence counts."""

import numpy as np
import scipy.sparse

from recjax.data.cooccurrence import cooccurrence_blocks, cooccurrence_counts, stacked
from recjax.data.sequences import Sequences, blocks, offsets_of

_SMALLEST_SINGULAR = 1e-3  # relative to the largest singular value
# Pairs of a log that the decomposition reads all. Of a larger log it reads each item's strongest ones, half as many.
_ALL_PAIRS = 1 << 29
_ENTRIES_AT_ONCE = 1 << 24


def vectors(
  train: Sequences, num_items: int, width: int, window: int, seed: int
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

  counts, degrees = _counts(train, num_items, window)
  seen = degrees > 0
  scale_I = np.where(seen, 1 / np.sqrt(np.where(seen, degrees, 1)), 0)
  _scale(counts, scale_I)
  left, singular, right = extmath.randomized_svd(
    counts, min(width, num_items), n_iter=15, random_state=seed
  )
  embedded_ID = np.zeros((num_items, width))
  embedded_ID[:, : left.shape[1]] = left * np.sqrt(singular)[None, :]
  # Directions with tiny singular values are noise; dividing by these values would amplify it.
  is_used = singular > _SMALLEST_SINGULAR * singular[0]
  roots = np.where(is_used, 1 / np.sqrt(np.where(is_used, singular, 1)), 0)
  basis_ID = np.zeros((num_items, width), np.float32)
  basis_ID[:, : left.shape[1]] = scale_I[:, None] * right.T * roots[None, :]
  return _unit_rows(embedded_ID, seen), basis_ID


def _counts(
  train: Sequences, num_items: int, window: int
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
  """Returns the co-occurrence and its row sums; of a very large log, only each item's strongest pairs."""
  if 2 * window * int(train.offsets[-1]) <= _ALL_PAIRS:
    counts = cooccurrence_counts(train, num_items, window)
    return counts, np.asarray(counts.sum(axis=1)).ravel()
  most = max(_ALL_PAIRS // (2 * num_items), 1)
  parts, degrees = [], np.zeros(num_items)
  for rows, counts in cooccurrence_blocks(train, num_items, window):
    degrees[rows] = np.asarray(counts.sum(axis=1)).ravel()
    parts.append(_strongest(counts, most))
  return stacked(parts, num_items), degrees


def _strongest(counts: scipy.sparse.csr_matrix, most: int) -> scipy.sparse.csr_matrix:
  """Returns the `most` greatest entries of every row; of equal ones those of the lowest columns."""
  lengths = np.diff(counts.indptr)
  rows = np.repeat(np.arange(len(lengths)), lengths)
  order = np.lexsort((counts.indices, -counts.data, rows))
  places = np.arange(len(rows)) - np.repeat(counts.indptr[:-1], lengths)
  is_kept = np.zeros(len(rows), bool)
  is_kept[order[places < most]] = True
  kept = np.minimum(lengths, most)
  parts = counts.data[is_kept], counts.indices[is_kept], offsets_of(kept)
  return scipy.sparse.csr_matrix(parts, shape=counts.shape)


def _scale(counts: scipy.sparse.csr_matrix, scale_I: np.ndarray) -> None:
  """Multiplies every entry in place by the factors of its row and of its column, in this order."""
  for rows in blocks(np.diff(counts.indptr), _ENTRIES_AT_ONCE):
    part = slice(counts.indptr[rows[0]], counts.indptr[rows[-1] + 1])
    lengths = np.diff(counts.indptr[rows[0] : rows[-1] + 2])
    counts.data[part] = np.repeat(scale_I[rows], lengths) * counts.data[part]
    counts.data[part] *= scale_I[counts.indices[part]]


def fold_in(train: Sequences, items: np.ndarray, window: int, basis_ID: np.ndarray) -> np.ndarray:
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
