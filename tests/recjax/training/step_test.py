"""The program of a training step does not grow with depth."""

import jax
import pytest

from recjax import config as config_lib
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
  step = make_train_step(config, state.graph(config.model, SPACE), tx, text_targets=True)
  with jax.set_mesh(mesh):
    lowered = jax.jit(step).lower(state.abstract_state(config.model, SPACE, tx, mesh), batch)
  return lowered.as_text().count('\n')


@pytest.mark.parametrize('family', ['gemma', 't5'])
def test_26_layers_are_the_program_of_4(family):
  assert lines_of_program(family, 26) == lines_of_program(family, 4)
