"""The device mesh, and the shardings of activations, batches and train states; see `rules` for parameters."""

import collections
from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax.schema.run import Mesh
from recjax.sharding import rules as rules_lib
from recjax.sharding import slices as slices_lib

AXES = ('data', 'fsdp', 'tensor')
BATCH = ('data', 'fsdp')  # axes over which rows of a batch are sharded

INDEX_BYTES = 2**20  # smaller arrays of an index are on every device

ACTIVATION_RULES: dict[str, P] = {
  'residual': P(BATCH, None, None),  # B, T or M, D
  'heads': P(BATCH, None, 'tensor', None),  # B, T, N, H
  'table': P('tensor', 'fsdp'),  # V, D
}


def make_mesh(mesh: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """Makes the device mesh over all hosts.

  `fsdp` and `tensor` stay within a slice (see `slices`); the first factor of `data` counts the slices.

  Args:
    mesh: the sizes of the axes.
    devices: devices of the mesh. None: all devices of this run.

  Raises:
    ValueError: the axes do not multiply to the number of devices, a slice does not hold whole groups of `fsdp` and
      `tensor`, or processes share only a part of their rows (see `host_part`).
  """
  sizes = [mesh.data, mesh.fsdp, mesh.tensor]
  devices = jax.devices() if devices is None else list(devices)
  count = len(devices)
  if -1 in sizes:
    known = -math.prod(sizes)
    sizes[sizes.index(-1)] = max(count // known, 1)
  if math.prod(sizes) != count:
    raise ValueError(
      f'the mesh axes {dict(zip(AXES, sizes, strict=True))} must multiply to the {count} devices of '
      'this run. Set --config.mesh.{data,fsdp,tensor}; one of them may be -1'
    )
  slices = slices_lib.split(devices, mesh.dcn_data)
  if sizes[0] % len(slices):
    raise ValueError(
      f'mesh.data must be a multiple of the {len(slices)} slices, so that a slice holds all parameters; got '
      f'{sizes[0]}. Set --config.mesh.data={len(slices)} and a smaller --config.mesh.fsdp or --config.mesh.tensor'
    )
  sizes[0] //= len(slices)
  # Like mesh_utils.create_hybrid_device_mesh, which needs devices that know their slice. The option allows a mesh
  # axis to be a part of a physical axis of the slice, such as 32 x 2 on v5p:4x4x4.
  placed = [
    mesh_utils.create_device_mesh(sizes, part, allow_split_physical_axes=True) for part in slices
  ]
  axis_types = (AxisType.Auto,) * len(AXES)
  device_mesh = jax.sharding.Mesh(np.concatenate(placed), AXES, axis_types=axis_types)
  host_part(device_mesh)  # raises an error if hosts cannot divide a batch
  return device_mesh


def fitted(mesh: Mesh, count: int) -> Mesh:
  """Returns a mesh for `count` devices, as close to a mesh of a run as possible.

  A mesh that fits is returned as it is, without its slices if they do not divide `data`. Otherwise `tensor` and `fsdp`
  are cut to divisors of `count`, and `data` takes the remaining devices.
  """
  sizes = (mesh.data, mesh.fsdp, mesh.tensor)
  known = abs(math.prod(sizes))
  if known == count or (-1 in sizes and count % known == 0):
    data = count // known if mesh.data == -1 else mesh.data
    return mesh if data % (mesh.dcn_data or 1) == 0 else dataclasses.replace(mesh, dcn_data=None)
  tensor = math.gcd(abs(mesh.tensor), count)
  fsdp = math.gcd(abs(mesh.fsdp), count // tensor)
  return Mesh(data=-1, fsdp=fsdp, tensor=tensor)


def constrain(x: jax.Array, name: str) -> jax.Array:
  """Constrains the sharding of an activation by ACTIVATION_RULES; does nothing without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  spec = rules_lib.fitted(ACTIVATION_RULES[name], x.shape, mesh.shape)
  return jax.lax.with_sharding_constraint(x, spec)


class TableSharding(NamedTuple):
  """The sharding of a batch and of the token tables under the current mesh, for `jax.shard_map`.

  Attributes:
    axes: the mesh axes with more than one device.
    batch: the axes over which rows of the batch are sharded.
    rows: the axis over which the rows of the tables are sharded; None: not sharded.
    width: the axis over which the width of the tables is sharded; None: not sharded.
  """

  axes: frozenset[str]
  batch: tuple[str, ...]
  rows: str | None
  width: str | None

  @property
  def table_spec(self) -> P:
    return P(self.rows, self.width)  # V, D

  @property
  def batch_spec(self) -> P:
    return P(self.batch or None)


def table_sharding(tables: Sequence[jax.Array], batch_size: int) -> TableSharding | None:
  """Returns the sharding under the current mesh; None: one device, or the mesh does not divide the batch.

  Args:
    tables: `[V, D]` each. An axis shards the tables only if it divides all of them.
    batch_size: rows of the batch.
  """
  sizes = {axis: n for axis, n in jax.sharding.get_abstract_mesh().shape.items() if n > 1}
  batch = tuple(axis for axis in BATCH if axis in sizes)
  if not sizes or batch_size % math.prod(sizes[axis] for axis in batch):
    return None

  def shards(axis: str, dimension: int) -> str | None:
    divides = axis in sizes and all(t.shape[dimension] % sizes[axis] == 0 for t in tables)
    return axis if divides else None

  return TableSharding(frozenset(sizes), batch, shards('tensor', 0), shards('fsdp', 1))


def batch_shards(mesh: jax.sharding.Mesh) -> int:
  """Returns the number of shards of a batch."""
  return math.prod(mesh.shape[axis] for axis in BATCH)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of a batch: rows over the batch axes, other dimensions replicated."""
  return NamedSharding(mesh, P(BATCH))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds completely."""
  return NamedSharding(mesh, P())


def index_sharding(x: jax.Array | np.ndarray, mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of an array that is read by indices: a large one is divided over `tensor`, if it can be.

  A device then looks up its part, and the devices of a `tensor` group add their results. The other arrays, and those
  of a mesh without `tensor`, are on every device.
  """
  parts = mesh.shape['tensor']
  is_large = x.ndim > 0 and x.size * x.dtype.itemsize >= INDEX_BYTES
  if parts == 1 or not is_large or x.shape[-1] % parts:
    return replicated(mesh)
  return NamedSharding(mesh, P(*[None] * (x.ndim - 1), 'tensor'))


def tree_shardings(
  tree: Any,
  mesh: jax.sharding.Mesh,
  params: Any = None,
  rules: rules_lib.Rules = rules_lib.PARAMETER_RULES,
) -> Any:
  """Returns a NamedSharding for every array (or ShapeDtypeStruct) of a tree, by its path.

  Args:
    tree: parameters or a train state. The path of a moment ends in the path of its parameter.
    mesh: the mesh.
    params: parameters, whose shapes give the sharding of factored moments. None: those are replicated.
    rules: parameter rules of the model's family.
  """
  shapes = {
    rules_lib.name_of(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)
  }

  def leaf_sharding(path, x) -> NamedSharding:
    name = rules_lib.name_of(path)
    spec = rules_lib.spec_of(name, x.shape, mesh.shape, rules)
    full = next((shape for p, shape in shapes.items() if f'/{name}'.endswith(f'/{p}')), ())
    if len(full) == len(x.shape) + 1:  # a factored moment lacks one dimension
      parameter_spec = rules_lib.spec_of(name, full, mesh.shape, rules)
      spec = rules_lib.factored_spec(name, x.shape, full, parameter_spec)
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def host_part(mesh: jax.sharding.Mesh) -> tuple[int, int]:
  """Returns (part, parts): the index of the batch part that this process reads, and the number of parts.

  Processes that differ only along `tensor` hold the same rows and read the same part.

  Raises:
    ValueError: two processes share some but not all of their rows.
  """
  processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
  return part_of(processes.reshape(batch_shards(mesh), -1), jax.process_index())


def part_of(processes: np.ndarray, process: int) -> tuple[int, int]:
  """Computes `host_part` for one process.

  Args:
    processes: int `[batch shards, devices per shard]`, the process of each device.
    process: index of the process.
  """
  shards_by_process = {
    int(p): np.flatnonzero((processes == p).any(axis=1)).tolist() for p in np.unique(processes)
  }
  parts = sorted({tuple(shards) for shards in shards_by_process.values()})
  owners = collections.Counter(itertools.chain(*parts))
  if max(owners.values()) > 1 or len({len(part) for part in parts}) > 1:
    raise ValueError(
      'every process must hold equally many rows of a batch, and two processes the same rows or none in '
      f'common; the shards (of {len(processes)}) that processes hold are '
      f'{", ".join(map(str, parts[:4]))}, … Set --config.mesh.tensor to a divisor or a multiple of the '
      'number of devices of a process'
    )
  return parts.index(tuple(shards_by_process[process])), len(parts)


def host_rows(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
  """Makes a global batch on the mesh; each process passes the part that it has read (`host_part`)."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
  }


def global_rows(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
  """Makes a global batch on the mesh; every process passes all rows."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)
    for name, rows in batch.items()
  }


def transferred(
  batches: Iterator[dict[str, np.ndarray]], ahead: int, mesh: jax.sharding.Mesh
) -> Iterator[dict[str, jax.Array]]:
  """Yields `host_rows` of batches; puts so many batches ahead to the devices."""
  queue = collections.deque()
  for batch in batches:
    queue.append(host_rows(batch, mesh))
    if len(queue) > ahead:
      yield queue.popleft()
  yield from queue
