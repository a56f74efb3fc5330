"""The mesh, and one ordered table of rules that says where every parameter and activation lives."""

import math
import re
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax import config as config_lib

AXES = ('data', 'fsdp', 'tensor')
BATCH = ('data', 'fsdp')  # the axes that rows of a batch are spread over

# First match wins. Paths are joined with '/'; optimizer moments end in their parameter's path. Stacked
# layers have their depth as the first dimension.
PARAMETER_RULES: tuple[tuple[str, P], ...] = (
  (r'tables/(text|sid)(_out)?$', P('tensor', 'fsdp')),  # V, D
  (r'lora/.*(out|down)/kernel/a$', P(None, 'tensor', None)),  # depth, inputs, rank: as the kernel
  (r'lora/.*(out|down)/kernel/b$', P(None, None, 'fsdp')),  # depth, rank, outputs
  (r'lora/.*/a$', P(None, 'fsdp', None)),
  (r'lora/.*/b$', P(None, None, 'tensor')),
  (r'layers/.*attention/[qkv]/kernel$', P(None, 'fsdp', 'tensor', None)),  # depth, D, heads, H
  (r'layers/.*attention/out/kernel$', P(None, 'tensor', None, 'fsdp')),  # depth, N, H, D
  (r'layers/.*ff/(gate|up)/kernel$', P(None, 'fsdp', 'tensor')),  # depth, D, F
  (r'layers/.*ff/down/kernel$', P(None, 'tensor', 'fsdp')),  # depth, F, D
  (r'', P()),  # norms, scalars
)

ACTIVATION_RULES: dict[str, P] = {
  'residual': P(BATCH, None, None),  # B, T or M, D
  'heads': P(BATCH, None, 'tensor', None),  # B, T, N, H
}


def make_mesh(mesh: config_lib.Mesh) -> jax.sharding.Mesh:
  """The device mesh over all hosts.

  Raises:
    ValueError: the axes do not multiply to the number of devices.
  """
  sizes = [mesh.data, mesh.fsdp, mesh.tensor]
  count = jax.device_count()
  if -1 in sizes:
    known = -math.prod(sizes)
    sizes[sizes.index(-1)] = max(count // known, 1)
  if math.prod(sizes) != count:
    raise ValueError(
      f'the mesh axes {dict(zip(AXES, sizes, strict=True))} must multiply to the {count} devices of '
      'this run. Set --config.mesh.{data,fsdp,tensor}; one of them may be -1'
    )
  return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3)


def constrain(x: jax.Array, name: str) -> jax.Array:
  """Pins an activation to its row of ACTIVATION_RULES under the mesh that is set, if one is."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, ACTIVATION_RULES[name])


def batch_shards(mesh: jax.sharding.Mesh) -> int:
  """The parts that a batch is cut into."""
  return math.prod(mesh.shape[axis] for axis in BATCH)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows over the batch axes; whatever follows is whole."""
  return NamedSharding(mesh, P(BATCH))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def _path(path) -> str:
  return '/'.join(str(getattr(p, 'key', getattr(p, 'name', getattr(p, 'idx', p)))) for p in path)


def _spec(path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> P:
  """The first rule that matches; an axis that does not divide its dimension is left out."""
  rule = next(spec for pattern, spec in PARAMETER_RULES if re.search(pattern, path))
  if len(rule) > len(shape):  # an optimizer's scalar or factored moment
    return P()
  spec = [
    axis if axis is None or size % mesh.shape[axis] == 0 else None
    for axis, size in zip(rule, shape, strict=False)
  ]
  return P(*spec)


def tree_shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """A NamedSharding for every array (or ShapeDtypeStruct) of a tree, by its path."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: NamedSharding(mesh, _spec(_path(path), x.shape, mesh)), tree
  )


def parameter_table(tree: Any, mesh: jax.sharding.Mesh) -> str:
  """Name, shape, spec and bytes a device of every parameter, and their sums."""
  lines, total, per_device = [], 0, 0
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    name = _path(path)
    spec = _spec(name, x.shape, mesh)
    local = NamedSharding(mesh, spec).shard_shape(x.shape)
    size = math.prod(local) * np.dtype(x.dtype).itemsize
    total += math.prod(x.shape)
    per_device += size
    lines.append(f'  {name:<44} {x.shape!s:<22} {spec!s:<46} {size:>13,} B')
  return '\n'.join([*lines, f'  {total:,} parameters, {per_device:,} bytes of parameters a device'])


def host_rows(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
  """A global batch on the mesh from the rows that this host holds (in the order of the hosts)."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
  }
