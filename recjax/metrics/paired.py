"""The difference of two rankings of the same rows, with its standard error."""

import numpy as np

Z = 1.96  # of a two-sided interval of 95 %


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
