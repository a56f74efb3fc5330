"""Item vectors from the log alone: a truncated SVD of the normalised co-occurrence."""

import numpy as np
import scipy.sparse
from sklearn.utils import extmath
import tqdm

from recjax.data import sequences


def cooccurrence_counts(
  train: sequences.Sequences, num_items: int, window: int
) -> scipy.sparse.csr_matrix:
  """Counts pairs of different items near each other in one user's sequence.

  A pair at distance d ≤ window, in either order, adds 1/d to both of its entries.

  Args:
    train: item indices of every user's training part.
    num_items: I.
    window: the largest distance in positions, at least 1.

  Returns:
    A symmetric float64 `[I, I]` matrix with an empty diagonal.
  """
  users = np.repeat(np.arange(len(train)), train.lengths)
  rows, columns, weights = [], [], []
  for distance in tqdm.trange(1, window + 1, desc='co-occurrence', unit='distance'):
    left, right = train.values[:-distance], train.values[distance:]
    near = (users[:-distance] == users[distance:]) & (left != right)
    rows.append(left[near])
    columns.append(right[near])
    weights.append(np.full(near.sum(), 1 / distance))
  one_way = scipy.sparse.csr_matrix(
    (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))),
    shape=(num_items, num_items),
  )
  return (one_way + one_way.T).tocsr()


def vectors(
  train: sequences.Sequences, num_items: int, width: int, window: int, seed: int
) -> np.ndarray:
  """Embeds items by the company they keep: U √S of D^-1/2 A D^-1/2 = U S Vᵀ, cut at `width`.

  A is the co-occurrence and D its row sums, the normalisation of spectral clustering (Ng, Jordan
  and Weiss, NIPS 2001); dividing the singular values between both sides follows Levy and Goldberg,
  "Neural Word Embedding as Implicit Matrix Factorization" (NIPS 2014, section 4.2).

  Args:
    train: item indices of every user's training part; nothing else is read.
    num_items: I.
    width: D.
    window: as in `cooccurrence_counts`.
    seed: of the randomized SVD; equal arguments give equal vectors, signs included.

  Returns:
    float32 `[I, width]`: rows of length one, and zero rows for items that co-occur with none.
    Columns beyond the number of items are zero.
  """
  counts = cooccurrence_counts(train, num_items, window)
  degrees = np.asarray(counts.sum(axis=1)).ravel()
  seen = degrees > 0
  scale = scipy.sparse.diags(np.where(seen, 1 / np.sqrt(np.where(seen, degrees, 1)), 0))
  left, singular, _ = extmath.randomized_svd(
    (scale @ counts @ scale).tocsr(), min(width, num_items), n_iter=15, random_state=seed
  )
  vectors_ID = np.zeros((num_items, width))
  vectors_ID[:, : left.shape[1]] = left * np.sqrt(singular)[None, :]
  lengths = np.linalg.norm(vectors_ID, axis=1, keepdims=True)
  known = seen[:, None] & (lengths > 0)
  return np.where(known, vectors_ID / np.where(known, lengths, 1), 0).astype(np.float32)
