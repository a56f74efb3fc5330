"""The parameters of a run and where they live: a table to print, and the refusal of a mesh that cuts too few."""

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax.sharding import mesh as mesh_lib
from recjax.sharding import rules

MOST_REPLICATED = 0.02  # of the parameter bytes may be whole along an axis that should cut them


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
    name = rules.name_of(path)
    spec = rules.spec_of(name, x.shape, mesh.shape)
    rule = rules.rule_of(name)
    asked = [rules.product(axes, mesh.shape) for axes in (rule[0] if rule else ['fsdp', 'tensor'])]
    local = math.prod(NamedSharding(mesh, spec).shard_shape(x.shape))
    size = np.dtype(x.dtype).itemsize
    is_whole = math.prod(x.shape) < local * math.prod(asked)
    rows.append(Row(name, x.shape, spec, size * math.prod(x.shape), size * local, is_whole))
  return rows


def describe(params: Any, mesh: jax.sharding.Mesh, opt_state: Any = None) -> str:
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
    shardings = mesh_lib.tree_shardings(opt_state, mesh, params)
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
