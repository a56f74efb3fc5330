"""Compiles a run for a slice of TPUs before it is paid for: memory, FLOPs, collectives, the least step time.

  python -m launch.compile --config=configs/sports.py:flan_t5_xl --topology=v5e:16x16 --config.mesh.data=2 \
    --config.mesh.fsdp=128 --config.batch_size=1024 --config.packing.rows=16
  python -m launch.compile --table     the table of docs/compile.md

Needs neither TPU nor data, but the compiler: pip install -r requirements-tpu.txt. Exits with 1 where the training
step or the search does not fit.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

# Before jax is loaded: the programs are made here, for chips that are not.
os.environ['JAX_PLATFORMS'] = 'cpu'

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from launch.compile import programs
from launch.compile.chips import chip_of
from launch.compile.report import as_json, estimates
from launch.compile.table import CELLS, Cell, write_docs
from recjax import config as config_lib
from recjax.runtime.files import code_commit

RESULTS, DOCS = 'results/compile.json', 'docs/compile.md'

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.', lock_config=True)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'The slice, such as v5e:16x16 or v5p:4x4x4.')
_ITEMS = flags.DEFINE_integer('items', programs.ITEMS, 'Items of the catalogue.')
_SEARCH = flags.DEFINE_bool('search', True, 'Compile the search too.')
_JSON = flags.DEFINE_string('json', None, 'Where to write the figures.')
_HLO = flags.DEFINE_string('hlo', None, 'A folder that keeps the optimised programs as text.')
_TABLE = flags.DEFINE_bool(
  'table', False, f'Compile what {RESULTS} lacks of the table, and write it into {DOCS}.'
)
_CELLS = flags.DEFINE_string('cells', '', '--table: only cells whose name holds this pattern.')


def _versions() -> dict[str, str]:
  return {package: importlib.metadata.version(package) for package in ('jax', 'libtpu')}


def _write(path: str, content: Any) -> None:
  target = epath.Path(path)
  partial = target.with_name(target.name + '.partial')
  partial.write_text(json.dumps(content, indent=1) + '\n')
  partial.replace(target)


def _compile_cell(cell: Cell) -> dict[str, Any]:
  """In a process of its own, so that one program's memory is free before the next."""
  with tempfile.TemporaryDirectory() as folder:
    out = os.path.join(folder, 'cell.json')
    command = [
      sys.executable,
      '-m',
      'launch.compile',
      *cell.arguments,
      '--nosearch',
      f'--json={out}',
    ]
    status = subprocess.run(command, check=False).returncode
    if status not in (0, 1) or not os.path.exists(out):
      raise RuntimeError(f'{" ".join(command)} ended with status {status}')
    with open(out) as file:
      return json.load(file)


def _rows() -> dict[str, Any]:
  path = epath.Path(RESULTS)
  return json.loads(path.read_text()) if path.exists() else {}


def table(pattern: str) -> None:
  """Completes the results file cell by cell, and writes the docs from it."""
  for cell in CELLS:
    if re.search(pattern, cell.name) and cell.name not in _rows():
      print(f'--- {cell.name}', flush=True)
      row = _compile_cell(cell)
      _write(RESULTS, _rows() | {cell.name: row})  # read anew: another may have written meanwhile
    write_docs(epath.Path(DOCS), _rows())


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'arguments must be flags; got {argv[1:]}')
  logging.set_verbosity(logging.WARNING)
  if _TABLE.value:
    table(_CELLS.value)
    return
  if _CONFIG.value is None or _TOPOLOGY.value is None:
    raise app.UsageError('--config and --topology must be set, or --table')
  try:
    chip_of(_TOPOLOGY.value)
    config = config_lib.from_config_dict(_CONFIG.value)
    assumed, found = estimates(config, _TOPOLOGY.value, _ITEMS.value, _SEARCH.value, _HLO.value)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  if _JSON.value:
    arguments = [a for a in sys.argv[1:] if a.startswith(('--config', '--topology', '--items'))]
    content = {
      'arguments': arguments,
      'commit': code_commit(),
      'versions': _versions(),
      'assumed': assumed,
    }
    _write(_JSON.value, content | {name: as_json(e) for name, e in found.items()})
  sys.exit(0 if all(e.fits for e in found.values()) else 1)


if __name__ == '__main__':
  app.run(main)
