"""Ranking metrics with one relevant item a user: recall, ndcg, mrr, each with its standard error.

Where a split has several rows a user (`data.split`), each row counts as a user does here; the standard
errors then take the rows of one user as independent, which they hardly are.
"""

from collections.abc import Sequence

import numpy as np


def target_ranks(ranked_UK: np.ndarray, targets_U: np.ndarray) -> np.ndarray:
  """The place of each user's target in their ranked list.

  Args:
    ranked_UK: ints, best first; negative where a list has ended.
    targets_U: ints, not negative.

  Returns:
    int64 `[U]`, 0 for the top; K where the target is absent. Only cut-offs k ≤ K can be computed
    from these ranks: beyond K an absent target would count as found.

  Raises:
    ValueError: the shapes do not belong together, or a target is negative.
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


def gains(ranks_U: np.ndarray, k: int) -> dict[str, np.ndarray]:
  """What each user contributes to the metrics at cut-off k: float64 `[U]` by metric name.

  With one relevant item the ideal DCG is 1, so ndcg is 1 / log2(rank + 2) inside the cut-off.
  """
  ranks_U = np.asarray(ranks_U)
  found_U = ranks_U < k
  return {
    f'recall@{k}': found_U.astype(np.float64),
    f'ndcg@{k}': np.where(found_U, 1 / np.log2(ranks_U + 2.0), 0.0),
    f'mrr@{k}': np.where(found_U, 1 / (ranks_U + 1.0), 0.0),
  }


def ranking_metrics(ranks_U: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
  """Means over users and their standard errors.

  Args:
    ranks_U: 0-based ranks as `target_ranks` gives them.
    ks: cut-offs, none beyond the length of the ranked lists.

  Returns:
    `recall@k`, `ndcg@k`, `mrr@k` for every k, and each with `_stderr`: the sample standard
    deviation over users (ddof 1) divided by √U; 0 for a single user.

  Raises:
    ValueError: there are no users, or a cut-off is not positive.
  """
  ranks_U = np.asarray(ranks_U)
  if not ranks_U.size:
    raise ValueError('ranking metrics need at least one user; got none')
  if min(ks) <= 0:
    raise ValueError(f'cut-offs must be positive; got {tuple(ks)}. Set --config.eval.ks')
  metrics = {}
  for k in ks:
    for name, values_U in gains(ranks_U, k).items():
      deviation = values_U.std(ddof=1) if values_U.size > 1 else 0.0
      metrics[name] = float(values_U.mean())
      metrics[f'{name}_stderr'] = float(deviation / np.sqrt(values_U.size))
  return metrics
