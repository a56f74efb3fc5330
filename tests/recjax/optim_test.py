"""Schedules and the optimizer against closed forms."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from recjax import optim
from recjax.config import Optim


@pytest.mark.parametrize(
  ('name', 'after'),
  [
    ('cosine', lambda share: 0.5 * (1 + math.cos(math.pi * share))),
    ('linear', lambda share: 1 - share),
    ('constant', lambda share: 1.0),
  ],
)
def test_schedules_warm_up_and_decay(name, after):
  rate = optim.schedule(Optim(learning_rate=0.5, schedule=name, warmup_steps=10), 110)
  for step in (0, 3, 10):
    assert rate(step) == pytest.approx(0.5 * step / 10)
  for step in (11, 60, 110):
    assert rate(step) == pytest.approx(0.5 * after((step - 10) / 100), abs=1e-7)


def test_one_step_of_clipped_adamw_by_hand():
  config = Optim(
    learning_rate=0.1, schedule='constant', warmup_steps=0, weight_decay=0.5, clip_norm=1.0,
    b1=0.9, b2=0.99, eps=1e-3,
  )  # fmt: skip
  params = {'kernel': jnp.array([2.0, -1.0]), 'scale': jnp.array([3.0])}
  gradients = {'kernel': jnp.array([3.0, 0.0]), 'scale': jnp.array([4.0])}
  tx = optim.optimizer(config, 10)
  updates, _ = tx.update(gradients, tx.init(params), params)
  clipped = 0.6, 0.8  # the norm is 5
  step = [-0.1 * (g / (g + 1e-3)) for g in clipped]  # after bias correction m = g and sqrt(v) = |g|
  np.testing.assert_allclose(updates['kernel'], [step[0] - 0.1 * 0.5 * 2.0, 0.05], rtol=1e-5)
  np.testing.assert_allclose(updates['scale'], [step[1]], rtol=1e-5)  # norms do not decay
