"""The graph baseline: random walks with restart from the history over the co-occurrence graph; nothing is trained.

The abstract of arXiv 2605.07125 names an untrained heuristic on a graph. Its rule is not known to us; this one is ours.
The nodes are items. The weight of the edge from i to j is the co-occurrence of `item_knn` before its normalisation.
From item i the walk goes to j with probability A[i, j] / d[i], and restarts in the history with probability RESTART
before each step. The score of an item is its expected number of visits in the first STEPS steps. A history item is a
start in proportion to decay^age.

Visits are linear in the starts. So the visits from every item are computed once, block by block, and summed over a
history. Of an item only the EDGES strongest edges are kept, and of its walks the VISITS most visited items, after
every step. This bounds time and memory, and the first also raises recall: rare edges are noise.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse

from recjax.baselines import item_knn, sums
from recjax.baselines.split import Split
from recjax.data.cooccurrence import cooccurrence_counts
from recjax.data.neighbours import Neighbours
from recjax.data.sequences import Sequences, blocks

WINDOW = 5  # positions
DECAY = 0.7  # weight of a history item relative to the next one
RESTART = 0.5
STEPS = 3
EDGES = 15
VISITS = 100
SECONDS = 1e-7  # per edge from a visited item
BLOCK_ENTRIES = 1 << 23  # visits per block of items, which bounds the memory


def seconds(split: Split) -> float:
  """Returns an estimate of the seconds of `recommend` on a core."""
  pairs = 2 * WINDOW * split.train.values.size
  items = np.count_nonzero(np.bincount(split.train.values))
  reached = items * sum(min(EDGES**step, EDGES * VISITS) for step in range(2, STEPS + 1))
  return item_knn.SECONDS * pairs + SECONDS * reached + sums.seconds(split, VISITS)


def visits(
  split: Split, window: int, restart: float, steps: int, edges: int, width: int
) -> scipy.sparse.csr_matrix:
  """Returns the expected visits of item j by walks from item i at `[i, j]`: float64 `[I, I]`; see the module.

  Args:
    split: the training sequences. With context events, a walk only arrives at interactions that may be targets.
    window: the largest distance of a pair in positions.
    restart: probability of a restart before each step.
    steps: number of steps.
    edges: edges that are kept for an item.
    width: visits that are kept for an item.
  """
  num_items, ranks_I = split.num_items, sums.popularity_ranks(split)
  counts = cooccurrence_counts(split.train, num_items, window, is_target=split.train_is_target)
  step = _strongest(counts, edges, ranks_I)
  sums_I = np.repeat(np.asarray(step.sum(axis=1)).ravel(), np.diff(step.indptr))
  step.data *= (1 - restart) / sums_I
  walks = list(_walks(step, steps, width, ranks_I))
  return scipy.sparse.vstack(walks, 'csr') if walks else step


def _walks(
  step: scipy.sparse.csr_matrix, steps: int, width: int, ranks_I: np.ndarray
) -> Iterator[scipy.sparse.csr_matrix]:
  degrees_I = np.diff(step.indptr)
  # The lists of edges of `width` items hold at most that many visits.
  most = min(width * int(degrees_I.max(initial=0)), len(degrees_I))
  for rows in blocks(np.where(degrees_I > 0, most, 0), BLOCK_ENTRIES):
    total = walk = step[rows]
    for _ in range(steps - 1):
      walk = _strongest(walk @ step, width, ranks_I)
      total = total + walk
    yield _strongest(total, width, ranks_I)


def _strongest(
  rows: scipy.sparse.csr_matrix, width: int, ranks_I: np.ndarray
) -> scipy.sparse.csr_matrix:
  """Keeps the `width` largest entries of every row, compared as float32; of equal ones the more popular items."""
  lists = Neighbours(Sequences(rows.indices, rows.indptr.astype(np.int64)), rows.data)
  best = lists.strongest(width, ranks_I)
  kept = (best.strengths.astype(np.float64), best.items.values, best.items.offsets)
  return scipy.sparse.csr_matrix(kept, shape=rows.shape)


def recommend(
  split: Split,
  window: int = WINDOW,
  decay: float = DECAY,
  restart: float = RESTART,
  steps: int = STEPS,
  edges: int = EDGES,
  width: int = VISITS,
) -> np.ndarray:
  """Ranks items by the visits of walks from the history; see the module and `sums.recommend`.

  Args:
    split: the rows.
    window: the largest distance of a pair in positions.
    decay: weight of a history item relative to the next one.
    restart: probability of a restart before each step.
    steps: number of steps.
    edges: edges that are kept for an item.
    width: visits that are kept for an item.

  Returns:
    int32 `[U, k]`, best first, -1 after the last item that a walk can visit.
  """
  return sums.recommend(split, visits(split, window, restart, steps, edges, width), decay)
