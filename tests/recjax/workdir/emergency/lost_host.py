"""A part of host_rows_program, in each of two processes: a state in memory outlives one of two hosts."""

import pathlib
import shutil
import socket

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax.runtime import distributed
from recjax.sharding import mesh as mesh_lib
from recjax.workdir.emergency.copies import Copies

VALUES = {
  'w': np.arange(128, dtype=np.float32).reshape(8, 16) - 64,
  'moment': np.arange(8, dtype=np.float32).astype(jnp.bfloat16),
  'step': np.int32(3),
}
SPECS = {'w': P('fsdp', 'tensor'), 'moment': P('fsdp'), 'step': P()}


def check(folder: pathlib.Path) -> None:
  """Each process is a host with a folder of its own. The state is lost only with both."""
  me = jax.process_index()
  name, socket.gethostname = socket.gethostname, lambda: f'host {me}'
  mine = folder / str(me)

  def opened(sizes: tuple[int, int, int]):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(sizes), mesh_lib.AXES)
    state = {
      key: jax.make_array_from_callback(
        x.shape, NamedSharding(mesh, SPECS[key]), np.asarray(x).__getitem__
      )
      for key, x in VALUES.items()
    }
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    return Copies(str(mine), 'run', shapes, mesh), state, shapes

  for sizes in ((1, 8, 1), (2, 4, 1), (1, 2, 4)):  # the second: both hosts hold all
    copies, state, shapes = opened(sizes)
    copies.save(3, state, {'of': list(sizes)}, None)
    distributed.barrier('saved')
    if me == 1:
      shutil.rmtree(mine)
    for others in (sizes, (1, 4, 2), (8, 1, 1)):
      again, _, shapes = opened(others)
      found = again.find([], -1)
      assert found.first.meta == {'of': list(sizes)}
      assert {host for _, host, _ in found.copies} == {'host 0'}
      for key, x in again.restore(found, shapes).items():
        assert x.sharding == shapes[key].sharding and x.dtype == VALUES[key].dtype
        for shard in x.addressable_shards:
          assert np.asarray(shard.data).tobytes() == VALUES[key][shard.index].tobytes()
    distributed.barrier('restored')
    shutil.rmtree(mine)
    assert opened(sizes)[0].find([], -1) is None
  socket.gethostname = name
  print('a state in memory outlives host 1', flush=True)
