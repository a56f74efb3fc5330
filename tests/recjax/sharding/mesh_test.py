"""Shardings on eight devices, refused meshes, and the part of a batch that each process reads."""

import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from recjax import config as config_lib
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import table as parameter_table
from recjax.sids.token_space import TokenSpace
from recjax.training import optim, state
from tests.folders import ROOT
from tests.goldens import make_parameter_tables

SPACE = TokenSpace(text_size=500, level_sizes=(8, 8))


def mesh_of(data: int, fsdp: int, tensor: int) -> jax.sharding.Mesh:
  sizes = Mesh(data=data, fsdp=fsdp, tensor=tensor)
  return mesh_lib.make_mesh(sizes, jax.devices()[: data * fsdp * tensor])


def make_config(optimizer: str = 'adamw', **model) -> config_lib.Config:
  config_dict = config_lib.defaults(source='synthetic', name='tiny')
  config_dict.model.update({'width': 128, 'ff_width': 256, 'depth': 2, 'head_width': 16} | model)
  config_dict.optim.optimizer = optimizer
  return config_lib.from_config_dict(config_dict)


def abstract(config: config_lib.Config, mesh: jax.sharding.Mesh) -> state.TrainState:
  return state.abstract_state(config.model, SPACE, optim.optimizer(config.optim, 10), mesh)


@pytest.mark.parametrize(
  ('sizes', 'count', 'expected'),
  [
    ((-1, 1, 1), 1, (-1, 1, 1)),  # fits any number of devices
    ((1, 2, 4), 8, (1, 2, 4)),
    ((8, 1, 1), 1, (-1, 1, 1)),
    ((-1, 2, 4), 1, (-1, 1, 1)),
    ((1, 2, 4), 4, (-1, 1, 4)),
    ((1, -1, 8), 4, (-1, 1, 4)),
    ((2, 6, 1), 4, (-1, 2, 1)),
    ((4, 1, 1), 8, (-1, 1, 1)),
  ],
)
def test_a_mesh_of_a_run_is_fitted_to_other_devices(sizes, count, expected):
  fitted = mesh_lib.fitted(Mesh(**dict(zip(mesh_lib.AXES, sizes, strict=True))), count)
  assert (fitted.data, fitted.fsdp, fitted.tensor) == expected
  mesh_lib.make_mesh(fitted, jax.devices()[:count])


def test_the_mesh_covers_all_devices():
  assert dict(mesh_lib.make_mesh(Mesh()).shape) == {'data': 8, 'fsdp': 1, 'tensor': 1}
  mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=-1, tensor=2))
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  assert mesh_lib.batch_shards(mesh) == 4
  with pytest.raises(
    ValueError, match=r'must multiply to the 8 devices.*mesh.\{data,fsdp,tensor\}'
  ):
    mesh_lib.make_mesh(Mesh(data=3, fsdp=-1))


def test_parameters_and_moments_are_sharded_alike(tiny_world):
  config, dataset = tiny_world
  mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
  tx = optim.optimizer(config.optim, 10)
  fresh = state.init_state(config.model, dataset.vocabulary.space, tx, mesh, config.seed)
  specs = {
    jax.tree_util.keystr(path): x.sharding.spec
    for path, x in jax.tree_util.tree_leaves_with_path(fresh)
  }
  gate = [spec for name, spec in specs.items() if "['ff']['gate']['kernel']" in name]
  assert gate == [P(None, 'fsdp', 'tensor')] * 3  # the parameter and Adam's two moments
  keys = [spec for name, spec in specs.items() if "['k']['kernel']" in name]
  assert keys == [P(None, ('fsdp', 'tensor'), None, None)] * 3  # one key head: D is sharded instead
  table = next(spec for name, spec in specs.items() if name.startswith(".params['tables']['sid']"))
  assert table == P('tensor', 'fsdp')


def test_the_table_counts_parameters_and_bytes(tiny_world):
  config, dataset = tiny_world
  mesh = mesh_lib.make_mesh(Mesh(data=4, fsdp=2))
  abstract = state.abstract_state(
    config.model, dataset.vocabulary.space, optim.optimizer(config.optim, 10), mesh
  )
  table = parameter_table.describe(abstract.params, mesh)
  count = state.num_params(config.model, dataset.vocabulary.space)
  assert f'{count:,} parameters' in table
  assert (
    "tables/sid                                   (512, 16)              P('tensor', 'fsdp')"
    in table
  )
  assert '16,384 B' in table  # 512 x 16 x 4 bytes over two devices


@pytest.mark.parametrize('size', make_parameter_tables.SIZES)
def test_parameter_tables_equal_the_goldens(size):
  golden = make_parameter_tables.FOLDER / f'{size}.txt'
  assert make_parameter_tables.tables(size) == golden.read_text()


@pytest.mark.parametrize('optimizer', ['adamw', 'adafactor'])
@pytest.mark.parametrize('family', ['gemma', 't5'])
@pytest.mark.parametrize('sizes', [(1, 8, 1), (1, 2, 4), (1, 1, 8)], ids=str)
def test_a_device_holds_an_eighth_of_parameters_and_optimizer(family, optimizer, sizes):
  config = make_config(optimizer, family=family, width=1024, ff_width=2048)
  leaves = jax.tree.leaves(abstract(config, mesh_of(*sizes)))
  total = sum(x.size * x.dtype.itemsize for x in leaves)
  held = sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
  assert total / 8 < held <= 1.05 * total / 8


def test_factored_moments_are_sharded_as_their_parameters():
  mesh = mesh_of(2, 2, 2)
  params = {
    'layers': {
      'ff': {
        'up': {'kernel': jnp.zeros((2, 128, 256))},
        'down': {'kernel': jnp.zeros((2, 256, 256))},
      },
      'attention': {'q': {'kernel': jnp.zeros((2, 256, 4, 128))}},
      'norm': {'scale': jnp.zeros((2, 256))},
    },
    'tables': {'sid': jnp.zeros((512, 128))},
  }
  tx = optim.optimizer(make_config('adafactor').optim, 10)
  # The gradient of the square kernel varies only along its first matrix axis, which distinguishes the two moments.
  gradients = jax.tree.map(
    lambda x: x + jnp.arange(x.shape[1])[(None, ..., *[None] * (x.ndim - 2))], params
  )
  opt_state = jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[1])(gradients, params)
  found = {
    jax.tree_util.keystr(path, simple=True, separator='/'): (x, spec.spec)
    for (path, x), spec in zip(
      jax.tree_util.tree_leaves_with_path(opt_state),
      jax.tree.leaves(mesh_lib.tree_shardings(opt_state, mesh, params)),
      strict=True,
    )
    if x.size > 1
  }
  specs = {name.removeprefix('1/0/'): spec for name, (_, spec) in found.items()}
  down = {name.split('/')[2]: x for name, (x, _) in found.items() if 'down' in name}
  assert np.ptp(down['v_row'][0]) > 0.1 * np.max(down['v_row']) > np.ptp(down['v_col'][0])
  assert specs == {
    'v_row/layers/ff/up/kernel': P(None, 'fsdp'),  # the mean over F, the larger of D and F
    'v_col/layers/ff/up/kernel': P(None, 'tensor'),
    'v_row/layers/ff/down/kernel': P(None, 'tensor'),  # the later of two equal dimensions
    'v_col/layers/ff/down/kernel': P(None, 'fsdp'),
    'v_row/layers/attention/q/kernel': P(None, 'tensor', None),  # the mean over D
    'v_col/layers/attention/q/kernel': P(None, 'fsdp', 'tensor'),  # the mean over H
    'v/layers/norm/scale': P(),
    'v_row/tables/sid': P('fsdp'),
    'v_col/tables/sid': P('tensor'),
  }


def test_initial_values_are_the_same_on_every_mesh():
  config = make_config(kv_heads=2)
  tx = optim.optimizer(config.optim, 10)
  one, other = (
    jax.device_get(state.init_state(config.model, SPACE, tx, mesh_of(*sizes), config.seed))
    for sizes in ((1, 1, 1), (1, 2, 4))
  )
  assert jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_meshes_that_leave_too_much_replicated_are_refused():
  mesh = mesh_of(1, 8, 1)
  config = make_config(width=132)
  with pytest.raises(
    ValueError,
    match=r"at most 2%.*\{'fsdp': 8, 'tensor': 1\} it is 9\d\.\d%: .*Set --config.mesh.fsdp",
  ):
    abstract(config, mesh)
  abstract(config, mesh_of(8, 1, 1))  # `data` shards no parameters
  abstract(make_config(heads=4, kv_heads=1), mesh_of(1, 1, 8))  # heads are sharded along D instead
  params = {'tables': {'text': jnp.zeros((980, 64))}, 'unknown': jnp.zeros((20, 64))}
  parameter_table.check_replication(params, mesh)  # two percent
  assert 'unknown' + ' ' * 37 + ' (20, 64)' in parameter_table.describe(params, mesh)
  assert ' B !\n' in parameter_table.describe(params, mesh)
  params['unknown'] = jnp.zeros((21, 64))
  with pytest.raises(ValueError, match=r'it is 2.1%: unknown \(21, 64\)'):
    parameter_table.check_replication(params, mesh)


def test_constrain_ignores_axes_that_do_not_divide():
  with jax.set_mesh(mesh_of(2, 2, 2)):
    heads = jax.jit(lambda x: mesh_lib.constrain(x, 'heads'))(jnp.zeros((4, 3, 5, 2)))
    assert heads.sharding.spec == P(('data', 'fsdp'))
    rows = jax.jit(lambda x: mesh_lib.constrain(x, 'heads'))(jnp.zeros((3, 3, 4, 2)))
    assert rows.sharding.spec == P(None, None, 'tensor')


def test_host_rows_arrive_in_order():
  mesh = mesh_lib.make_mesh(Mesh(data=4, fsdp=2))
  rows = np.arange(32).reshape(16, 2)
  array = mesh_lib.host_rows({'x': rows}, mesh)['x']
  assert array.sharding.spec == P(('data', 'fsdp'))
  np.testing.assert_array_equal(array, rows)


@pytest.mark.parametrize(
  ('processes', 'parts'),
  [
    ([[0], [0], [1], [1]], [(0, 2), (1, 2)]),
    ([[1], [0], [1], [0]], [(1, 2), (0, 2)]),  # alternating; parts are numbered by their first row
    ([[0, 1], [0, 1]], [(0, 1), (0, 1)]),  # `tensor` spans both: the same rows
    ([[0, 1], [2, 3], [0, 1], [2, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
  ],
)
def test_each_process_reads_its_part(processes, parts):
  found = [mesh_lib.part_of(np.array(processes), p) for p in range(len(parts))]
  assert found == parts


@pytest.mark.parametrize(
  'processes',
  [[[0, 1], [1, 2]], [[0], [0], [1]], [[0, 1], [0, 2], [1, 3], [2, 3]], [[0], [1], [0, 1]]],
)
def test_processes_that_share_some_of_their_rows_are_refused(processes):
  width = max(map(len, processes))
  square = np.array([row * (width // len(row)) for row in processes])
  with pytest.raises(
    ValueError, match=r'the same rows or none in common.*Set --config.mesh.tensor'
  ):
    mesh_lib.part_of(square, 0)


def test_two_processes_read_their_parts_on_any_mesh_and_one_may_be_lost(tmp_path):
  options = (
    '-n',
    '2',
    '--devices_per_process=4',
    '--module=tests.recjax.sharding.host_rows_program',
  )
  run = subprocess.run(
    [sys.executable, '-m', 'launch.local', *options, str(tmp_path)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert run.returncode == 0, run.stdout + run.stderr
  assert '[1] by turns (1, 2, 4) parts 1' in run.stdout
  assert '[1] by turns (8, 1, 1) parts 2' in run.stdout
  assert run.stdout.count('a state in memory outlives host 1') == 2
