"""Rewards and advantages, against numbers by hand and numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.schema.grpo import Rewards
from recjax.training.grpo import rewards


def test_rewards_of_a_group_by_hand():
  # One group with the target at rank 1, one without it, one with three items only.
  depths = jnp.array([[1, 3, 0, 2], [0, 1, 1, 2], [3, 0, 0, 0]])
  ranks = jnp.tile(jnp.arange(4), (3, 1))
  is_real = jnp.array([[True] * 4, [True] * 4, [True, True, True, False]])
  teacher = jnp.log(jnp.array([[4.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 1.0, 9.0]]))
  found = rewards.parts(depths, ranks, is_real, 3, teacher)
  np.testing.assert_array_equal(found['exact'], [[0, 1, 0, 0], [0] * 4, [1, 0, 0, 0]])
  discounts = np.array([1, 1 / np.log2(3), 1 / 2, 1 / np.log2(5)])
  shares = discounts / discounts.sum()
  expected = [[-shares[0], 0, -shares[2], -shares[3]], [0] * 4, [0, -shares[1], -shares[2], 0]]
  np.testing.assert_allclose(found['rank'], expected, rtol=1e-6)
  thirds = [[1 / 3, 1, 0, 2 / 3], [0, 1 / 3, 1 / 3, 2 / 3], [1, 0, 0, 0]]
  np.testing.assert_allclose(found['prefix_depth'], thirds, rtol=1e-6)
  shares = [[0.5, 0.25, 0.125, 0.125], [0.25] * 4, [0.25, 0.5, 0.25, 0]]
  np.testing.assert_allclose(found['teacher'], shares, rtol=1e-5)
  weights = Rewards(exact=2.0, rank=0.5, prefix_depth=0.1, teacher=0.3)
  by_hand = 2 * 1 + 0.5 * 0 + 0.1 * 1 + 0.3 * 0.25
  assert float(rewards.total(found, weights)[0, 1]) == pytest.approx(by_hand)


def test_depth_counts_leading_codes_alone():
  codes = jnp.array([[[1, 2, 3], [1, 9, 3], [9, 2, 3], [1, 2, 9]]])
  np.testing.assert_array_equal(rewards.depths(codes, jnp.array([[1, 2, 3]])), [[3, 1, 0, 2]])


@pytest.mark.parametrize('scale', [True, False])
def test_advantages_are_standard_scores_of_the_items_of_a_group(scale):
  values = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
  is_real = np.ones((5, 6), bool)
  is_real[1, 4:], is_real[2, 1:], values[3] = False, False, 0.1
  found = np.asarray(rewards.advantages(jnp.asarray(values), jnp.asarray(is_real), scale))
  for n in (0, 1, 4):
    group = values[n][is_real[n]]
    std = group.std(ddof=1) + 1e-4 if scale else 1.0
    np.testing.assert_allclose(
      found[n][is_real[n]], (group - group.mean()) / std, rtol=2e-5, atol=2e-6
    )
  # Without a difference there is exactly none, whatever the rounding of the mean.
  assert not found[3].any()
  assert not found[~is_real].any()
  assert not found[2].any()
