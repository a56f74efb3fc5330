"""The checksum of arrays: the same on every mesh, another for every change."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sharding.fingerprint import fingerprint


def test_every_change_counts_and_sharding_does_not():
  values = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
  tree = {'a': values, 'b': jnp.arange(5, dtype=jnp.bfloat16), 'c': jnp.float32(3)}
  same = fingerprint(tree)
  sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh(Mesh(data=2, fsdp=4)))
  assert fingerprint(tree | {'a': jax.device_put(values, sharding)}) == same
  other = values.copy()
  other[3, 4] = np.nextafter(other[3, 4], 9)
  swapped = values.copy()
  swapped[:2] = swapped[1::-1]
  changed = [{'a': x} for x in (other, swapped, 2 * values, -values, values.reshape(8, 16).copy())]
  changed += [{'b': tree['b'].at[0].set(1)}, {'c': jnp.float32(4)}]
  found = {fingerprint(tree | change) for change in changed}
  renamed = {'a': tree['a'], 'b': tree['b'], 'd': tree['c']}
  assert len(found | {same, fingerprint(renamed)}) == len(changed) + 2
