"""Schedules, groups, optimizers and averages against closed forms and optax."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from recjax.schema.model import Model
from recjax.schema.optim import Group, Optim
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.training import optim
from recjax.training.state import TrainState


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


def test_inverse_sqrt_after_the_warm_up():
  rate = optim.schedule(Optim(learning_rate=0.5, schedule='inverse_sqrt', warmup_steps=16), 99)
  assert rate(8) == pytest.approx(0.25)
  assert rate(16) == pytest.approx(0.5)
  assert rate(64) == pytest.approx(0.25)  # sqrt(16 / 64)
  at_once = optim.schedule(Optim(learning_rate=0.5, schedule='inverse_sqrt', warmup_steps=0), 99)
  assert [float(at_once(step)) for step in (0, 3)] == pytest.approx([0.5, 0.25])


def tree(seed=0):
  """A model in small: two layers, stacked, and two tables."""
  rng = np.random.default_rng(seed)

  def array(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  return {
    'layers': {'ff': {'kernel': array(2, 3, 4)}, 'norm': {'scale': array(2, 3)}},
    'tables': {'text': array(5, 3), 'sid': array(4, 3)},
  }


def steps(config, params, count=3, num_train_steps=10):
  """The parameters after each of some jitted steps, and the last optimizer state."""
  tx = optim.optimizer(config, num_train_steps)
  opt_state = jax.jit(tx.init)(params)

  @jax.jit
  def step(params, opt_state, gradients):
    trained, frozen = optim.split(params, config)
    gradients, _ = optim.split(gradients, config)
    updates, opt_state = tx.update(gradients, opt_state, trained)
    return optim.join(optax.apply_updates(trained, updates), frozen), opt_state

  trajectory = []
  for seed in range(count):
    params, opt_state = step(params, opt_state, tree(seed + 1))
    trajectory.append(params)
  return trajectory, opt_state


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_without_groups_the_result_is_optax_adamw_bit_by_bit():
  config = Optim(learning_rate=0.1, warmup_steps=1, weight_decay=0.3, clip_norm=0.5)
  params = tree()
  decayed = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != 'scale', params)
  reference = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.adamw(
      optim.schedule(config, 10), b1=0.9, b2=0.98, eps=1e-8, weight_decay=0.3, mask=decayed
    ),
  )
  opt_state = reference.init(params)

  @jax.jit
  def step(params, opt_state, gradients):
    updates, opt_state = reference.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  expected = params
  for seed in range(3):
    expected, opt_state = step(expected, opt_state, tree(seed + 1))
  assert_equal(steps(config, params)[0][-1], expected)


def constant(**fields):
  return Optim(learning_rate=0.1, schedule='constant', warmup_steps=0, **fields)


def test_frozen_parameters_stay_bit_identical_and_hold_no_moments():
  groups = {'rest': Group(pattern='^(layers|tables/text)', frozen=True)}
  params = tree()
  params['tables']['text'] = params['tables']['text'].at[0, 0].set(-0.0)
  trajectory, opt_state = steps(constant(weight_decay=0.5, groups=groups), params)
  frozen = [optim.split(p, constant(groups=groups))[1] for p in (params, trajectory[-1])]
  before, after = ([np.asarray(x).tobytes() for x in jax.tree.leaves(tree)] for tree in frozen)
  assert before == after
  assert len(before) == 3
  assert np.all(np.asarray(trajectory[-1]['tables']['sid'] != params['tables']['sid']))
  shapes = {x.shape for x in jax.tree.leaves(opt_state)}
  assert shapes == {(), (4, 3)}


def test_group_factors_by_hand():
  groups = {
    'sid': Group(pattern='tables/sid', learning_rate=3.0, weight_decay=0.0),
    'tables': Group(pattern='tables', learning_rate=0.5),  # the SID table belongs to the first
  }
  config = constant(weight_decay=0.2, clip_norm=0.0, groups=groups)
  params, gradients = tree(), tree(1)
  after = steps(config, params, 1)[0][0]

  def expected(x, g, rate, decay):
    return x - rate * (np.sign(g) + decay * x)  # Adam's first step has the size of its rate

  for (section, name), rate, decay in [
    (('tables', 'sid'), 0.3, 0.0),
    (('tables', 'text'), 0.05, 0.2),
    (('layers', 'ff'), 0.1, 0.2),
    (('layers', 'norm'), 0.1, 0.0),
  ]:
    x, g, new = (jax.tree.leaves(t[section][name])[0] for t in (params, gradients, after))
    np.testing.assert_allclose(new, expected(x, g, rate, decay), atol=1e-6)


def test_clipping_uses_the_norm_of_trained_parameters_only():
  params = tree()
  alone = {'tables': {'sid': params['tables']['sid']}}
  groups = {'rest': Group(pattern='layers|text', frozen=True)}
  config = constant(eps=1.0, weight_decay=0.0)  # with a large eps the gradient's size matters
  tx = optim.optimizer(config, 10)
  gradients = {'tables': {'sid': tree(1)['tables']['sid']}}
  updates, _ = tx.update(gradients, tx.init(alone), alone)
  expected = alone['tables']['sid'] + updates['tables']['sid']
  after = steps(dataclasses.replace(config, groups=groups), params, 1)[0][0]
  np.testing.assert_allclose(after['tables']['sid'], expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('groups', 'message'),
  [
    (
      {'sid': Group(pattern='tables/codes', frozen=True)},
      r'pattern must match a parameter.*parameters are layers/ff/kernel.*tables/text.*'
      r"got 'tables/codes'. Set --config.optim.groups.sid.pattern",
    ),
    (
      {'all': Group(pattern='tables'), 'sid': Group(pattern='tables/sid')},
      r'that no earlier group matches.*Set --config.optim.groups.sid.pattern',
    ),
    ({'all': Group(pattern='', frozen=True)}, r'must leave a parameter to train.*frozen'),
  ],
)
def test_a_group_without_parameters_is_refused(groups, message):
  with pytest.raises(ValueError, match=message):
    optim.optimizer(constant(groups=groups), 10).init(tree())


def test_a_pattern_must_be_a_regular_expression():
  with pytest.raises(ValueError, match=r"regular expression.*got '\('. Set --config.optim.groups"):
    Group(pattern='(')
  with pytest.raises(ValueError, match=r'Set --config.model.lora_targets'):
    Model(lora_targets='[')


def test_averaged_parameters_equal_a_hand_computation():
  groups = {'text': Group(pattern='text', frozen=True)}
  config = constant(ema_decay=0.75, groups=groups)
  params = tree()
  trajectory, opt_state = steps(config, params)
  plain, _ = steps(dataclasses.replace(config, ema_decay=0.0), params)
  assert_equal(trajectory, plain)  # averaging changes nothing of the training
  averaged, swapped = optim.swap_average(trajectory[-1], opt_state)
  weights = np.array([0.75**2, 0.75, 1.0])
  weights /= weights.sum()
  expected = jax.tree.map(lambda *xs: sum(w * x for w, x in zip(weights, xs, strict=True)), *plain)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), averaged, expected)
  np.testing.assert_array_equal(averaged['tables']['text'], params['tables']['text'])
  assert 'text' not in opt_state.average['tables']
  state = TrainState(jnp.zeros(()), trajectory[-1], opt_state)
  assert_equal(optim.averaged_params(state), averaged)
  assert_equal(optim.swap_average(averaged, swapped), (trajectory[-1], opt_state))


def test_adafactor_equals_optax_for_a_matrix_and_treats_stacked_layers_separately():
  config = constant(optimizer='adafactor', weight_decay=0.0, clip_norm=0.0)
  rng = np.random.default_rng(0)
  layers = [jnp.asarray(scale * rng.normal(size=(128, 130)), jnp.float32) for scale in (0.1, 2.0)]
  gradients = [
    [jnp.asarray(rng.normal(size=(128, 130)), jnp.float32) for _ in layers] for _ in range(3)
  ]
  ours = {'layers': {'kernel': jnp.stack(layers)}}
  tx, reference = optim.optimizer(config, 10), optax.adafactor(0.1)
  state, states = tx.init(ours), [reference.init(x) for x in layers]
  for step in gradients:
    updates, state = tx.update({'layers': {'kernel': jnp.stack(step)}}, state, ours)
    ours = optax.apply_updates(ours, updates)
    for n, gradient in enumerate(step):
      update, states[n] = reference.update(gradient, states[n], layers[n])
      layers[n] = layers[n] + update
  np.testing.assert_allclose(ours['layers']['kernel'], jnp.stack(layers), rtol=1e-4, atol=1e-6)
  assert max(x.size for x in jax.tree.leaves(state)) == 2 * 130  # factored


def test_adafactor_without_parameter_scale_steps_by_the_learning_rate():
  config = constant(optimizer='adafactor', weight_decay=0.5, clip_norm=0.0, parameter_scale=False)
  params, gradients = tree(), tree(1)
  after = steps(config, params, 1)[0][0]['layers']
  kernel, scale = params['layers']['ff']['kernel'], params['layers']['norm']['scale']
  sign = np.sign(gradients['layers']['ff']['kernel'])  # the first second moment is the square
  np.testing.assert_allclose(after['ff']['kernel'], kernel - 0.1 * (sign + 0.5 * kernel), rtol=1e-5)
  sign = np.sign(gradients['layers']['norm']['scale'])
  np.testing.assert_allclose(after['norm']['scale'], scale - 0.1 * sign, rtol=1e-5)


@pytest.mark.parametrize(('name', 'moments'), [('adamw', 2), ('adafactor', 1)])
def test_moments_and_averages_are_sharded_as_their_parameters(name, moments):
  config = constant(
    optimizer=name, ema_decay=0.9, groups={'text': Group(pattern='text', frozen=True)}
  )
  mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
  params = {
    'layers': {'ff': {'up': {'kernel': jnp.ones((2, 8, 16))}}},
    'tables': {'text': jnp.ones((16, 8)), 'sid': jnp.ones((16, 8))},
  }
  init = optim.optimizer(config, 10).init
  shardings = mesh_lib.tree_shardings(jax.eval_shape(init, params), mesh)
  opt_state = jax.jit(init, out_shardings=shardings)(params)
  by_shape = {}
  for x in jax.tree.leaves(opt_state):
    by_shape.setdefault(x.shape, []).append(x.sharding.spec)
  assert by_shape[2, 8, 16] == [P(None, 'fsdp', 'tensor')] * (moments + 1)
  assert by_shape[16, 8] == [P('tensor', 'fsdp')] * (moments + 1)  # of the SID table alone
  big = [x for x in jax.tree.leaves(opt_state) if x.size > 1]
  assert all(x.addressable_shards[0].data.size == x.size // 4 for x in big)


@pytest.mark.parametrize('changes', [{}, {'ema_decay': 0.5}, {'optimizer': 'adafactor'}])
def test_the_state_counts_its_updates(changes):
  _, opt_state = steps(Optim(clip_norm=0.0, **changes), tree(), count=3)
  assert optim.num_updates(opt_state) == 3
