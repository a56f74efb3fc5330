"""Paired differences against scipy and a bootstrap over users."""

import numpy as np
import pytest
from scipy import stats

from recjax.metrics import paired


def test_with_one_row_a_user_the_error_is_that_of_a_mean():
  rng = np.random.default_rng(0)
  new, old = rng.random((2, 50))
  found = paired.difference(new, old, np.arange(50))
  assert found['mean'] == pytest.approx((new - old).mean())
  assert found['stderr'] == pytest.approx(stats.sem(new - old))
  assert found['high'] - found['low'] == pytest.approx(2 * 1.96 * found['stderr'])
  assert paired.difference(new, new, np.arange(50)) == dict.fromkeys(found, 0.0)


def test_rows_of_one_user_count_as_one_cluster():
  rng = np.random.default_rng(1)
  users = np.repeat(np.arange(200), rng.integers(1, 6, 200))
  values = rng.normal(size=200)[users] + 0.1 * rng.normal(size=len(users))
  found = paired.difference(values, np.zeros(len(users)), users)
  rows = [np.flatnonzero(users == user) for user in range(200)]
  draws = [np.concatenate([rows[u] for u in rng.integers(0, 200, 200)]) for _ in range(1000)]
  assert found['stderr'] == pytest.approx(np.std([values[draw].mean() for draw in draws]), rel=0.1)
  assert found['stderr'] > 1.5 * stats.sem(values)
  assert paired.difference([1.0, 3.0], [0.0, 0.0], [7, 7])['stderr'] == 0.0
  with pytest.raises(ValueError, match='at least one row'):
    paired.difference([], [], [])


def test_the_t_test_is_that_of_scipy_with_one_row_a_user():
  rng = np.random.default_rng(2)
  new, old = rng.random((2, 40))
  found = paired.difference(new, old, np.arange(40))
  assert paired.t_test(found, 40) == pytest.approx(stats.ttest_rel(new, old).pvalue)
  assert paired.t_test(paired.difference(new, new, np.arange(40)), 40) == 1.0
  assert paired.t_test(paired.difference(new + 1, new, np.arange(40)), 40) < 1e-300


@pytest.mark.parametrize('rows', [1, 4])
def test_the_bootstrap_is_that_of_scipy_over_users(rows):
  rng = np.random.default_rng(3)
  users = np.repeat(np.arange(150), rng.integers(1, rows + 1, 150))
  gains = rng.choice([-1.0, 0.0, 0.0, 0.5, 1.0], len(users))
  found = paired.bootstrap(gains, np.zeros(len(users)), users, resamples=20_000)
  sums, counts = np.bincount(users, gains), np.bincount(users)
  expected = stats.bootstrap(
    (sums, counts), lambda s, n, axis: s.sum(axis) / n.sum(axis), paired=True, vectorized=True,
    n_resamples=20_000, method='percentile', rng=np.random.default_rng(4),
  ).confidence_interval  # fmt: skip
  np.testing.assert_allclose(found, [expected.low, expected.high], atol=6e-3)
  assert found == paired.bootstrap(gains, np.zeros(len(users)), users, resamples=20_000)
  paired.BLOCK_CELLS, cells = 500, paired.BLOCK_CELLS
  try:
    blocks = paired.bootstrap(gains, np.zeros(len(users)), users, resamples=20_000)
  finally:
    paired.BLOCK_CELLS = cells
  np.testing.assert_allclose(found, blocks, atol=6e-3)


def test_intervals_cover_the_true_difference():
  rng = np.random.default_rng(5)
  covered, samples, true = 0, 200, 0.1
  for _ in range(samples):
    users = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    means = rng.choice([-0.4, 0.2, 0.5], 60)[users]  # users differ, which correlates their rows
    gains = np.sign(means) * (rng.random(len(users)) < np.abs(means))
    low, high = paired.bootstrap(gains, np.zeros(len(users)), users, resamples=300)
    covered += low <= true <= high
  assert 0.91 <= covered / samples <= 0.98


def test_p_values_are_adjusted_by_holm():
  assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
  assert paired.holm([0.9, 0.8]) == [1.0, 1.0]
  assert paired.holm([]) == []
