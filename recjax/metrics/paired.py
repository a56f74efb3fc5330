"""The difference of two rankings of the same rows: standard error, t-test and bootstrap over users."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

Z = 1.96  # of a two-sided interval of 95 %
RESAMPLES = 2000
BLOCK_CELLS = 1 << 24  # cells of a block of resamples, which bounds the memory


def difference(new_U: np.ndarray, old_U: np.ndarray, users_U: np.ndarray) -> dict[str, float]:
  """Returns the mean of new − old over rows, its standard error and its 95 % interval.

  Rows of one user are not independent, so the users are the clusters of the error (Cameron and Miller, "A
  practitioner's guide to cluster-robust inference", 2015, with their factor G / (G − 1)). With one row a user it is
  the usual error of a mean.

  Args:
    new_U: a metric of every row, such as `ranking.ndcg`.
    old_U: the metric of the other ranking.
    users_U: ints, the user of every row.

  Returns:
    `mean`, `stderr` (0 for a single user), `low` and `high`.

  Raises:
    ValueError: there are no rows.
  """
  if not len(new_U):
    raise ValueError('a difference needs at least one row; got none')
  differences_U = np.asarray(new_U, np.float64) - np.asarray(old_U, np.float64)
  mean = float(differences_U.mean())
  _, clusters_U = np.unique(users_U, return_inverse=True)
  sums_G = np.bincount(clusters_U, differences_U - mean)
  groups = len(sums_G)
  factor = groups / (groups - 1) if groups > 1 else 0.0
  stderr = float(np.sqrt(factor * np.square(sums_G).sum()) / len(differences_U))
  return {'mean': mean, 'stderr': stderr, 'low': mean - Z * stderr, 'high': mean + Z * stderr}


def t_test(found: dict[str, float], users: int) -> float:
  """Returns the two-sided p-value of a difference of zero.

  With one row a user this is the paired t-test on the gains of the users (`scipy.stats.ttest_rel`). With several it
  uses the clustered error of `difference`.

  Args:
    found: the result of `difference`.
    users: the number of distinct users.
  """
  if users < 2 or found['mean'] == 0:
    return 1.0
  if found['stderr'] == 0:  # all users gain the same
    return 0.0
  return float(2 * stats.t.sf(abs(found['mean']) / found['stderr'], users - 1))


def bootstrap(
  new_U: np.ndarray,
  old_U: np.ndarray,
  users_U: np.ndarray,
  resamples: int = RESAMPLES,
  seed: int = 0,
) -> tuple[float, float]:
  """Returns the 95 % percentile interval of the mean of new − old under resampling of users with replacement.

  A user is drawn with all of its rows (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8
  and 13). The mean depends on a user only through its number of rows and the sum of its differences. Users that agree
  in both are drawn together, which gives the same distribution for a fraction of the draws.

  Args:
    new_U: a metric of every row.
    old_U: the metric of the other ranking.
    users_U: ints, the user of every row.
    resamples: number of resamples.
    seed: seed of the resamples.

  Raises:
    ValueError: there are no rows.
  """
  if not len(new_U):
    raise ValueError('a bootstrap needs at least one row; got none')
  differences_U = np.asarray(new_U, np.float64) - np.asarray(old_U, np.float64)
  _, clusters_U = np.unique(users_U, return_inverse=True)
  users_G = np.stack([np.bincount(clusters_U, differences_U), np.bincount(clusters_U)], axis=1)
  # Sums of equal differences in another order differ in their last bits.
  kinds_T2, counts_T = np.unique(users_G.round(12), axis=0, return_counts=True)
  rng = np.random.default_rng(seed)
  means = []
  block = max(BLOCK_CELLS // len(kinds_T2), 1)
  for start in range(0, resamples, block):
    size = min(block, resamples - start)
    draws_RT = rng.multinomial(len(users_G), counts_T / len(users_G), size)
    sums_R2 = draws_RT @ kinds_T2
    means.append(sums_R2[:, 0] / sums_R2[:, 1])
  low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
  return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
  """Returns p-values adjusted for several comparisons (Holm, Scandinavian Journal of Statistics 6, 1979)."""
  p = np.asarray(p_values, np.float64)
  order = np.argsort(p, kind='stable')
  steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
  adjusted = np.empty(len(p))
  adjusted[order] = np.minimum(steps, 1.0)
  return adjusted.tolist()
