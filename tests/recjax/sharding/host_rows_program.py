"""One of two processes with four devices each, for mesh_test.py: reads its part of a batch on several meshes.

Then the process plays a host of `lost_host`; the argument is a folder for it.
"""

import pathlib
import sys

import jax
from jax.experimental import multihost_utils
import numpy as np

from recjax.runtime import distributed
from recjax.sharding import mesh as mesh_lib
from tests.recjax.workdir.emergency import lost_host

distributed.initialize()
rows = np.arange(32).reshape(16, 2)
devices = np.array(jax.devices())
orders = {
  'by process': devices,
  'by turns': devices.reshape(2, 4).T.ravel(),  # as on a slice whose hosts are squares of chips
  'backwards': devices[::-1],
}
for name, order in orders.items():
  for sizes in ((8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)):
    mesh = jax.sharding.Mesh(order.reshape(sizes), mesh_lib.AXES)
    part, parts = mesh_lib.host_part(mesh)
    mine = {'x': rows.reshape(parts, -1, 2)[part]}
    read = mesh_lib.host_rows(mine, mesh)['x']
    whole = mesh_lib.global_rows({'x': rows}, mesh)['x']
    assert read.shape == whole.shape == rows.shape
    got = multihost_utils.process_allgather(read, tiled=True)
    assert sorted(got.tolist()) == rows.tolist(), (name, sizes)  # each row exactly once
    if name == 'by process':
      np.testing.assert_array_equal(got, rows)
    np.testing.assert_array_equal(multihost_utils.process_allgather(whole, tiled=True), rows)
    print(name, sizes, 'parts', parts, flush=True)
lost_host.check(pathlib.Path(sys.argv[1]))
