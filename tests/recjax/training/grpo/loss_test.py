"""The clipped loss and its divergence, against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.schema.grpo import Grpo
from recjax.training.grpo.loss import token_losses

LOG = np.log(np.array([1.0, 1.15, 1.4, 0.85, 0.5]))  # ratios to the old probabilities


def losses(now, advantage, **settings):
  old = jnp.zeros((1, 1, len(LOG)))
  return token_losses(now, old, None, jnp.full((1, 1), advantage), Grpo(**settings))


@pytest.mark.parametrize(
  ('advantage', 'expected', 'moves'),
  [
    # A gain grows with the ratio up to 1 + clip_high; a loss shrinks with it down to 1 - clip.
    (2.0, [-2.0, -2.3, -2.6, -1.7, -1.0], [1, 1, 0, 1, 1]),
    (-2.0, [2.0, 2.3, 2.8, 1.7, 1.6], [1, 1, 1, 1, 0]),
  ],
)
def test_a_ratio_beyond_the_clip_has_no_gradient(advantage, expected, moves):
  now = jnp.asarray(LOG)[None, None]
  found, measured = losses(now, advantage, clip=0.2, clip_high=0.3)
  np.testing.assert_allclose(found[0, 0], expected, rtol=1e-5)
  gradient = jax.grad(lambda x: losses(x, advantage, clip=0.2, clip_high=0.3)[0].sum())(now)
  np.testing.assert_allclose(gradient[0, 0], -advantage * np.exp(LOG) * moves, rtol=1e-5)
  np.testing.assert_array_equal(measured['clipped'][0, 0], 1 - np.array(moves))


def test_the_divergence_is_exact_in_expectation():
  p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])
  now, before = (jnp.log(jnp.asarray(x))[None, None] for x in (p, q))
  found, measured = token_losses(now, now, before, jnp.zeros((1, 1)), Grpo(kl=0.5))
  assert float((measured['kl'][0, 0] * p).sum()) == pytest.approx((p * np.log(p / q)).sum())
  np.testing.assert_allclose(found, 0.5 * measured['kl'], rtol=1e-6)
