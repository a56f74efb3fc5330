"""The training step: its program does not grow with depth; loss weights scale numerators alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import models
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import optim, state
from recjax.training.step import make_train_step

SPACE = TokenSpace(text_size=64, level_sizes=(8, 8))


def lines_of_program(family: str, depth: int) -> int:
  config_dict = config_lib.defaults(source='synthetic', name='tiny')
  config_dict.model.update(
    {'family': family, 'depth': depth, 'width': 16, 'ff_width': 32, 'heads': 2, 'kv_heads': 2}
  )
  config_dict.model.head_width = 8
  config_dict.model.dropout = 0.1
  config = config_lib.from_config_dict(config_dict)
  mesh = mesh_lib.make_mesh(config.mesh)
  tx = optim.optimizer(config.optim, config.num_train_steps)
  rows = jax.ShapeDtypeStruct((8, 16), 'int32', sharding=mesh_lib.batch_sharding(mesh))
  names = ('tokens', 'segments', 'positions', 'targets', 'encoder_tokens', 'encoder_segments')
  batch = dict.fromkeys(names, rows) | {'weights': jax.ShapeDtypeStruct((8, 16), 'float32')}
  batch |= dict.fromkeys(('learnt', 'dropped'), jax.ShapeDtypeStruct((8,), 'int32'))
  step = make_train_step(config, models.graph(config.model, SPACE), tx, text_targets=True)
  with jax.set_mesh(mesh):
    lowered = jax.jit(step).lower(state.abstract_state(config.model, SPACE, tx, mesh), batch)
  return lowered.as_text().count('\n')


@pytest.mark.parametrize('family', ['gemma', 't5'])
def test_the_program_does_not_grow_with_the_depth(family):
  assert lines_of_program(family, 26) == lines_of_program(family, 4)


def test_a_loss_weight_scales_its_own_targets_and_no_others():
  config_dict = config_lib.defaults(source='synthetic', name='tiny')
  config_dict.model.update({'depth': 1, 'width': 16, 'ff_width': 32, 'heads': 2, 'kv_heads': 2})
  config_dict.model.head_width = 8
  config_dict.optim.update({'warmup_steps': 0, 'clip_norm': 0.0})
  config = config_lib.from_config_dict(config_dict)
  mesh = mesh_lib.make_mesh(config.mesh)
  tx = optim.optimizer(config.optim, config.num_train_steps)
  graph = models.graph(config.model, SPACE)
  step = jax.jit(make_train_step(config, graph, tx, text_targets=False))
  rng = np.random.default_rng(0)
  shape = (8, 8)
  tokens = SPACE.tokens(rng.integers(0, 8, (8, 4, 2))).reshape(shape)
  ones = jnp.ones(shape, jnp.int32)
  batch = {'tokens': jnp.asarray(tokens), 'targets': jnp.asarray(tokens), 'segments': ones}
  batch['positions'] = jnp.tile(jnp.arange(8, dtype=jnp.int32), (8, 1))
  batch |= {'learnt': jnp.full(8, 8, jnp.int32), 'dropped': jnp.zeros(8, jnp.int32)}

  def loss(first, second):  # the weights of the rows of two components
    weights = jnp.repeat(jnp.array([first, second]), 4)[:, None] * jnp.ones(shape)
    with jax.set_mesh(mesh):
      start = state.init_state(config.model, SPACE, tx, mesh, 0)
      return step(start, batch | {'weights': weights})[1]['loss']

  first, second = loss(1.0, 0.0), loss(0.0, 1.0)
  for factor in (0.5, 1.0):
    np.testing.assert_allclose(loss(1.0, factor), first + factor * second, rtol=1e-5)
