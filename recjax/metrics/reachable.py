"""Counts held-out targets that no search can return, which bound every metric from above."""

from typing import Any

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
  return int(is_repeated(histories, targets_U).sum())


def unreachable_targets(log: Any, split: str) -> int:
  """Returns the number of targets that `eval.exclude_seen` removes, which the preparation has counted.

  Folders of earlier versions do not hold the number; it is then counted here.

  Args:
    log: a `recjax.data.dataset.Log`.
    split: 'validation' or 'test'.
  """
  counted = (log.statistics or {}).get('unreachable_targets', {}).get(split)
  return count_unreachable(log.seen(split), log.targets(split)) if counted is None else counted


def is_repeated(histories: Sequences, targets_U: np.ndarray) -> np.ndarray:
  """Returns which targets occur in their own history, bool `[U]`; see `count_unreachable`."""
  found_U = np.zeros(len(targets_U), bool)
  for start in range(0, len(targets_U), BLOCK_ROWS):
    targets = np.asarray(targets_U[start : start + BLOCK_ROWS])
    block = histories.take(np.arange(start, start + len(targets)))
    rows = np.repeat(np.arange(len(targets)), block.lengths)
    found_U[start + rows[block.values == targets[rows]]] = True
  return found_U
