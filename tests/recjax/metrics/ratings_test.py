"""Metrics of ratings, compared with scikit-learn and with sums over all pairs."""

import numpy as np
import pytest
import sklearn.metrics

from recjax.metrics.ratings import rating_metrics


def test_metrics_equal_scikit_learn():
  rng = np.random.default_rng(0)
  for _ in range(50):
    true = rng.integers(1, 6, 60).astype(float)
    predicted = np.round(true + rng.normal(0, 1.5, 60))  # with ties
    found = rating_metrics(predicted, true, 4.0)
    assert found['rmse'] == pytest.approx(sklearn.metrics.root_mean_squared_error(true, predicted))
    assert found['mae'] == pytest.approx(sklearn.metrics.mean_absolute_error(true, predicted))
    assert found['auc'] == pytest.approx(sklearn.metrics.roc_auc_score(true >= 4, predicted))


def test_the_error_of_auc_is_the_sum_of_two_variances_over_all_pairs():
  rng = np.random.default_rng(1)
  true, predicted = rng.integers(1, 6, 40).astype(float), rng.integers(1, 6, 40).astype(float)
  liked, others = predicted[true >= 4], predicted[true < 4]
  wins = (liked[:, None] > others) + (liked[:, None] == others) / 2
  expected = wins.mean(1).var(ddof=1) / len(liked) + wins.mean(0).var(ddof=1) / len(others)
  assert rating_metrics(predicted, true, 4.0)['auc_stderr'] == pytest.approx(np.sqrt(expected))


def test_errors_by_hand():
  found = rating_metrics(np.array([3.0, 5.0, 1.0]), np.array([4.0, 4.0, 4.0]), 5.0)
  assert found['rmse'] == pytest.approx(np.sqrt(11 / 3))
  squares = np.array([1.0, 1.0, 9.0])
  error = squares.std(ddof=1) / np.sqrt(3) / (2 * np.sqrt(11 / 3))
  assert found['rmse_stderr'] == pytest.approx(error)
  assert found['mae'] == pytest.approx(5 / 3)
  assert 'auc' not in found  # no item is liked
  exact = rating_metrics(np.array([2.0]), np.array([2.0]), 1.0)
  assert exact == {'rmse': 0.0, 'rmse_stderr': 0.0, 'mae': 0.0, 'mae_stderr': 0.0}
