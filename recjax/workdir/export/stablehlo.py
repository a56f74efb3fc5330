"""Writes a function as a file that `loader.read_function` calls with jax alone: a JSON line, then StableHLO.

The file holds what `jax.export.Exported.serialize` writes, without its dependency on flatbuffers: arguments and results
by name, with shapes that may have symbolic dimensions, and the module as a portable artifact of StableHLO.
"""

from collections.abc import Callable, Mapping
import json
from typing import Any

from etils import epath
import jax
from jax import export

PLATFORMS = ('cpu', 'cuda', 'tpu')


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
  names = sorted(arguments)
  results = []

  def flat(*values):
    found = function(dict(zip(names, values, strict=True)))
    results[:] = sorted(found)
    return tuple(found[name] for name in results)

  exported = export.export(jax.jit(flat), platforms=PLATFORMS)(*[arguments[n] for n in names])
  header = {
    'arguments': _specs(names, exported.in_avals),
    'results': _specs(results, exported.out_avals),
    'kept': list(exported.module_kept_var_idx),
    'platforms': list(exported.platforms),
    'calling_convention': exported.calling_convention_version,
  }
  path.write_bytes(json.dumps(header).encode() + b'\n' + bytes(exported.mlir_module_serialized))


def _specs(names, avals) -> list[tuple[str, str, str]]:
  return [
    (name, ','.join(map(str, aval.shape)), aval.dtype.name)
    for name, aval in zip(names, avals, strict=True)
  ]
