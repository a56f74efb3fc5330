"""Where arrays live on eight devices."""

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import optim, sharding, state


def test_the_mesh_is_what_the_machine_has():
  assert dict(sharding.make_mesh(config_lib.Mesh()).shape) == {'data': 8, 'fsdp': 1, 'tensor': 1}
  mesh = sharding.make_mesh(config_lib.Mesh(data=2, fsdp=-1, tensor=2))
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  assert sharding.batch_shards(mesh) == 4
  with pytest.raises(
    ValueError, match=r'must multiply to the 8 devices.*mesh.\{data,fsdp,tensor\}'
  ):
    sharding.make_mesh(config_lib.Mesh(data=3, fsdp=-1))


def test_parameters_and_moments_are_sharded_alike(tiny_world):
  config, dataset = tiny_world
  mesh = sharding.make_mesh(config_lib.Mesh(data=2, fsdp=2, tensor=2))
  tx = optim.optimizer(config.optim, 10)
  fresh = state.init_state(config, dataset.vocabulary.space, tx, mesh)
  specs = {
    jax.tree_util.keystr(path): x.sharding.spec
    for path, x in jax.tree_util.tree_leaves_with_path(fresh)
  }
  gate = [spec for name, spec in specs.items() if "['ff']['gate']['kernel']" in name]
  assert gate == [P(None, 'fsdp', 'tensor')] * 3  # the parameter and Adam's two moments
  keys = [spec for name, spec in specs.items() if "['k']['kernel']" in name]
  assert keys == [P(None, 'fsdp', None, None)] * 3  # one key head: nothing to cut
  table = next(spec for name, spec in specs.items() if name.startswith(".params['tables']['sid']"))
  assert table == P('tensor', 'fsdp')


def test_the_table_counts_parameters_and_bytes(tiny_world):
  config, dataset = tiny_world
  mesh = sharding.make_mesh(config_lib.Mesh(data=4, fsdp=2))
  abstract = state.abstract_state(
    config, dataset.vocabulary.space, optim.optimizer(config.optim, 10), mesh
  )
  table = sharding.parameter_table(abstract.params, mesh)
  count = state.num_params(config, dataset.vocabulary.space)
  assert f'{count:,} parameters' in table
  assert (
    "tables/sid                                   (512, 16)              P('tensor', 'fsdp')"
    in table
  )
  assert '16,384 B' in table  # 512 x 16 x 4 bytes over two devices


def test_host_rows_arrive_in_order():
  mesh = sharding.make_mesh(config_lib.Mesh(data=4, fsdp=2))
  rows = np.arange(32).reshape(16, 2)
  array = sharding.host_rows({'x': rows}, mesh)['x']
  assert array.sharding.spec == P(('data', 'fsdp'))
  np.testing.assert_array_equal(array, rows)
