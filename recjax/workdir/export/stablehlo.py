"""Writes a function as a file that `loader.function` calls with jax alone: a JSON line, then StableHLO.

The file holds what `jax.export.Exported.serialize` writes, without its dependency on flatbuffers: the fields of
`jax.export.Exported`, arguments and results by name with shapes that may have symbolic dimensions, and the module as a
portable artifact of StableHLO.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
from typing import Any

from etils import epath
import jax
from jax import export

PLATFORMS = ('cpu', 'cuda', 'tpu')
# Fields of Exported that the loader makes from the arguments and results, or has no use for.
_MADE = {'in_tree', 'in_avals', 'out_tree', 'out_avals', 'mlir_module_serialized', '_get_vjp'}


def save(
  path: epath.Path,
  function: Callable[[dict[str, Any]], dict[str, Any]],
  arguments: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
  """Exports a function for PLATFORMS.

  Args:
    path: the file.
    function: traceable, arrays by name → arrays by name.
    arguments: shapes of its arguments by name.
  """
  exported = export.export(jax.jit(function), platforms=PLATFORMS)(dict(arguments))
  fields = {field.name: getattr(exported, field.name) for field in dataclasses.fields(exported)}
  header = {name: value for name, value in fields.items() if name not in _MADE}
  results = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  header['arguments'] = _specs(sorted(arguments), exported.in_avals)
  header['results'] = _specs(sorted(results), exported.out_avals)
  header['fun_name'] = path.stem
  path.write_bytes(json.dumps(header).encode() + b'\n' + bytes(exported.mlir_module_serialized))


def _specs(names, avals) -> list[tuple[str, str, str]]:
  """Returns name, shape and type of arrays; a dictionary is flattened in the order of its names."""
  return [
    (name, ','.join(map(str, aval.shape)), aval.dtype.name)
    for name, aval in zip(names, avals, strict=True)
  ]
