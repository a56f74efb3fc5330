"""The hybrid decoder: the beams' cache, the order of its layers, adapters and shardings."""

import dataclasses
import functools

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.models import lora
from recjax.models.hybrid import HybridConfig, HybridDecoder
from recjax.models.qwen3_5 import FAMILY
from recjax.sharding import rules
from recjax.sids.token_space import TokenSpace

SPACE = TokenSpace(text_size=20, level_sizes=(8, 8, 4))
CONFIG = HybridConfig(
  depth=2,
  width=16,
  ff_width=32,
  heads=4,
  kv_heads=2,
  head_width=8,
  windows=(0,) * 2,
  rope_bases=(100.0,) * 2,
  rotary_width=4,
  gated=True,
  qk_norm=True,
  activation='silu',
  embedding_scale=False,
  kinds=('linear', 'full'),
  linear=(2, 2, 6, 4, 4),
)


@functools.cache
def model_of(config=CONFIG):
  return HybridDecoder(config, SPACE, nnx.Rngs(params=0))


def tokens_of(seed, n):
  return np.random.default_rng(seed).integers(0, SPACE.size, n).astype(np.int32)


def rows_of(rows, T):
  """Returns a batch with one segment a row, padded on the right."""
  tokens = np.stack([np.pad(row, (0, T - len(row))) for row in rows])
  lengths = np.array([[len(row)] for row in rows])
  positions = np.broadcast_to(np.arange(T)[None], tokens.shape)
  batch = {'tokens': tokens, 'segments': positions < lengths, 'positions': positions}
  return {name: jnp.asarray(x, jnp.int32) for name, x in batch.items()}


def test_beams_with_a_shared_prompt_equal_full_sequences():
  model, T = model_of(), 3
  prompts = [tokens_of(5, 6), tokens_of(6, 2)]  # one is shorter than the convolution
  suffixes = np.random.default_rng(7).integers(0, SPACE.size, (2, 3, T)).astype(np.int32)  # B, M, T
  padded = np.zeros((2, 6), np.int32)
  for b, prompt in enumerate(prompts):
    padded[b, : len(prompt)] = prompt
  inputs = {'tokens': jnp.asarray(padded), 'lengths': jnp.asarray([6, 2], jnp.int32)}
  whole = [np.concatenate([prompts[b], suffixes[b, m]]) for b in range(2) for m in range(3)]
  expected = np.asarray(jax.jit(model.hidden)(rows_of(whole, 9))).reshape(2, 3, 9, 16)
  step = jax.jit(model.step)
  x_BD, cache = jax.jit(model.start, static_argnums=(1, 2))(inputs, 3, T)
  order = np.tile(np.arange(3), (2, 1))  # beam m holds the suffix order[:, m]
  for b in range(2):
    np.testing.assert_allclose(x_BD[b], expected[b, 0, len(prompts[b]) - 1], atol=1e-4)
  for t, parents in enumerate(([[2, 0, 1], [1, 1, 0]], [[1, 2, 0], [2, 0, 1]], None)):
    tokens_BM = np.take_along_axis(suffixes[:, :, t], order, axis=1)
    x, cache = step(jnp.asarray(tokens_BM), t, cache)
    for b in range(2):
      at = len(prompts[b]) + t
      np.testing.assert_allclose(x[b], expected[b, order[b], at], atol=1e-4)
    if parents is not None:
      cache = cache.choose_beams(jnp.asarray(parents, jnp.int32))
      order = np.take_along_axis(order, np.asarray(parents), axis=1)


@pytest.mark.parametrize(('kinds', 'period'), [('llf' * 2, 'llf'), ('lffl', 'lffl')])
def test_layers_keep_their_order(kinds, period):
  names = {'l': 'linear', 'f': 'full'}
  kinds, depth = tuple(names[kind] for kind in kinds), len(kinds)
  per_layer = {'windows': (0,) * depth, 'rope_bases': (1.0,) * depth}
  config = dataclasses.replace(CONFIG, kinds=kinds, depth=depth, **per_layer)
  assert config.period == tuple(names[kind] for kind in period)
  numbers = {kind: np.flatnonzero([k == kind for k in kinds]) for kind in names.values()}

  def visit(_, seen, number):
    return seen * 10 + number + 1, number

  def run(model):  # appends the number of each layer to those seen so far
    inputs = {kind: (jnp.asarray(n),) for kind, n in numbers.items()}
    return model._run(dict.fromkeys(numbers, visit), jnp.int32(0), inputs)

  model = nnx.eval_shape(lambda: HybridDecoder(config, SPACE, nnx.Rngs(params=0)))
  graph, params = nnx.split(model)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), params)
  seen, outputs = jax.jit(lambda params: run(nnx.merge(graph, params)))(zeros)
  assert int(seen) == int(''.join(str(layer + 1) for layer in range(depth)))
  jax.tree.map(np.testing.assert_array_equal, outputs, numbers)


def test_every_kernel_may_have_an_adapter_and_every_parameter_has_a_sharding():
  params = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: model_of.__wrapped__()))[1])
  flat = traverse_util.flatten_dict(params, sep='/')
  for name, x in flat.items():
    rule = rules.rule_of(name, FAMILY.parameter_rules)
    assert rule and len(rule[0]) <= x.ndim, name
  adapters = traverse_util.flatten_dict(
    lora.init(jax.random.key(0), params, 2, 'attention|ff'), sep='/'
  )
  kernels = {name for name in flat if name.endswith('kernel')}
  assert {name.rpartition('/')[0] for name in adapters} == kernels
  qkv, out = (f'layers/linear/attention/{name}/kernel' for name in ('qkv', 'out'))
  assert adapters[f'{qkv}/a'].shape == (1, 16, 2) and adapters[f'{qkv}/b'].shape == (1, 2, 2 * 20)
  assert adapters[f'{out}/a'].shape == (1, 2 * 8, 2) and adapters[f'{out}/b'].shape == (1, 2, 16)


@pytest.mark.soak
def test_rematerialisation_and_dropout_of_whole_layers():
  batch, key = rows_of([tokens_of(8, 12)], 12), jax.random.key(0)

  def gradients(**fields):
    graph, params = nnx.split(model_of(dataclasses.replace(CONFIG, dropout=0.3, **fields)))

    @jax.jit
    def loss(params):
      return jnp.sum(jnp.sin(nnx.merge(graph, params).hidden(batch, key)))

    return jax.grad(loss)(params)

  again = gradients(remat='full')
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradients(), again)


def test_a_model_without_layers_of_one_kind_is_refused():
  with pytest.raises(ValueError, match=r'must be linear and full, each .*; got full, full$'):
    dataclasses.replace(CONFIG, kinds=('full', 'full'))
