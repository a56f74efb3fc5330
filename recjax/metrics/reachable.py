"""Counts held-out targets that no search can return, which bound every metric from above."""

import numpy as np

from recjax.data.sequences import Sequences

BLOCK_ROWS = 1 << 16  # rows per block, which bounds the memory


def count_unreachable(histories: Sequences, targets_U: np.ndarray) -> int:
  """Counts the targets that occur in their history; `eval.exclude_seen` removes them from the ranking.

  With N such targets among U, recall@k, ndcg@k and mrr@k cannot exceed 1 - N / U.

  Args:
    histories: U sequences of item indices.
    targets_U: item indices.
  """
  found = 0
  for start in range(0, len(targets_U), BLOCK_ROWS):
    targets = np.asarray(targets_U[start : start + BLOCK_ROWS])
    block = histories.take(np.arange(start, start + len(targets)))
    rows = np.repeat(np.arange(len(targets)), block.lengths)
    is_target = block.values == targets[rows]
    found += len(np.unique(rows[is_target]))
  return found
