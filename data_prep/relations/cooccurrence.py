"""Computes item vectors by a truncated SVD of co-occurrence counts."""

import numpy as np
import scipy.sparse

from recjax.data.cooccurrence import cooccurrence_counts
from recjax.data.sequences import Sequences

_SMALLEST_SINGULAR = 1e-3  # relative to the largest singular value


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
