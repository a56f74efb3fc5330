"""Compiles a run for a TPU slice without a TPU: memory, FLOPs, collectives, and the least time of a step.

  python -m launch.compile --config=configs/sports.py:flan_t5_xl --topology=v5e:16x16 --config.mesh.data=2 \\
    --config.mesh.fsdp=128 --config.batch_size=1024 --config.packing.rows=16
  python -m launch.compile --config=… --topology=v5e:16x16 --slices=2 …     two slices, with traffic between them
  python -m launch.compile --table     the table of docs/compile.md

Needs no TPU and no data, but the compiler: pip install '.[tpu]'. Exits with 1 if the training step
or the search does not fit.
"""

import importlib.metadata
import json
import os
import sys

# Must be set before jax is imported: tracing runs on the CPU, because this machine has no TPU.
os.environ['JAX_PLATFORMS'] = 'cpu'

from absl import app, flags, logging

from launch.compile import programs, table
from launch.compile.chips import chip_of
from launch.compile.report import as_json, estimates
from launch.options import portable
from recjax import config as config_lib
from recjax.runtime.files import code_commit, write_whole
from recjax.schema import flag as config_flag
from recjax.workdir import checkpoint_name, identity

_CONFIG = config_flag.define(identity.read_config_dict)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'The slice, such as v5e:16x16 or v5p:4x4x4.')
_SLICES = flags.DEFINE_integer('slices', 1, 'Slices of that topology.', lower_bound=1)
_ITEMS = flags.DEFINE_integer('items', programs.ITEMS, 'Items of the catalogue.')
_SEARCH = flags.DEFINE_bool('search', True, 'Compile the search too.')
_JSON = flags.DEFINE_string('json', None, 'File to write the figures to.')
_HLO = flags.DEFINE_string('hlo', None, 'Folder to write the optimised programs to, as text.')
_TABLE = flags.DEFINE_bool(
  'table',
  False,
  f'Compile the cells that {table.RESULTS} lacks, and write the table of {table.DOCS}.',
)
_CELLS = flags.DEFINE_string(
  'cells', '', '--table: compile only cells whose name matches this regular expression.'
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'arguments must be flags; got {argv[1:]}')
  logging.set_verbosity(logging.WARNING)
  if _TABLE.value:
    table.complete(_CELLS.value)
    return
  if _CONFIG.value is None or _TOPOLOGY.value is None:
    raise app.UsageError('--config and --topology must be set, or --table')
  try:
    chip_of(_TOPOLOGY.value)
    config = checkpoint_name.resolved(config_lib.from_config_dict(_CONFIG.value))
    options = (_ITEMS.value, _SEARCH.value, _HLO.value, _SLICES.value)
    assumed, found = estimates(config, _TOPOLOGY.value, *options)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  if _JSON.value:
    arguments = [
      a for a in sys.argv[1:] if a.startswith(('--config', '--topology', '--slices', '--items'))
    ]
    content = {
      'arguments': portable(arguments),
      'commit': code_commit(),
      'versions': {package: importlib.metadata.version(package) for package in ('jax', 'libtpu')},
      'assumed': assumed,
    }
    content |= {name: as_json(estimate) for name, estimate in found.items()}
    write_whole(_JSON.value, json.dumps(content, indent=1) + '\n')
  sys.exit(0 if all(e.fits for e in found.values()) else 1)


if __name__ == '__main__':
  app.run(main, flags_parser=config_flag.parse_flags)
