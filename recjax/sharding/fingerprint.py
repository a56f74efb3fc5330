"""A checksum of arrays on a mesh; it does not depend on their sharding."""

from typing import Any

import jax
import jax.numpy as jnp

from recjax.runtime.files import digest


def fingerprint(tree: Any) -> str:
  """Returns a checksum of all bits of a tree of arrays, computed on their devices; any changed element changes it."""
  sums = jax.device_get(jax.jit(lambda tree: jax.tree.map(_sum, tree))(tree))
  leaves = jax.tree_util.tree_leaves_with_path(sums)
  shapes = [[str(x.dtype), *x.shape] for x in jax.tree.leaves(tree)]
  pairs = zip(leaves, shapes, strict=True)
  return digest({jax.tree_util.keystr(path): [int(n), *shape] for (path, n), shape in pairs})


def _sum(x: jax.Array) -> jax.Array:
  """Returns the sum of a hash of each element's bits and place, modulo 2^32.

  The hash is the finalizer of MurmurHash3, which is one-to-one, so another value of one element changes the sum.
  """
  kind = jnp.dtype(f'uint{8 * x.dtype.itemsize}')
  bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
  place, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):  # without a reshape, which would move shards
    step = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place += step * jnp.uint32(stride % (1 << 32))
    stride *= x.shape[axis]
  bits ^= place * jnp.uint32(0x9E3779B9)
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
  return jnp.sum(bits ^ (bits >> 16), dtype=jnp.uint32)
