"""The gated delta rule in chunks and by beams, against the rule token by token in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.models import delta_rule


def recurrent(q, k, v, log_decay, strength, segments):
  """Computes the rule as the module states it, one token at a time, in numpy."""
  B, T, K, G, E = v.shape
  state, o = np.zeros((B, K, G, q.shape[-1], E)), np.zeros(v.shape)
  for t in range(T):
    kept = np.exp(log_decay[:, t]) * (segments[:, t] == segments[:, max(t - 1, 0)])[:, None, None]
    state = kept[..., None, None] * state
    known = np.einsum('bkp,bkgpe->bkge', k[:, t], state)
    u = strength[:, t, ..., None] * (v[:, t] - known)
    state = state + np.einsum('bkp,bkge->bkgpe', k[:, t], u)
    o[:, t] = np.einsum('bkp,bkgpe->bkge', q[:, t], state)
  return o, state


def inputs(T):
  """Returns random arguments in float64 with decays of every size; two rows."""
  rng = np.random.default_rng(0)
  B, K, G, P, E = 2, 2, 3, 6, 4
  q, k = rng.normal(size=(2, B, T, K, P))
  q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
  v = rng.normal(size=(B, T, K, G, E))
  log_decay = -rng.exponential(size=(B, T, K, G)) * rng.choice([0.01, 1.0, 40.0], (B, T, K, G))
  return [q, k, v, log_decay, rng.uniform(size=(B, T, K, G))]


def test_chunks_equal_the_recurrence():
  T = 150  # two chunks of 64, and a part of one; segments end in them and between them
  lengths = [[70, 1, 3, 76], [64, 64, 22, 0]]
  segments = np.stack([np.repeat([1, 2, 3, 4], row) for row in lengths])
  with jax.enable_x64(True):
    got = jax.jit(delta_rule.chunked)(*inputs(T), segments)
  expected = recurrent(*inputs(T), segments)
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_the_gradients_are_the_slopes_of_the_recurrence(monkeypatch):
  monkeypatch.setattr(delta_rule, 'CHUNK', 8)
  arrays, rng = inputs(18), np.random.default_rng(1)
  segments, weights = np.repeat([[1, 2, 3]], [9, 2, 7], axis=1), rng.normal(size=arrays[2].shape)
  segments = np.concatenate([segments, np.ones_like(segments)])
  with jax.enable_x64(True):
    loss = jax.grad(lambda x: jnp.sum(weights * delta_rule.chunked(*x, jnp.asarray(segments))[0]))
    gradients = list(map(np.asarray, jax.jit(loss)(arrays)))
  for i in range(len(arrays)):  # along a random direction of each argument
    direction, h = rng.normal(size=arrays[i].shape), 1e-6
    ends = [
      np.sum(weights * recurrent(*arrays[:i], x, *arrays[i + 1 :], segments)[0])
      for x in (arrays[i] + h * direction, arrays[i] - h * direction)
    ]
    slope = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose(np.sum(gradients[i] * direction), slope, rtol=1e-6)


def test_beams_after_a_shared_prompt_equal_whole_rows():
  prompt, M, L = 90, 2, 4  # both rows begin with the same prompt; beams hold the other tokens
  arrays = inputs(prompt + L)
  for x in arrays:
    x[1, :prompt] = x[0, :prompt]
  expected, _ = recurrent(*arrays, np.ones((2, prompt + L)))
  state = recurrent(*(x[:1, :prompt] for x in arrays), np.ones((1, prompt)))[1]
  (K, P), (G, E) = arrays[1].shape[2:], arrays[2].shape[3:]
  with jax.enable_x64(True):
    shapes = ((P,), (G, E), (G,))
    suffix = delta_rule.Suffix(*(jnp.full((1, M, L, K, *shape), 7.0) for shape in shapes))
    step = jax.jit(delta_rule.beam_step)
    for t in range(L):  # places that are not yet written hold anything
      token = (x[None, :, prompt + t] for x in arrays)
      o, suffix = step(*token, state, suffix, t)
      np.testing.assert_allclose(o[0], expected[:, prompt + t], atol=1e-13)


def test_the_inverse_is_that_of_numpy():
  equal = np.tril(np.ones((64, 64)), -1)  # of equal keys that are written with strength 1
  lower = np.stack([equal, equal * np.random.default_rng(0).uniform(-1, 1, (64, 64))])
  expected = np.linalg.inv(np.eye(64) + lower)
  got = jax.jit(delta_rule.inverse)(jnp.asarray(lower, jnp.float32)[:, None])[:, 0]
  largest = np.abs(expected).max(axis=(1, 2))
  assert (np.abs(got - expected).max(axis=(1, 2)) <= 1e-6 * largest).all()


@pytest.mark.parametrize(('length', 'tokens'), [(1, 8), (8, 8), (9, 16), (64, 64), (500, 64)])
def test_short_rows_have_short_chunks(length, tokens):
  assert delta_rule.chunk_of(length) == tokens
