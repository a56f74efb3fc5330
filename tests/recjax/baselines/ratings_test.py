"""Baselines of ratings, by hand and by the solution of the least-squares problem."""

import numpy as np
import pytest

from recjax.baselines import ratings
from recjax.baselines.ratings import RATING_BASELINES, Ratings

SMALL = Ratings(
  users_R=np.array([0, 0, 1]), items_R=np.array([0, 1, 0]), ratings_R=np.array([5.0, 1.0, 3.0]),
  num_users=3, num_items=3,
)  # fmt: skip


def test_means_by_hand():
  users, items = np.array([2, 1, 0]), np.array([0, 1, 2])
  assert ratings.global_mean(SMALL, users, items).tolist() == [3.0] * 3
  assert ratings.item_mean(SMALL, users, items).tolist() == [4.0, 1.0, 3.0]  # unseen: the mean


def test_biases_minimise_the_regularised_squares():
  rng = np.random.default_rng(0)
  users, items = rng.integers(0, 8, 120), rng.integers(0, 6, 120)
  known = Ratings(users, items, rng.integers(1, 6, 120).astype(float), 9, 7)
  design = np.zeros((120, 16))
  design[np.arange(120), users] = design[np.arange(120), 9 + items] = 1
  pull = np.diag([ratings.USER_PULL] * 9 + [ratings.ITEM_PULL] * 7)
  left = known.ratings_R - known.mean
  biases = np.linalg.solve(design.T @ design + pull, design.T @ left)
  every_user, every_item = np.repeat(np.arange(9), 7), np.tile(np.arange(7), 9)
  expected = known.mean + biases[every_user] + biases[9 + every_item]
  found = ratings.user_item_bias(known, every_user, every_item)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert found[-1] == pytest.approx(known.mean)  # neither the user nor the item has a rating


def test_every_baseline_predicts_one_number_a_row():
  for predict in RATING_BASELINES.values():
    assert predict(SMALL, np.array([0, 2]), np.array([2, 1])).shape == (2,)
