"""The item-kNN baseline: items that occur near items of the history in training sequences.

The similarity of items i and j is the normalised co-occurrence A[i, j] / √(d[i] · d[j]). A adds 1/distance for every
pair of positions of one user at most five apart, and d are its row sums. (Sarwar et al., "Item-based collaborative
filtering recommendation algorithms", WWW 2001, sum cosines over the history; the window, the weight by distance and the
decay with age are ours.) All neighbours of an item count, not the k nearest.
"""

import numpy as np
import scipy.sparse

from recjax.baselines import sums
from recjax.baselines.split import Split
from recjax.data.cooccurrence import cooccurrence_counts

WINDOW = 5  # positions
DECAY = 0.8  # weight of a history item relative to the next one
SECONDS = 1e-7  # per pair of positions


def _most_neighbours(split: Split) -> np.ndarray:
  """Returns an upper bound on the number of items near each item, int64 `[I]`."""
  counts_I = np.bincount(split.train.values, minlength=split.num_items)
  return np.minimum(2 * WINDOW * counts_I, split.num_items)


def seconds(split: Split) -> float:
  """Returns an estimate of the seconds of `recommend` on a core."""
  pairs = 2 * WINDOW * split.train.values.size
  return SECONDS * pairs + sums.seconds(split, _most_neighbours(split))


def similarities(split: Split, window: int = WINDOW) -> scipy.sparse.csr_matrix:
  """Returns the similarity of item i to item j at `[i, j]`: float64 `[I, I]`.

  With context events, a pair adds to A[i, j] only where the interaction with j may be a target, so the columns have
  sums of their own.
  """
  counts = cooccurrence_counts(
    split.train, split.num_items, window, is_target=split.train_is_target
  )
  rows_I, columns_I = (np.asarray(counts.sum(axis=axis)).ravel() for axis in (1, 0))
  rows = np.repeat(np.arange(split.num_items), np.diff(counts.indptr))
  counts.data /= np.sqrt(rows_I[rows] * columns_I[counts.indices])
  return counts


def recommend(split: Split, window: int = WINDOW, decay: float = DECAY) -> np.ndarray:
  """Ranks items by their summed similarity to the history; see `sums.recommend`.

  The counts come only from `split.train`.

  Args:
    split: the rows.
    window: the largest distance of a pair in positions.
    decay: weight of a history item relative to the next one.

  Returns:
    int32 `[U, k]`, best first, -1 after the last item that is similar to an item of the history.
  """
  return sums.recommend(split, similarities(split, window), decay)
