"""The decoder: packing, causality, windows, the beams' cache, and remat and unrolling."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.models.decoder import Decoder, DecoderConfig
from recjax.models.sasrec import SasrecConfig
from recjax.sids.token_space import TokenSpace

SPACE = TokenSpace(text_size=20, level_sizes=(8, 8, 4))
PLAIN = DecoderConfig(
  depth=3,
  width=16,
  ff_width=32,
  heads=4,
  kv_heads=2,
  head_width=8,
  windows=(0, 0, 0),
  rope_bases=(10_000.0,) * 3,
)
FULL = dataclasses.replace(
  PLAIN,
  windows=(4, 4, 0),
  rope_bases=(10_000.0, 10_000.0, 1_000_000.0),
  post_norms=True,
  qk_norm=True,
  attention_softcap=20.0,
)

SASREC = SasrecConfig(
  **{f.name: getattr(PLAIN, f.name) for f in dataclasses.fields(PLAIN)}, max_positions=12
)


@functools.cache
def model_of(config):
  return Decoder(config, SPACE, nnx.Rngs(params=0))


def one_row(tokens):
  T = len(tokens)
  return {
    'tokens': jnp.asarray(tokens, jnp.int32)[None],
    'segments': jnp.ones((1, T), jnp.int32),
    'positions': jnp.arange(T, dtype=jnp.int32)[None],
  }


def tokens_of(seed, n):
  return np.random.default_rng(seed).integers(0, SPACE.size, n).astype(np.int32)


@pytest.mark.parametrize('config', [PLAIN, FULL, SASREC], ids=['plain', 'full', 'sasrec'])
def test_a_packed_segment_equals_the_segment_alone(config):
  model = model_of(config)
  first, second = tokens_of(1, 7), tokens_of(2, 9)
  packed = {
    'tokens': jnp.asarray(np.concatenate([first, second, [0, 0]]), jnp.int32)[None],
    'segments': jnp.asarray([1] * 7 + [2] * 9 + [0] * 2, jnp.int32)[None],
    'positions': jnp.asarray([*range(7), *range(9), 0, 0], jnp.int32)[None],
  }
  hidden = jax.jit(model.hidden)
  x = hidden(packed)
  np.testing.assert_allclose(x[0, :7], hidden(one_row(first))[0], atol=2e-5)
  np.testing.assert_allclose(x[0, 7:16], hidden(one_row(second))[0], atol=2e-5)
  assert np.isfinite(x).all()


def test_no_position_sees_a_later_token():
  graph, params = nnx.split(model_of(PLAIN))
  batch = one_row(np.arange(10))  # a different token at every position

  def state_at_4(params):
    return jnp.sum(nnx.merge(graph, params).hidden(batch)[0, 4])

  gradients = nnx.to_pure_dict(jax.grad(state_at_4)(params))['tables']['text']
  influence = np.abs(gradients).sum(axis=1)
  assert (influence[:5] > 0).all()
  assert (influence[5:] == 0).all()


def test_a_window_hides_keys_beyond_it():
  config = dataclasses.replace(PLAIN, depth=1, windows=(3,), rope_bases=(10_000.0,))
  model = model_of(config)
  tokens = tokens_of(4, 8)
  changed = tokens.copy()
  changed[:5] = (changed[:5] + 1) % SPACE.size
  hidden = jax.jit(model.hidden)
  before, after = hidden(one_row(tokens))[0], hidden(one_row(changed))[0]
  np.testing.assert_array_equal(before[7], after[7])  # sees positions 5, 6, 7
  assert np.abs(before[6] - after[6]).max() > 1e-4  # sees 4, 5, 6


@pytest.mark.parametrize('config', [PLAIN, FULL, SASREC], ids=['plain', 'full', 'sasrec'])
def test_beams_with_a_shared_prompt_equal_full_sequences(config):
  model = model_of(config)
  prompts = [tokens_of(5, 6), tokens_of(6, 3)]
  suffixes = np.random.default_rng(7).integers(0, SPACE.size, (2, 3, 2)).astype(np.int32)  # B, M, L
  padded = np.zeros((2, 6), np.int32)
  for b, prompt in enumerate(prompts):
    padded[b, : len(prompt)] = prompt
  inputs = {'tokens': jnp.asarray(padded), 'lengths': jnp.asarray([6, 3], jnp.int32)}
  hidden, step = jax.jit(model.hidden), jax.jit(model.step, static_argnums=1)
  x_BD, cache = jax.jit(model.start, static_argnums=(1, 2))(inputs, 3, 2)
  states = [jnp.broadcast_to(x_BD[:, None], (2, 3, 16))]
  parents = jnp.asarray([[2, 0, 1], [1, 2, 0]], jnp.int32)
  x, cache = step(jnp.asarray(suffixes[:, :, 0]), 0, cache)
  states.append(x)
  cache = cache.choose_beams(parents)  # reorders the beams between the two steps
  second = jnp.take_along_axis(jnp.asarray(suffixes[:, :, 1]), parents, axis=1)
  x, cache = step(second, 1, cache)
  states.append(jnp.zeros_like(x).at[jnp.arange(2)[:, None], parents].set(x))
  for b, prompt in enumerate(prompts):
    for m in range(3):
      whole = hidden(one_row(np.concatenate([prompt, suffixes[b, m]])))[0]
      for level in range(3):
        np.testing.assert_allclose(states[level][b, m], whole[len(prompt) - 1 + level], atol=2e-5)


@pytest.mark.parametrize('change', [{'remat': 'full'}, {'scan_unroll': 3}])
def test_remat_and_unrolling_change_no_gradient(change):
  batch = one_row(tokens_of(8, 12))
  key = jax.random.key(0)

  def gradients(config):
    graph, params = nnx.split(model_of(dataclasses.replace(config, dropout=0.3)))

    @jax.jit
    def loss(params):
      return jnp.sum(jnp.sin(nnx.merge(graph, params).hidden(batch, key)))

    return jax.grad(loss)(params)

  expected, got = gradients(PLAIN), gradients(dataclasses.replace(PLAIN, **change))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), expected, got)


def test_bfloat16_stays_close_to_float32():
  batch = one_row(tokens_of(9, 12))
  exact = model_of(PLAIN).hidden(batch)
  rough = model_of(dataclasses.replace(PLAIN, compute_dtype='bfloat16')).hidden(batch)
  assert rough.dtype == jnp.bfloat16
  assert np.abs(np.asarray(rough, np.float32) - exact).max() < 0.1


def test_dropout_keeps_the_mean_and_drops_its_share():
  from recjax.models.layers import dropout

  x = dropout(jnp.ones((400, 500)), jax.random.key(0, impl='rbg'), 0.25)
  assert abs(float(jnp.mean(x == 0)) - 0.25) < 0.005
  assert abs(float(jnp.mean(x)) - 1) < 0.01
  most = dropout(jnp.ones((400, 500)), jax.random.key(0, impl='rbg'), 0.999)
  assert set(np.unique(most).tolist()) == {0.0, 256.0}
