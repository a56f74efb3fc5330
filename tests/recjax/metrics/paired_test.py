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
