"""A checksum of arrays on a mesh; it does not depend on their sharding."""

from typing import Any

import jax
import jax.numpy as jnp

from recjax.runtime.files import digest


def fingerprint(tree: Any) -> str:
  """Returns a checksum of all bits of a tree of arrays, computed on their devices; any changed element changes it."""
  sums = jax.device_get(jax.jit(lambda tree: jax.tree.map(_sum, tree))(tree))
  leaves = jax.tree_util.tree_leaves_with_path(sums)
  return digest({jax.tree_util.keystr(path): int(number) for path, number in leaves})


def _sum(x: jax.Array) -> jax.Array:
  """Returns the sum of the elements' bits modulo 2^32, each times an odd number that depends on its place."""
  kind = jnp.dtype(f'uint{8 * x.dtype.itemsize}')
  bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
  place, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):  # without a reshape, which would move shards
    step = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place += step * jnp.uint32(stride % (1 << 32))
    stride *= x.shape[axis]
  return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
