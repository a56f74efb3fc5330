"""The loss against a naive loop over positions."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax.loss import loss_sums
from recjax.models.embedding import TokenTables
from recjax.sids.token_space import TokenSpace

SPACE = TokenSpace(text_size=30, level_sizes=(8, 6, 4))


def example(seed=0, B=3, T=12):
  """Rows that hold whole items (three levels each) and text, with weights."""
  rng = np.random.default_rng(seed)
  targets = np.zeros((B, T), np.int32)
  for b in range(B):
    items = [SPACE.tokens(rng.integers(0, SPACE.level_sizes)) for _ in range(b + 1)]
    row = np.concatenate([*items, rng.integers(0, SPACE.text_size, T - 3 * (b + 1))])
    targets[b] = np.roll(row, rng.integers(0, T))
  weights = rng.choice([0.0, 0.5, 1.0], (B, T)).astype(np.float32)
  x = rng.normal(size=(B, T, 8)).astype(np.float32)
  return TokenTables(SPACE, 8, nnx.Rngs(params=seed)), x, targets, weights


def naive(tables, x, targets, weights, sid_softmax):
  text = np.asarray(tables.text[...], np.float64)[: SPACE.text_size]
  sid = np.asarray(tables.sid[...], np.float64)[: SPACE.sid_size]
  total = 0.0
  for b, t in np.ndindex(targets.shape):
    token, state = targets[b, t], x[b, t].astype(np.float64)
    if sid_softmax == 'full':
      rows, label = np.concatenate([text, sid]), token
    elif token < SPACE.sid_start:
      rows, label = text, token
    else:
      row = token - SPACE.sid_start
      level = max(i for i in range(3) if row >= SPACE.level_starts[i])
      start = SPACE.level_starts[level]
      rows, label = sid[start : start + SPACE.level_sizes[level]], row - start
    total -= weights[b, t] * scipy.special.log_softmax(rows @ state)[label]
  return total


@pytest.mark.parametrize('sid_softmax', ['level', 'full'])
def test_equals_a_loop_over_positions(sid_softmax):
  tables, x, targets, weights = example()
  batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}
  sums = loss_sums(tables, jnp.asarray(x), batch, sid_softmax, text_targets=True)
  expected = naive(tables, x, targets, weights, sid_softmax)
  np.testing.assert_allclose(sums['loss'], expected, rtol=1e-5)
  np.testing.assert_allclose(sums['weight'], weights.sum(), rtol=1e-6)


def test_a_full_row_of_items_counts_every_one():
  tables, x, _, _ = example()
  codes = np.random.default_rng(1).integers(0, SPACE.level_sizes, (3, 4, 3))
  targets = SPACE.tokens(codes).reshape(3, 12)
  weights = np.ones((3, 12), np.float32)
  batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}
  sums = loss_sums(tables, jnp.asarray(x), batch, 'level', text_targets=False)
  np.testing.assert_allclose(sums['loss'], naive(tables, x, targets, weights, 'level'), rtol=1e-5)
  assert [float(sums[f'weight_level_{level}']) for level in (1, 2, 3)] == [12, 12, 12]


def test_padding_rows_get_no_gradient_and_text_rows_none_from_sids():
  tables, x, targets, weights = example()
  graph, params = nnx.split(tables)
  batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}

  def loss(params):
    return loss_sums(nnx.merge(graph, params), jnp.asarray(x), batch, 'level', False)['loss']

  gradients = nnx.to_pure_dict(jax.grad(loss)(params))
  assert np.abs(gradients['sid'][: SPACE.sid_size]).sum() > 0
  assert np.abs(gradients['sid'][SPACE.sid_size :]).sum() == 0
  assert np.abs(gradients['text']).sum() == 0
