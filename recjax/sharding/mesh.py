"""The mesh, and where activations, batches and states live on it; `parameter_rules` says it of parameters."""

import collections
from collections.abc import Sequence
import itertools
import math
from typing import Any, NamedTuple

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax.schema.run import Mesh
from recjax.sharding import rules

AXES = ('data', 'fsdp', 'tensor')
BATCH = ('data', 'fsdp')  # the axes that rows of a batch are spread over

ACTIVATION_RULES: dict[str, P] = {
  'residual': P(BATCH, None, None),  # B, T or M, D
  'heads': P(BATCH, None, 'tensor', None),  # B, T, N, H
}


def make_mesh(mesh: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """The device mesh over all hosts.

  Args:
    mesh: the sizes of the axes.
    devices: None: those of this run.

  Raises:
    ValueError: the axes do not multiply to the number of devices, or processes would share rows of a batch.
  """
  sizes = [mesh.data, mesh.fsdp, mesh.tensor]
  count = jax.device_count() if devices is None else len(devices)
  if -1 in sizes:
    known = -math.prod(sizes)
    sizes[sizes.index(-1)] = max(count // known, 1)
  if math.prod(sizes) != count:
    raise ValueError(
      f'the mesh axes {dict(zip(AXES, sizes, strict=True))} must multiply to the {count} devices of '
      'this run. Set --config.mesh.{data,fsdp,tensor}; one of them may be -1'
    )
  # An axis may be cut from one of the slice's own: 32 x 2 on v5p:4x4x4.
  placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  made = jax.sharding.Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)
  host_part(made)
  return made


def constrain(x: jax.Array, name: str) -> jax.Array:
  """Pins an activation to its row of ACTIVATION_RULES under the mesh that is set, if one is."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  spec = rules.fitted(ACTIVATION_RULES[name], x.shape, mesh.shape)
  return jax.lax.with_sharding_constraint(x, spec)


class TableCut(NamedTuple):
  """How the mesh that is set cuts a batch and the token tables: for programs of one device.

  Attributes:
    axes: the mesh axes of more than one device.
    batch: those over which rows of the batch are cut.
    rows: the axis over which the rows of the tables are cut, or None.
    width: the axis over which their width is cut, or None.
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


def table_cut(tables: Sequence[jax.Array], batch_size: int) -> TableCut | None:
  """The cut under the mesh that is set; None: one device, or a batch that does not divide.

  Args:
    tables: `[V, D]` each; an axis that does not divide all of them cuts none, as in `parameter_rules`.
    batch_size: rows of the batch.
  """
  sizes = {axis: n for axis, n in jax.sharding.get_abstract_mesh().shape.items() if n > 1}
  batch = tuple(axis for axis in BATCH if axis in sizes)
  if not sizes or batch_size % math.prod(sizes[axis] for axis in batch):
    return None

  def cuts(axis: str, dimension: int) -> str | None:
    divides = axis in sizes and all(t.shape[dimension] % sizes[axis] == 0 for t in tables)
    return axis if divides else None

  return TableCut(frozenset(sizes), batch, cuts('tensor', 0), cuts('fsdp', 1))


def batch_shards(mesh: jax.sharding.Mesh) -> int:
  """The parts that a batch is cut into."""
  return math.prod(mesh.shape[axis] for axis in BATCH)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows over the batch axes; whatever follows is whole."""
  return NamedSharding(mesh, P(BATCH))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def tree_shardings(tree: Any, mesh: jax.sharding.Mesh, params: Any = None) -> Any:
  """A NamedSharding for every array (or ShapeDtypeStruct) of a tree, by its path.

  Args:
    tree: parameters, or a whole state: moments end in their parameter's path.
    mesh: the mesh.
    params: the parameters that factored moments of the tree belong to; without it those are replicated.
  """
  shapes = {rules.name_of(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}

  def of_leaf(path, x) -> NamedSharding:
    name = rules.name_of(path)
    spec = rules.spec_of(name, x.shape, mesh.shape)
    of = next((shape for p, shape in shapes.items() if f'/{name}'.endswith(f'/{p}')), ())
    if len(of) == len(x.shape) + 1:
      spec = rules.factored_spec(name, x.shape, of, rules.spec_of(name, of, mesh.shape))
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(of_leaf, tree)


def host_part(mesh: jax.sharding.Mesh) -> tuple[int, int]:
  """(part, parts): which of the equal parts of a global batch this process reads.

  Processes whose devices hold the same rows, since only `tensor` tells them apart, read the same part.

  Raises:
    ValueError: the rows of two processes overlap and are not the same.
  """
  processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
  return part_of(processes.reshape(batch_shards(mesh), -1), jax.process_index())


def part_of(processes: np.ndarray, process: int) -> tuple[int, int]:
  """`host_part` of a process.

  Args:
    processes: int `[batch shards, devices of a shard]`: whose device holds this shard of a batch.
    process: one of them.
  """
  held = {
    int(p): np.flatnonzero((processes == p).any(axis=1)).tolist() for p in np.unique(processes)
  }
  parts = sorted({tuple(shards) for shards in held.values()})
  owners = collections.Counter(itertools.chain(*parts))
  if max(owners.values()) > 1 or len({len(part) for part in parts}) > 1:
    raise ValueError(
      'every process must hold as many rows of a batch as every other, of its own or the same as others; '
      f'the parts (of {len(processes)}) that processes hold are {", ".join(map(str, parts[:4]))}, … Set '
      '--config.mesh.tensor to a divisor or a multiple of the devices of a process'
    )
  return parts.index(tuple(held[process])), len(parts)


def host_rows(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
  """A global batch on the mesh from the part of it that this process read; see `host_part`."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
  }


def whole_rows(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
  """A global batch on the mesh, where every process has all of its rows."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)
    for name, rows in batch.items()
  }
