"""Prints parameter shardings; rejects meshes that leave too much replicated."""

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from recjax.sharding import mesh as mesh_lib
from recjax.sharding import rules as rules_lib

# Largest share of parameter bytes that may be replicated although a rule shards them.
MOST_REPLICATED = 0.02


class Row(NamedTuple):
  """A parameter and its sharding.

  Attributes:
    bytes: size of the parameter.
    local: bytes on one device.
    is_replicated: whether it is sharded over fewer devices than the first spec of its rule asks for.
  """

  name: str
  shape: tuple[int, ...]
  spec: P
  bytes: int
  local: int
  is_replicated: bool


def _rows(tree: Any, mesh: jax.sharding.Mesh, rules: rules_lib.Rules) -> list[Row]:
  rows = []
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    name = rules_lib.name_of(path)
    spec = rules_lib.spec_of(name, x.shape, mesh.shape, rules)
    rule = rules_lib.rule_of(name, rules)
    wanted = rule[0] if rule else ['fsdp', 'tensor']
    asked = [rules_lib.num_shards(axes, mesh.shape) for axes in wanted]
    local = math.prod(NamedSharding(mesh, spec).shard_shape(x.shape))
    size = np.dtype(x.dtype).itemsize
    is_replicated = math.prod(x.shape) < local * math.prod(asked)
    rows.append(Row(name, x.shape, spec, size * math.prod(x.shape), size * local, is_replicated))
  return rows


def describe(
  params: Any,
  mesh: jax.sharding.Mesh,
  opt_state: Any = None,
  rules: rules_lib.Rules = rules_lib.PARAMETER_RULES,
) -> str:
  """Returns a table of all parameters (name, shape, spec, bytes per device) and the sums.

  Args:
    params: arrays or ShapeDtypeStructs.
    mesh: the mesh.
    opt_state: optimizer state, whose bytes are added; None: left out.
    rules: parameter rules of the model's family.
  """
  rows = _rows(params, mesh, rules)
  lines = [
    f'  {row.name:<44} {row.shape!s:<22} {row.spec!s:<46} {row.local:>13,} B'
    + (' !' if row.is_replicated else '')
    for row in rows
  ]
  count = sum(math.prod(row.shape) for row in rows)
  local_bytes = sum(row.local for row in rows)
  text = f'  {count:,} parameters; a device holds {local_bytes:,} bytes of them'
  if opt_state is not None:
    shardings = mesh_lib.tree_shardings(opt_state, mesh, params, rules)
    moments = sum(
      math.prod(s.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
      for x, s in zip(jax.tree.leaves(opt_state), jax.tree.leaves(shardings), strict=True)
    )
    text += f' and {moments:,} bytes of the optimizer'
  if any(row.is_replicated for row in rows):
    text += '\n  ! replicated along an axis that should shard it'
  return '\n'.join([*lines, text])


def check_replication(
  params: Any, mesh: jax.sharding.Mesh, rules: rules_lib.Rules = rules_lib.PARAMETER_RULES
) -> None:
  """Raises a ValueError if parameters are replicated that the mesh should shard.

  Parameters that a rule replicates are allowed. Of the other parameters' bytes, at most the share MOST_REPLICATED
  may be replicated along `fsdp` or `tensor` (an axis does not divide a dimension, or no rule matches).
  """
  rows = _rows(params, mesh, rules)
  replicated = sorted((row for row in rows if row.is_replicated), key=lambda row: -row.bytes)
  share = sum(row.bytes for row in replicated) / sum(row.bytes for row in rows)
  if share > MOST_REPLICATED:
    names = ', '.join(f'{row.name} {row.shape}' for row in replicated[:4])
    axes = {axis: mesh.shape[axis] for axis in ('fsdp', 'tensor')}
    raise ValueError(
      f'at most {MOST_REPLICATED:.0%} of the parameter bytes may be replicated where the mesh should shard '
      f'them; under {axes} it is {share:.1%}: {names}. Set --config.mesh.fsdp and --config.mesh.tensor to '
      'sizes that divide these shapes'
    )
