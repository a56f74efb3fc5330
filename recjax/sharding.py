"""The mesh, and one ordered table of rules that says where every parameter and activation lives."""

from collections.abc import Mapping, Sequence
import math
import re
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax import config as config_lib

AXES = ('data', 'fsdp', 'tensor')
BATCH = ('data', 'fsdp')  # the axes that rows of a batch are spread over

# The first pattern found in a path wins, and of its specs the first whose axes divide their dimensions: a few
# heads that `tensor` does not divide are cut along D instead. Paths are joined with '/'; stacked layers have
# their depth as the first dimension.
PARAMETER_RULES: tuple[tuple[str, tuple[P, ...]], ...] = (
  (r'tables/(text|sid)(_out)?$', (P('tensor', 'fsdp'),)),  # V, D
  (
    r'lora/.*(out|down)/kernel/a$',
    (P(None, 'tensor', None),),
  ),  # depth, inputs, rank: as the kernel
  (r'lora/.*(out|down)/kernel/b$', (P(None, None, 'fsdp'),)),  # depth, rank, outputs
  (r'lora/.*/a$', (P(None, 'fsdp', None),)),
  (r'lora/.*/b$', (P(None, None, 'tensor'),)),
  (
    r'layers/.*attention/[qkv]/kernel$',  # depth, D, heads, H
    (P(None, 'fsdp', 'tensor', None), P(None, ('fsdp', 'tensor'), None, None)),
  ),
  (
    r'layers/.*attention/out/kernel$',  # depth, N, H, D
    (P(None, 'tensor', None, 'fsdp'), P(None, None, None, ('fsdp', 'tensor'))),
  ),
  (r'layers/.*ff/(gate|up)/kernel$', (P(None, 'fsdp', 'tensor'),)),  # depth, D, F
  (r'layers/.*ff/down/kernel$', (P(None, 'tensor', 'fsdp'),)),  # depth, F, D
  # Whole on every device, on purpose: norms, biases, T5's relative position buckets.
  (r'(norm/scale|/bias|relative_bias/table)$', (P(),)),
)
MOST_REPLICATED = 0.02  # of the parameter bytes may be whole along an axis that should cut them

ACTIVATION_RULES: dict[str, P] = {
  'residual': P(BATCH, None, None),  # B, T or M, D
  'heads': P(BATCH, None, 'tensor', None),  # B, T, N, H
}


def make_mesh(mesh: config_lib.Mesh) -> jax.sharding.Mesh:
  """The device mesh over all hosts.

  Raises:
    ValueError: the axes do not multiply to the number of devices, or processes would share rows of a batch.
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
  made = jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3)
  host_part(made)
  return made


def _product(axes: str | tuple[str, ...] | None, sizes: Mapping[str, int]) -> int:
  """Over how many devices an entry of a spec cuts its dimension."""
  return math.prod(sizes[axis] for axis in (() if axes is None else np.atleast_1d(axes)))


def _fitted(spec: P, shape: tuple[int, ...], sizes: Mapping[str, int]) -> P:
  """The spec without the axes that do not divide their dimensions."""
  fits = (n % _product(axes, sizes) == 0 for axes, n in zip(spec, shape, strict=False))
  return P(*(axes if fit else None for axes, fit in zip(spec, fits, strict=True)))


def constrain(x: jax.Array, name: str) -> jax.Array:
  """Pins an activation to its row of ACTIVATION_RULES under the mesh that is set, if one is."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  spec = _fitted(ACTIVATION_RULES[name], x.shape, mesh.shape)
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
    tables: `[V, D]` each; an axis that does not divide all of them cuts none, as in `_spec`.
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


def _path(path) -> str:
  return '/'.join(str(getattr(p, 'key', getattr(p, 'name', getattr(p, 'idx', p)))) for p in path)


def _rule(path: str) -> tuple[P, ...]:
  return next((specs for pattern, specs in PARAMETER_RULES if re.search(pattern, path)), ())


def _spec(path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> P:
  """By the first rule that matches; where none of its specs fits, the first without what does not divide."""
  rule = _rule(path)
  if not rule or len(rule[0]) > len(shape):  # an optimizer's counts and placeholders
    return P()
  return next((s for s in rule if _fitted(s, shape, mesh.shape) == s), None) or _fitted(
    rule[0], shape, mesh.shape
  )


def _factored_spec(path: str, shape: tuple[int, ...], of: tuple[int, ...], spec: P) -> P:
  """Of a factored moment (Adafactor): its parameter's, without the dimension that was averaged over.

  Where two dimensions are of one size, rows lack the later one and columns the earlier one, as in optax.
  """
  lacks = [i for i in range(len(of)) if of[:i] + of[i + 1 :] == shape]
  if not lacks or not spec:
    return P()
  i = lacks[-1] if '/v_row/' in path else lacks[0]
  return P(*spec[:i], *spec[i + 1 :])


def tree_shardings(tree: Any, mesh: jax.sharding.Mesh, params: Any = None) -> Any:
  """A NamedSharding for every array (or ShapeDtypeStruct) of a tree, by its path.

  Args:
    tree: parameters, or a whole state: moments end in their parameter's path.
    mesh: the mesh.
    params: the parameters that factored moments of the tree belong to; without it those are replicated.
  """
  shapes = {_path(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}

  def of_leaf(path, x) -> NamedSharding:
    name = _path(path)
    spec = _spec(name, x.shape, mesh)
    of = next((shape for p, shape in shapes.items() if f'/{name}'.endswith(f'/{p}')), ())
    if len(of) == len(x.shape) + 1:
      spec = _factored_spec(name, x.shape, of, _spec(name, of, mesh))
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(of_leaf, tree)


class Row(NamedTuple):
  """A parameter in the table: where it lives.

  Attributes:
    bytes: of all of it; `local`: of what a device holds.
    is_whole: whether it is cut less than the first spec of its rule asks for, by accident.
  """

  name: str
  shape: tuple[int, ...]
  spec: P
  bytes: int
  local: int
  is_whole: bool


def _rows(tree: Any, mesh: jax.sharding.Mesh) -> list[Row]:
  rows = []
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    name = _path(path)
    spec = _spec(name, x.shape, mesh)
    rule = _rule(name)
    asked = [_product(axes, mesh.shape) for axes in (rule[0] if rule else ['fsdp', 'tensor'])]
    local = math.prod(NamedSharding(mesh, spec).shard_shape(x.shape))
    size = np.dtype(x.dtype).itemsize
    is_whole = math.prod(x.shape) < local * math.prod(asked)
    rows.append(Row(name, x.shape, spec, size * math.prod(x.shape), size * local, is_whole))
  return rows


def parameter_table(params: Any, mesh: jax.sharding.Mesh, opt_state: Any = None) -> str:
  """Name, shape, spec and bytes a device of every parameter, and their sums.

  Args:
    params: arrays or ShapeDtypeStructs.
    mesh: the mesh.
    opt_state: of the optimizer, to count its bytes too; None: they are left out.
  """
  rows = _rows(params, mesh)
  lines = [
    f'  {row.name:<44} {row.shape!s:<22} {row.spec!s:<46} {row.local:>13,} B'
    + (' !' if row.is_whole else '')
    for row in rows
  ]
  count = sum(math.prod(row.shape) for row in rows)
  held = sum(row.local for row in rows)
  text = f'  {count:,} parameters; a device holds {held:,} bytes of them'
  if opt_state is not None:
    shardings = tree_shardings(opt_state, mesh, params)
    moments = sum(
      math.prod(s.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
      for x, s in zip(jax.tree.leaves(opt_state), jax.tree.leaves(shardings), strict=True)
    )
    text += f' and {moments:,} bytes of the optimizer'
  if any(row.is_whole for row in rows):
    text += '\n  ! not cut along an axis that should cut it'
  return '\n'.join([*lines, text])


def check_replication(params: Any, mesh: jax.sharding.Mesh) -> None:
  """Raises a ValueError where parameters that the mesh should cut are whole on its devices.

  What is replicated on purpose is named in PARAMETER_RULES; of the rest at most MOST_REPLICATED may be
  whole along `fsdp` or `tensor`, because a dimension does not divide or no rule knows the parameter.
  """
  rows = _rows(params, mesh)
  whole = sorted((row for row in rows if row.is_whole), key=lambda row: -row.bytes)
  share = sum(row.bytes for row in whole) / sum(row.bytes for row in rows)
  if share > MOST_REPLICATED:
    names = ', '.join(f'{row.name} {row.shape}' for row in whole[:4])
    axes = {axis: mesh.shape[axis] for axis in ('fsdp', 'tensor')}
    raise ValueError(
      f'at most {MOST_REPLICATED:.0%} of the parameter bytes may be whole where the mesh should cut them; '
      f'under {axes} it is {share:.1%}: {names}. Set --config.mesh.fsdp and --config.mesh.tensor to sizes '
      'that divide these shapes'
    )


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
  shards = {p: tuple(np.flatnonzero((processes == p).any(axis=1))) for p in set(processes.flat)}
  parts = sorted(set(shards.values()))
  held = [shard for part in parts for shard in part]
  if len(held) != len(set(held)) or len({len(part) for part in parts}) > 1:
    raise ValueError(
      f'every process must hold rows of its own or the same as others; the processes that hold each of '
      f'the {len(processes)} parts of a batch are {[sorted(set(row)) for row in processes.tolist()]}. '
      'Set --config.mesh.tensor to a divisor or a multiple of the devices of a process'
    )
  return parts.index(shards[process]), len(parts)


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
