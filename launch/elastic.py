"""How many hosts a run can go on with after it has lost some.

  python -m launch.elastic --workdir=W --at_most=3 [--processes=8] [--devices=1]

prints the largest usable number of hosts, of which each runs so many processes with so many devices, by the config that
the run recorded in its workdir; or ends with status 1 and says why there is none. A step has the same examples on any
number of hosts, so their number must divide its batch.
"""

import argparse
from collections.abc import Sequence
import math
import os
import sys

from etils import epath
import numpy as np

from launch.options import positive
from recjax.config import Config
from recjax.data import loader
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import identity, stages


def largest(workdir: str | os.PathLike, at_most: int, processes: int = 1, devices: int = 1) -> int:
  """Returns the largest number of hosts that all trainings of a run can go on with.

  Args:
    workdir: workdir of the run. If it has recorded no config yet, the result is `at_most`.
    at_most: hosts that are left.
    processes: processes of each host.
    devices: devices of each process.

  Raises:
    ValueError: no number fits.
  """
  folder, reason = epath.Path(workdir).expanduser(), 'no host is left'
  begun = folder / stages.FOLDER
  folders = [folder, *(begun.iterdir() if begun.exists() else ())]
  configs = [config for path in folders if (config := identity.config_of(path)) is not None]
  for hosts in range(at_most, 0, -1):
    try:
      for config in configs:
        check(config, hosts * processes, devices)
      return hosts
    except ValueError as error:
      reason = str(error) if hosts == at_most else reason
  raise ValueError(f'the run in {folder} cannot go on with {at_most} hosts or fewer: {reason}')


def check(config: Config, processes: int, devices: int) -> None:
  """Raises a ValueError if a run cannot be trained by so many processes with so many devices each."""
  mesh, count = config.mesh, processes * devices
  sizes = [mesh.data, mesh.fsdp, mesh.tensor]
  if -1 in sizes:
    sizes[sizes.index(-1)] = max(count // -math.prod(sizes), 1)
  if math.prod(sizes) != count or sizes[0] % (mesh.dcn_data or 1):
    raise ValueError(
      f'the mesh axes {dict(zip(mesh_lib.AXES, sizes, strict=True))} must multiply to {count} devices, and data be a '
      'multiple of mesh.dcn_data. Set --config.mesh.data=-1'
    )
  shards = math.prod(sizes[:2])
  of_device = np.repeat(np.arange(processes), devices).reshape(shards, -1)
  hosts = mesh_lib.part_of(of_device, 0)[1]
  rows = config.packing.rows
  loader.check_batch(config.batch_size, rows, hosts, shards * config.grad_accumulation)


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    'python -m launch.elastic', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--at_most', type=positive, required=True, help='hosts that are left')
  parser.add_argument('--processes', type=positive, default=1, help='processes of each host')
  parser.add_argument('--devices', type=positive, default=1, help='devices of each process')
  options = parser.parse_args(argv)
  try:
    print(largest(options.workdir, options.at_most, options.processes, options.devices))
  except ValueError as error:
    print(f'launch.elastic: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
