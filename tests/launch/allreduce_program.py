"""Sums over the devices of all processes; run by local_test.py, not a test itself."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from recjax.runtime import distributed

distributed.initialize()
mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
part = np.full(jax.local_device_count(), 10.0 ** jax.process_index())
total = jax.jit(jnp.sum)(jax.make_array_from_process_local_data(sharding, part))
distributed.barrier('summed')
print(f'arguments {sys.argv[1:]} devices {jax.device_count()} sum {float(total):g}')
if distributed.is_host0():
  print('host 0 here')
