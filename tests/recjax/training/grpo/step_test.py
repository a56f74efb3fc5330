"""The step of a stage of kind grpo: its gradient by hand, any mesh, several updates, any family."""

import dataclasses
import functools

from etils import epath
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax import config as config_lib
from recjax.decode.trie import Trie
from recjax.models.embedding import TokenTables
from recjax.schema.grpo import Grpo, Rewards
from recjax.schema.optim import Stage
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace
from recjax.training import optim, state
from recjax.training.grpo import stage as stage_lib
from recjax.training.grpo.groups import Catalogue
from recjax.training.grpo.step import Fixed, Step, jit_step
from recjax.workdir import stages as stages_lib
from tests.recjax.data import rated_world

THREE = TokenSpace(text_size=4, level_sizes=(3,))


class Lookup(nnx.Module):
  """A model whose logits of three items are the first row of its output table, for every prompt."""

  def __init__(self):
    self.tables = TokenTables(THREE, 3, nnx.Rngs(0))

  def start(self, prompts, beams, suffix_length):
    del beams, suffix_length
    x = jnp.zeros((len(prompts['tokens']), 3)).at[:, 0].set(1.0)
    return x, None


def three_items(**changes):
  """Config of a stage over three items, and its catalogue."""
  config_dict = config_lib.defaults(source='synthetic', name='three')
  config_dict.optim.update({'warmup_steps': 0, 'clip_norm': 0.0, 'optimizer': 'adamw'})
  config_dict.optim.update({'schedule': 'constant', 'weight_decay': 0.0, **changes})
  codes = np.arange(3, dtype=np.int32)[:, None]
  trie = Trie.from_table(SidTable(codes, (3,), 'item', 'none'))
  return config_lib.from_config_dict(config_dict), Catalogue(jax.tree.map(np.asarray, trie), codes)


def params_of(logits):
  sid = np.zeros((THREE.sid_rows, 3), np.float32)
  sid[:3, 0] = logits
  return {'tables': {'text': jnp.zeros((THREE.text_rows, 3)), 'sid': jnp.asarray(sid)}}


def softmax(logits):
  return np.exp(logits) / np.exp(logits).sum()


def test_the_gradient_equals_one_by_hand_on_three_items():
  logits, before = np.array([0.3, 1.1, -0.4]), np.array([0.1, 0.2, 0.9])
  config, catalogue = three_items()
  settings = Grpo(group=3, kl=0.07, rewards=Rewards(exact=1.0, rank=0.5))
  graph = nnx.split(nnx.eval_shape(Lookup))[0]

  def kept(updates, opt_state, params=None):
    del opt_state, params
    return jax.tree.map(jnp.zeros_like, updates), updates['tables']['sid']

  step = Step(config, settings, graph, optax.GradientTransformation(lambda _: (), kept))
  batch = {
    'tokens': jnp.zeros((2, 1), jnp.int32),
    'lengths': jnp.ones(2, jnp.int32),
    'target': jnp.array([2, 0], jnp.int32),
    'excluded': jnp.array([[-1], [-1]], jnp.int32),
    'dropped': jnp.zeros(2, jnp.int32),
  }
  start = state.TrainState(jnp.zeros((), jnp.int32), params_of(logits), jnp.zeros(()))
  fixed = Fixed(catalogue, params_of(before))
  after, metrics = jax.jit(step)(start, fixed, batch)
  gradient = after.opt_state

  # By hand. The beams are the items by descending logit: 1, 0, 2.
  p, q = softmax(logits), softmax(before)
  rank = {1: 0, 0: 1, 2: 2}
  discount = np.array([1, 1 / np.log2(3), 0.5])
  share = discount / discount.sum()
  expected = np.zeros(3)
  for target in (2, 0):
    reward = np.array([1.0 if i == target else -0.5 * share[rank[i]] for i in range(3)])
    advantage = (reward - reward.mean()) / (reward.std(ddof=1) + 1e-4)
    for i in range(3):
      grad_log_p = np.eye(3)[i] - p
      # d(−r A) = −A ∇log p at r = 1;  d k3 = (1 − q/p) ∇log p.
      expected += (-advantage[i] + 0.07 * (1 - q[i] / p[i])) * grad_log_p / 3
  expected /= 2
  np.testing.assert_allclose(gradient[:3, 0], expected, rtol=1e-5)
  assert not np.any(gradient[:3, 1:])
  k3 = q / p - np.log(q / p) - 1
  assert float(metrics['kl']) == pytest.approx(k3.mean(), rel=1e-5)
  assert float(metrics['loss']) == pytest.approx(0.07 * k3.mean(), rel=1e-4)  # advantages sum to 0
  assert float(metrics['hit_rate']) == 1
  assert float(metrics['no_advantage']) == 0


STEPS, PROMPTS = 2, 16
QUICK_TO_COMPILE = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """Of a family: config and data of a small world in which two items share their semantic ID."""

  @functools.cache
  def of(family: str):
    config, dataset = rated_world.prepared(tmp_path_factory.mktemp(family), family)
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, beams=20)), dataset

  return of


def run(config, dataset, settings, sizes=(1, 1, 1), accumulation=1):
  """Returns metrics of the steps, and the parameters, of a stage on a mesh of so many devices."""
  stage = Stage(
    kind='grpo', num_train_steps=STEPS, learning_rate=1e-3, batch_size=PROMPTS, warmup_steps=0,
    schedule='constant', grpo=settings,
  )  # fmt: skip
  names = dict(zip(mesh_lib.AXES, sizes, strict=True))
  mesh = mesh_lib.make_mesh(Mesh(**names), jax.devices()[: int(np.prod(sizes))])
  first = Stage(num_train_steps=1, warmup_steps=0)
  config = dataclasses.replace(
    config, stages={'first': first, 'rl': stage}, grad_accumulation=accumulation
  )
  planned = stages_lib.plan(config, epath.Path('run'))[1]
  stream = stage_lib.make_stream(planned, dataset)
  config, space = planned.config, dataset.vocabulary.space
  tx = optim.optimizer(config.optim, STEPS)
  abstract = state.abstract_state(config.model, space, tx, mesh)
  now = state.init_state(config.model, space, tx, mesh, 1)
  reference = state.init_state(config.model, space, tx, mesh, 2).params
  reference = optim.split(reference, config.optim)[0]
  fixed = Fixed(jax.device_put(Catalogue.of(dataset), mesh_lib.replicated(mesh)), reference)
  step, found = None, []
  with jax.set_mesh(mesh):
    for n in range(STEPS):
      batch = stream.host_batch(n * stream.examples_per_batch, 0, 1)
      batch = mesh_lib.host_rows(batch, mesh)
      if step is None:
        step = jit_step(config, settings, space, abstract, mesh).lower(now, fixed, batch)
        step = step.compile(QUICK_TO_COMPILE)
      now, metrics = step(now, fixed, batch)
      found.append(jax.device_get(metrics))
  return found, jax.device_get(now.params)


def check_alike(one, other):
  for metrics, others in zip(one[0], other[0], strict=True):
    for name, value in metrics.items():
      np.testing.assert_allclose(others[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
  # Adam's step of a gradient of almost 0 has an arbitrary sign.
  difference = jax.tree.map(lambda a, b: np.abs(a - b).ravel(), one[1], other[1])
  difference = np.concatenate(jax.tree.leaves(difference))
  assert np.mean(difference < 1e-5) > 0.99


SETTINGS = {
  'beams': Grpo(group=4, kl=0.1, rewards=Rewards(prefix_depth=0.5)),
  'sampled': Grpo(
    group=4,
    samples='sampled',
    updates=2,
    clip=0.01,
    clip_high=0.02,
    rewards=Rewards(prefix_depth=1.0),
  ),
}


@pytest.mark.parametrize(
  ('family', 'samples'),
  [
    ('gemma', 'beams'),
    pytest.param('gemma', 'sampled', marks=pytest.mark.soak),
    pytest.param('t5', 'beams', marks=pytest.mark.soak),
    pytest.param('t5', 'sampled', marks=pytest.mark.soak),
  ],
)
def test_eight_devices_and_micro_batches_equal_one_device(world, family, samples):
  config, dataset = world(family)
  one = run(config, dataset, SETTINGS[samples])
  check_alike(one, run(config, dataset, SETTINGS[samples], (2, 2, 2), accumulation=2))
  metrics = one[0][-1]
  assert 0 < metrics['unique'] <= 1
  assert metrics['kl'] > 0
  levels = [metrics[f'reward_level_{n + 1}'] for n in range(dataset.vocabulary.space.num_levels)]
  assert levels == sorted(levels, reverse=True) and levels[-1] == metrics['reward_exact']
