"""Runs recjax on Cloud TPU slices, requested as a queued resource; restarts after preemption.

  python -m launch.tpu --name=sports --zone=us-central1-a --accelerator_type=v5litepod-16 --spot \\
    --config=configs/sports.py --workdir=gs://B/sports --config.data.prepared_dir=gs://B/data

creates the slice, waits for it, copies this source tree to every worker, installs it, runs the program on all
workers, and deletes the slice at the end. --slices=2 runs on two of them (multislice). --dry_run prints the commands.
Options that the launcher does not know are passed to the program. See docs/tpu.md.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from launch.options import not_negative, parse, positive, require_bucket
from recjax.runtime import exit_status

_ROOT = pathlib.Path(__file__).parents[1]
_SOURCES = ('configs', 'data_prep', 'launch', 'recjax', 'pyproject.toml', 'README.md', 'LICENSE')
_FOLDER = 'recjax-run'  # in the home folder of the workers
_RUNTIMES = {
  'v4': 'tpu-ubuntu2204-base',
  'v5litepod': 'v2-alpha-tpuv5-lite',
  'v5p': 'v2-alpha-tpuv5',
  'v6e': 'v2-alpha-tpuv6e',
}
_GONE = ('SUSPENDING', 'SUSPENDED', 'FAILED', 'DELETING')  # states of a queued resource
_SSH_FAILED = 255
_ATTEMPTS = 5  # to get the state from gcloud, which needs the network

_INSTALL = """\
set -euo pipefail
rm -rf {folder}
mkdir {folder}
tar -xzf {folder}.tar.gz -C {folder}
cd {folder}
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --python 3.11 .venv
python3 -m uv pip install --quiet --python .venv/bin/python '.[tpu]'
"""

# After a broken connection the previous program still runs and occupies the TPU.
_RUN = """\
set -euo pipefail
cd {folder}
if [ -f pid ] && kill -KILL "$(cat pid)"; then sleep 5; fi
echo $$ > pid
export RECJAX_MULTIHOST=1 RECJAX_NUM_PROCESSES={workers} PYTHONUNBUFFERED=1
exec .venv/bin/python -m recjax.main {arguments}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Creates the slice and runs the program on it; returns the program's exit status."""
  options, program = _parse(sys.argv[1:] if argv is None else argv)
  tpu = _Slice(options)
  if options.dry_run:
    tpu.explain(program)
    return 0
  if (state := tpu.state()) is not None:
    _say(f'{options.name} already exists ({state}); set another --name, or delete it:')
    _say(shlex.join(tpu.delete_command))
    return 1
  for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # so that the slice is deleted
    signal.signal(number, lambda number, _: sys.exit(128 + number))
  try:
    return _run(tpu, program, options.restarts)
  finally:
    if options.keep:
      _say(f'the slice is kept and costs money until: {shlex.join(tpu.delete_command)}')
    else:
      tpu.delete()


def _run(tpu: '_Slice', program: Sequence[str], restarts: int) -> int:
  """Creates the slice, installs and runs the program, until it ends or no restarts are left."""
  exists = False
  for restart in range(restarts + 1):
    if not exists:
      tpu.delete()
      exists = tpu.create() and tpu.install()
    status = tpu.run(program) if exists else exit_status.PREEMPTED
    if status == 0:
      return 0
    exists = exists and not tpu.is_preempted()
    if exists and status not in (*exit_status.RESTART_ON, _SSH_FAILED):
      return status
    why = f'the program ended with status {status}' if exists else 'the slice was preempted'
    _say(
      f'{why}; restart {restart + 1} of {restarts}' if restart < restarts else f'{why}; giving up'
    )
  return status


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(
    'python -m launch.tpu', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  parser.add_argument('--name', required=True, help='name of the queued resource and of its node')
  parser.add_argument('--zone', required=True)
  parser.add_argument('--project', help='default: that of gcloud')
  parser.add_argument(
    '--accelerator_type', required=True, help='type of the slice, such as v5litepod-16 or v5p-32'
  )
  parser.add_argument('--slices', type=positive, default=1, help='slices of that type')
  parser.add_argument(
    '--runtime_version', help='runtime of the TPU VM; default: by accelerator type'
  )
  tier = parser.add_mutually_exclusive_group()
  tier.add_argument(
    '--spot', action='store_true', help='spot capacity: cheaper, but may be preempted'
  )
  tier.add_argument('--reserved', action='store_true', help='capacity of a reservation')
  parser.add_argument('--restarts', type=not_negative, default=20)
  parser.add_argument(
    '--poll', type=positive, default=30, help='seconds between two checks of the state'
  )
  parser.add_argument('--keep', action='store_true', help='keep the slice at the end')
  parser.add_argument('--dry_run', action='store_true', help='print the commands and run nothing')
  options, program = parse(parser, argv)
  generation = options.accelerator_type.partition('-')[0]
  if options.runtime_version is None and generation not in _RUNTIMES:
    parser.error(f'--runtime_version must be given for {options.accelerator_type}')
  options.runtime_version = options.runtime_version or _RUNTIMES[generation]
  require_bucket(parser, program)
  if missing := [name for name in _SOURCES if not (_ROOT / name).exists()]:
    parser.error(
      f'the launcher copies the source tree to the slice; {_ROOT} lacks {", ".join(missing)}. Run it in a clone of '
      'the repository'
    )
  return options, program


def _say(message: str) -> None:
  print(f'launch.tpu: {message}', file=sys.stderr, flush=True)


class _Slice:
  """A queued resource, managed with gcloud: one node, or NAME-0, NAME-1, … for several slices."""

  def __init__(self, options: argparse.Namespace):
    self._options = options
    self._is_created = False
    place = [f'--zone={options.zone}']
    if options.project is not None:
      place.append(f'--project={options.project}')
    queued = ['gcloud', 'compute', 'tpus', 'queued-resources']
    vm = ['gcloud', 'compute', 'tpus', 'tpu-vm']
    name, first, remote, everywhere = options.name, options.name, vm, [*place, '--worker=all']
    nodes = [f'--node-id={name}']
    if (
      options.slices > 1
    ):  # the platform gives every worker the variables of the slices (MEGASCALE_…)
      nodes = [f'--node-count={options.slices}', f'--node-prefix={name}']
      first, remote, everywhere = f'{name}-0', queued, [*everywhere, '--node=all']
    self._create_command = [
      *(*queued, 'create', name, *nodes, *place),
      f'--accelerator-type={options.accelerator_type}',
      f'--runtime-version={options.runtime_version}',
      *(['--spot'] if options.spot else []),
      *(['--reserved'] if options.reserved else []),
    ]
    self._state_command = [*queued, 'describe', name, *place, '--format=value(state.state)']
    self.delete_command = [*queued, 'delete', name, *place, '--force', '--quiet']
    self._node_command = [*vm, 'describe', first, *place, '--format=json']
    self._copy_command = [*remote, 'scp', f'{_FOLDER}.tar.gz', f'{name}:', *everywhere]
    self._ssh_command = [*remote, 'ssh', name, *everywhere]

  def explain(self, program: Sequence[str]) -> None:
    """Prints the commands without running them."""
    install, run = _INSTALL.format(folder=_FOLDER), _run_script(program, '$WORKERS')
    print('\n'.join(map(shlex.join, (self._create_command, self._state_command))))
    print(f'# … every {self._options.poll} s, until the state is ACTIVE; then WORKERS from')
    print('\n'.join(map(shlex.join, (self._node_command, self._copy_command))))
    for script in (install, run):
      print(f'{shlex.join(self._ssh_command)} --command={shlex.quote(script)}')
    print(
      f'# … again if the slice is {", ".join(_GONE)}, or the status is in {exit_status.RESTART_ON}'
    )
    if not self._options.keep:
      print(shlex.join(self.delete_command))

  def delete(self) -> None:
    """Deletes the slice if this launcher created it."""
    if self._is_created:
      _say(shlex.join(self.delete_command))
      status = subprocess.run(self.delete_command, check=False).returncode
      self._is_created = status != 0
      if status:
        _say('the slice may still exist and cost money; see the command above')

  def create(self) -> bool:
    """Requests the slice and waits for it; returns False if it failed or was preempted."""
    _say(shlex.join(self._create_command))
    self._is_created = True  # set before the request, so that an interruption deletes it too
    if subprocess.run(self._create_command, check=False).returncode:
      self._is_created = self._state() != (True, '')
      sys.exit('launch.tpu: gcloud rejected the request')
    last = None
    while (state := self.state()) != 'ACTIVE':
      if state != last:
        _say(f'the queued resource is {state}')
      if state in _GONE or (state is None and last is not None):
        return False
      last = state
      time.sleep(self._options.poll)
    return True

  def install(self) -> bool:
    """Copies the sources to every worker and installs them; returns False if the slice was preempted."""
    with tempfile.TemporaryDirectory() as folder:
      archive = pathlib.Path(folder, f'{_FOLDER}.tar.gz')
      with tarfile.open(archive, 'w:gz') as tar:
        for path in [*map(_ROOT.joinpath, _SOURCES), *_ROOT.glob('requirements*.txt')]:
          tar.add(path, path.name, filter=_without_caches)
      for attempt in range(_ATTEMPTS):
        status = subprocess.run(self._copy_command, cwd=folder, check=False).returncode
        status = status or self._ssh(_INSTALL.format(folder=_FOLDER))
        if not status:
          return True
        _say(f'the installation failed with status {status}, attempt {attempt + 1} of {_ATTEMPTS}')
        if self.is_preempted():
          return False
    sys.exit(f'launch.tpu: the installation failed with status {status}')

  def run(self, program: Sequence[str]) -> int:
    """Runs the program on every worker; returns its exit status, or PREEMPTED if the slice is gone."""
    node = subprocess.run(self._node_command, stdout=subprocess.PIPE, text=True, check=False)
    if node.returncode:
      return exit_status.PREEMPTED
    workers = len(json.loads(node.stdout)['networkEndpoints']) * self._options.slices
    _say(f'running on {workers} workers')
    return self._ssh(_run_script(program, str(workers)))

  def is_preempted(self) -> bool:
    """Returns whether the slice is gone; waits first, because the state is updated late."""
    time.sleep(self._options.poll)
    return self._is_gone()

  def _is_gone(self) -> bool:
    """Returns whether the slice is known to be gone; False if gcloud fails, because the run may continue."""
    is_known, answer = self._state()
    return is_known and (not answer or answer in _GONE)

  def _state(self) -> tuple[bool, str]:
    """Returns (True, state of the queued resource, '' if there is none), or (False, error message)."""
    done = subprocess.run(self._state_command, capture_output=True, text=True, check=False)
    if done.returncode == 0 or 'NOT_FOUND' in done.stderr:
      return True, done.stdout.strip()
    return False, done.stderr.strip()

  def state(self) -> str | None:
    """Returns the state of the queued resource; None if there is none."""
    for attempt in range(_ATTEMPTS):
      is_known, answer = self._state()
      if is_known:
        return answer or None
      if attempt + 1 < _ATTEMPTS:
        time.sleep(self._options.poll)
    sys.exit(f'launch.tpu: {shlex.join(self._state_command)}: {answer}')

  def _ssh(self, script: str) -> int:
    """Runs a script on every worker; returns its exit status, or PREEMPTED if the slice is gone."""
    process = subprocess.Popen([*self._ssh_command, f'--command={script}'])
    try:
      while True:
        try:
          return process.wait(self._options.poll)
        except subprocess.TimeoutExpired:
          if self._is_gone():  # a connection to a deleted machine may never end
            return exit_status.PREEMPTED
    finally:
      process.terminate()
      process.wait()


def _run_script(program: Sequence[str], workers: str) -> str:
  return _RUN.format(folder=_FOLDER, workers=workers, arguments=shlex.join(program))


def _without_caches(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
  return None if '__pycache__' in info.name else info


if __name__ == '__main__':
  sys.exit(main())
