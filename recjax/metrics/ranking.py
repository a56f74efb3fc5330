"""Ranking metrics for one relevant item per row, with standard errors; `METRICS` lists them by name.

A row is a held-out target with its history; under leave-one-out the rows are the users. Other splits have
several rows per user, and the standard errors treat these as independent.

To add a metric, write a function of the ranks and a cut-off here and add it to `METRICS`.
"""

from collections.abc import Callable, Sequence

import numpy as np


def recall(ranks_U: np.ndarray, k: int) -> np.ndarray:
  """Computes recall@k: 1 if the target is among the first k items, else 0."""
  return (ranks_U < k).astype(np.float64)


def ndcg(ranks_U: np.ndarray, k: int) -> np.ndarray:
  """Computes ndcg@k: 1 / log2(rank + 2) for ranks below k, else 0. The ideal DCG of one item is 1."""
  return np.where(ranks_U < k, 1 / np.log2(ranks_U + 2.0), 0.0)


def mrr(ranks_U: np.ndarray, k: int) -> np.ndarray:
  """Computes mrr@k: 1 / (rank + 1) for ranks below k, else 0."""
  return np.where(ranks_U < k, 1 / (ranks_U + 1.0), 0.0)


# (0-based ranks int64 [U], cut-off) -> float64 [U], the value of every row.
METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
  'recall': recall,
  'ndcg': ndcg,
  'mrr': mrr,
}


def target_ranks(ranked_UK: np.ndarray, targets_U: np.ndarray) -> np.ndarray:
  """Returns the rank of every row's target in its ranked list.

  Args:
    ranked_UK: ints, best first; negative after the end of a list.
    targets_U: ints, not negative.

  Returns:
    0-based ranks int64 `[U]`; K if the target is absent. They are valid only for cut-offs k ≤ K: beyond K an
    absent target would count as found.

  Raises:
    ValueError: the shapes do not match, or a target is negative.
  """
  ranked_UK, targets_U = np.asarray(ranked_UK), np.asarray(targets_U)
  if ranked_UK.ndim != 2 or targets_U.shape != ranked_UK.shape[:1]:
    raise ValueError(
      'ranked items must be [U, K] and targets [U]; '
      f'got {list(ranked_UK.shape)} and {list(targets_U.shape)}'
    )
  if targets_U.size and targets_U.min() < 0:
    raise ValueError(f'targets must not be negative; got {targets_U.min()}')
  hits_UK = ranked_UK == targets_U[:, None]
  return np.where(hits_UK.any(1), hits_UK.argmax(1), ranked_UK.shape[1]).astype(np.int64)


def ranking_metrics(ranks_U: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
  """Returns the mean of every metric over the rows, and its standard error.

  Args:
    ranks_U: 0-based ranks from `target_ranks`.
    ks: cut-offs, at most the length of the ranked lists.

  Returns:
    `<metric>@<k>` for every metric and cut-off, and `<metric>@<k>_stderr`: the sample standard deviation
    (ddof 1) divided by √U; 0 for a single row.

  Raises:
    ValueError: there are no rows, or a cut-off is not positive.
  """
  ranks_U = np.asarray(ranks_U)
  if not ranks_U.size:
    raise ValueError('ranking metrics need at least one row; got none')
  if min(ks) <= 0:
    raise ValueError(f'cut-offs must be positive; got {tuple(ks)}. Set --config.eval.ks')
  metrics = {}
  for k in ks:
    for name, metric in METRICS.items():
      metrics |= mean_and_error(f'{name}@{k}', metric(ranks_U, k))
  return metrics


def mean_and_error(name: str, values_U: np.ndarray) -> dict[str, float]:
  """Returns the mean of a metric's values as `name`, and its standard error as `name`_stderr.

  The error is the sample standard deviation (ddof 1) divided by √U; 0 for a single row.

  Raises:
    ValueError: there are no values.
  """
  if not values_U.size:
    raise ValueError('ranking metrics need at least one row; got none')
  deviation = values_U.std(ddof=1) if values_U.size > 1 else 0.0
  return {
    name: float(values_U.mean()),
    f'{name}_stderr': float(deviation / np.sqrt(values_U.size)),
  }
