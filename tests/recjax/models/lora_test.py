"""Adapters: initialisation, merging, training, memory and sharding."""

import dataclasses
import functools

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import models
from recjax.models import lora
from recjax.models.layers import Linear
from recjax.schema.model import Model
from recjax.schema.optim import Group, Optim
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import table as parameter_table
from recjax.sids.token_space import TokenSpace
from recjax.training import optim, state
from recjax.training.step import make_train_step

SPACE = TokenSpace(20, (6, 6))
TARGETS = 'attention|ff'


def model_config(family='gemma', **fields):
  heads = {'heads': 4, 'kv_heads': 4 if family == 't5' else 2, 'head_width': 8}
  return Model(family=family, depth=2, width=16, ff_width=24, **heads, **fields)


@functools.cache
def built(family):
  """Returns a model's graph and random parameters."""
  model = nnx.eval_shape(lambda: models.build(model_config(family), SPACE, 0))
  graph, weights = nnx.split(model)
  rng = np.random.default_rng(0)
  return graph, jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), nnx.to_pure_dict(weights)
  )


@pytest.mark.parametrize('family', ['gemma', 't5'])
def test_fresh_adapters_change_no_output_and_cover_every_target_kernel(family):
  _, params = built(family)
  adapters = lora.init(jax.random.key(0), params, 2, TARGETS)
  merged = lora.merge(params | {lora.NAME: adapters}, 16.0)
  jax.tree.map(np.testing.assert_array_equal, merged, params)
  names = {name for name in parameter_table.describe(params, mesh()).split() if 'kernel' in name}
  pairs = parameter_table.describe({lora.NAME: adapters}, mesh()).split()
  assert {f'lora/{name}/{x}' for name in names for x in 'ab'} == {n for n in pairs if 'lora' in n}
  assert lora.merge(params, 16.0) is params


def mesh():
  return mesh_lib.make_mesh(Mesh(data=2, fsdp=2, tensor=2))


def test_merged_kernels_equal_kernels_with_adapters():
  graph, params = built('gemma')
  rng = np.random.default_rng(1)
  adapters = lora.init(jax.random.key(1), params, 2, TARGETS)
  adapters = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), adapters)
  params = params | {lora.NAME: adapters}
  merged = lora.merge(params, 6.0)
  layers, adapters = params['layers'], params[lora.NAME]['layers']
  blocks = {'attention': ('q', 'k', 'v', 'out'), 'ff': ('gate', 'up', 'down')}
  plain = nnx.merge(graph, lora.base(params)).layers
  for block, names in blocks.items():
    for name in names:
      spec = getattr(getattr(plain, block), name).spec
      kernels, ab = layers[block][name]['kernel'], adapters[block][name]['kernel']
      for n in range(2):
        shape = kernels.shape[1:]
        linear = Linear(spec, shape, 1, nnx.Rngs(0))
        inputs = shape[:2] if name == 'out' else shape[:1]
        x = rng.normal(size=(5, *inputs)).astype(np.float32)
        linear.kernel = nnx.Param(kernels[n])
        beside = x.reshape(5, -1) @ ab['a'][n] @ ab['b'][n] * (6.0 / 2)
        y = linear(x)
        adapted = y + beside.reshape(y.shape)
        linear.kernel = nnx.Param(merged['layers'][block][name]['kernel'][n])
        np.testing.assert_allclose(linear(x), adapted, rtol=1e-4, atol=1e-4)


def test_only_targets_are_adapted_and_a_pattern_without_one_is_refused():
  _, params = built('gemma')
  adapters = lora.init(jax.random.key(0), params, 2, 'attention/[qv]/')
  assert set(adapters['layers']) == {'attention'}
  assert set(adapters['layers']['attention']) == {'q', 'v'}
  assert jax.tree.map(jnp.shape, adapters['layers']['attention']['q']['kernel']) == {
    'a': (2, 16, 2),
    'b': (2, 2, 32),
  }
  with pytest.raises(
    ValueError, match=r"'tables' matches none of layers/attention/k/kernel.*Set --config.model.lora"
  ):
    lora.init(jax.random.key(0), params, 2, 'tables')


@pytest.mark.parametrize('family', ['gemma', 't5'])
def test_a_model_with_adapters_computes_the_same_as_the_merged_one(family):
  graph, params = built(family)
  params = jax.tree.map(lambda x: 0.2 * x, params)
  rng = np.random.default_rng(2)
  adapters = lora.init(jax.random.key(1), params, 2, 'attention|ff/up')
  adapters = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape).astype(np.float32), adapters)
  shape = (2, 6)
  batch = {
    name: jnp.asarray(rng.integers(1, 20, shape), jnp.int32)
    for name in ('tokens', 'encoder_tokens')
  }
  batch |= {'segments': jnp.ones(shape, jnp.int32), 'encoder_segments': jnp.ones(shape, jnp.int32)}
  batch['positions'] = jnp.tile(jnp.arange(6), (2, 1))
  weights = rng.normal(size=(*shape, 16)).astype(np.float32)

  def beside(adapters):
    return jnp.sum(lora.adapted(graph, params | {lora.NAME: adapters}, 6.0).hidden(batch) * weights)

  def merged(adapters):
    model = nnx.merge(graph, lora.merge(params | {lora.NAME: adapters}, 6.0))
    return jnp.sum(model.hidden(batch) * weights)

  (x, dx), (y, dy) = (jax.jit(jax.value_and_grad(f))(adapters) for f in (beside, merged))
  np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
  largest = max(float(jnp.abs(d).max()) for d in jax.tree.leaves(dy))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * largest), dx, dy)


def run_config(**fields):
  config = config_lib.from_config_dict(config_lib.defaults(source='synthetic', name='world'))
  return dataclasses.replace(config, model=model_config(lora_rank=2), **fields)


@pytest.mark.parametrize(
  ('family', 'settings', 'expected'),
  [
    ('gemma', {'train_sid_rows': False}, set()),
    ('gemma', {'groups': {'old': Group(pattern='tables', frozen=True)}}, set()),
    ('t5', {'groups': {'text': Group(pattern='tables/text$')}},
     {'tables/sid', 'tables/sid_out', 'tables/text'}),
    ('t5', {'train_sid_rows': False, 'groups': {'sid': Group(pattern='tables/sid$')}}, {'tables/sid'}),
    ('qwen3_0_6b', {}, {'tables/sid'}),
  ],
)  # fmt: skip
def test_groups_decide_about_sid_rows_beside_adapters(family, settings, expected):
  model = model_config(family if family in models.FAMILIES else 'gemma', lora_rank=2)
  if family not in models.FAMILIES:
    model = Model(family='qwen', size=family, lora_rank=2)
  params = state.abstract_params(model, SPACE, one_device())
  trained, frozen = optim.split(params, Optim(**settings))
  assert {name for name in flat(trained) if not name.startswith('lora/')} == expected
  assert flat(trained).keys() | flat(frozen).keys() == flat(params).keys()


def one_device():
  return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), mesh_lib.AXES)


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


def test_training_changes_only_adapters_and_sid_rows():
  rates = {'learning_rate': 0.01, 'warmup_steps': 0, 'weight_decay': 0.5}
  config = run_config(optim=Optim(**rates), grad_accumulation=2)
  tx = optim.optimizer(config.optim, config.num_train_steps)
  before = state.init_state(config.model, SPACE, tx, one_device(), config.seed)
  before = jax.tree.map(np.array, before)
  adapters = {name for name in flat(before.params) if name.startswith('lora/')}
  # Two moments of each trained parameter, and none of another.
  sizes = {name: x.size for name, x in flat(before.params).items()}
  held = sum(x.size for x in jax.tree.leaves(before.opt_state))
  assert 0 <= held - 2 * sum(sizes[name] for name in adapters | {'tables/sid'}) < 4
  rng = np.random.default_rng(0)
  shape = (4, 12)
  batch = {
    'tokens': rng.integers(0, 20, shape),
    # Codes of both levels in turn: a row has room for half of its targets per level.
    'targets': rng.integers(0, 6, shape) + np.tile([20, 26], 6),
    'segments': np.ones(shape),
    'positions': np.tile(np.arange(12), (4, 1)),
  }
  batch = {name: jnp.asarray(x, jnp.int32) for name, x in batch.items()}
  batch |= {'weights': jnp.ones(shape), 'dropped': jnp.zeros(4, jnp.int32)}
  batch['learnt'] = jnp.full(4, shape[1], jnp.int32)
  step = jax.jit(make_train_step(config, models.graph(config.model, SPACE), tx, False))
  after, losses = before, []
  for _ in range(3):
    after, metrics = step(after, batch)
    losses.append(float(metrics['loss']))
  assert losses[2] < losses[1] < losses[0]
  old, new = flat(before.params), flat(after.params)
  changed = {name for name in old if old[name].tobytes() != np.asarray(new[name]).tobytes()}
  assert changed - adapters == {'tables/sid'}
  assert len(changed & adapters) > len(adapters) / 2


def test_a_training_step_holds_no_second_copy_of_the_kernels():
  config = run_config()
  wide = dataclasses.replace(config.model, width=256, ff_width=512, depth=8)
  config = dataclasses.replace(config, model=wide)
  tx = optim.optimizer(config.optim, config.num_train_steps)
  abstract = state.abstract_state(config.model, SPACE, tx, one_device())
  batch = {name: jnp.ones((1, 4), jnp.int32) for name in ('tokens', 'targets', 'segments')}
  batch |= {'positions': batch['tokens'], 'dropped': jnp.zeros(1, jnp.int32)}
  batch['learnt'] = jnp.full(1, 4, jnp.int32)
  batch['weights'] = jnp.ones((1, 4))
  step = jax.jit(
    make_train_step(config, models.graph(config.model, SPACE), tx, False), donate_argnums=0
  )
  taken = step.lower(abstract, batch).compile().memory_analysis().temp_size_in_bytes
  kernels = [
    x.size * 4
    for path, x in jax.tree_util.tree_leaves_with_path(lora.base(abstract.params)['layers'])
    if 'kernel' in jax.tree_util.keystr(path)
  ]
  # Slices of one layer are allowed; merged kernels and their gradients would take twice the sum.
  assert taken < sum(kernels) / 2, (taken, sum(kernels))


def test_adapters_are_sharded_like_their_kernels():
  config = run_config()
  tx = optim.optimizer(config.optim, 10)
  adapters = state.abstract_state(config.model, SPACE, tx, mesh()).params[lora.NAME]['layers']
  specs = {
    name: jax.tree.map(lambda x: x.sharding.spec, adapters['ff'][name]['kernel'])
    for name in ('up', 'down')
  }
  assert specs == {
    'up': {'a': P(None, 'fsdp', None), 'b': P(None, None, 'tensor')},
    'down': {'a': P(None, 'tensor', None), 'b': P(None, None, 'fsdp')},
  }
