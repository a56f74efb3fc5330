"""Metrics of predicted ratings, with standard errors."""

from collections.abc import Mapping

import numpy as np

from recjax.metrics import ranking

LOWER_IS_BETTER = frozenset({'rmse', 'mae'})
NAMES = ('rmse', 'mae', 'auc')


def rating_metrics(
  predicted_R: np.ndarray, ratings_R: np.ndarray, liked_from: float
) -> dict[str, float]:
  """Returns `rmse`, `mae` and, if there are liked and other items, `auc`, each with `<metric>_stderr`.

  The error of the RMSE is that of the mean squared error, by the delta method divided by 2 RMSE. `auc` is the
  probability that a liked item has a higher prediction than another one; equal predictions count a half. Its error is
  that of DeLong et al. (Biometrics 44, 1988).

  Args:
    predicted_R: numbers.
    ratings_R: the true ratings.
    liked_from: lowest rating of a liked item.

  Raises:
    ValueError: there are no rows.
  """
  errors_R = np.asarray(predicted_R, np.float64) - np.asarray(ratings_R, np.float64)
  square = ranking.mean_and_error('mse', np.square(errors_R))
  rmse = float(np.sqrt(square['mse']))
  metrics = {'rmse': rmse, 'rmse_stderr': square['mse_stderr'] / (2 * rmse) if rmse else 0.0}
  metrics |= ranking.mean_and_error('mae', np.abs(errors_R))
  is_liked_R = np.asarray(ratings_R) >= liked_from
  if is_liked_R.any() and not is_liked_R.all():
    metrics |= _auc(predicted_R[is_liked_R], predicted_R[~is_liked_R])
  return metrics


def named(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
  """Returns the metrics with a prefix and an underscore before their names."""
  return {f'{prefix}_{name}': value for name, value in metrics.items()}


def _auc(liked: np.ndarray, others: np.ndarray) -> dict[str, float]:
  """Returns `auc` and `auc_stderr` of the predictions for liked and other items."""
  above = _shares_below(liked, others)  # for every liked item, the share of other items below it
  below = 1 - _shares_below(others, liked)
  variance = sum(shares.var(ddof=1) / len(shares) for shares in (above, below) if len(shares) > 1)
  return {'auc': float(above.mean()), 'auc_stderr': float(np.sqrt(variance))}


def _shares_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Returns for every value the share of others below it; equal ones count a half."""
  ordered = np.sort(others)
  counts = np.searchsorted(ordered, values, 'left') + np.searchsorted(ordered, values, 'right')
  return counts / (2 * len(others))
