"""Runs a program on a Cloud TPU slice, which is asked for as a queued resource, and again when it is preempted.

  python -m launch.tpu --name=sports --zone=us-central1-a --accelerator_type=v5litepod-16 --spot \\
    --config=configs/sports.py --workdir=gs://B/sports --config.data.prepared_dir=gs://B/data

creates the slice, waits for it, copies this source tree onto every worker, installs it and runs the same
command on all; deletes the slice at the end. --dry_run prints the commands. Everything that is not an option
of the launcher goes to the program. docs/tpu.md says more.
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
_SOURCES = ('configs', 'data_prep', 'launch', 'recjax')
_FOLDER = 'recjax-run'  # on the workers, in the home folder
_RUNTIMES = {
  'v4': 'tpu-ubuntu2204-base',
  'v5litepod': 'v2-alpha-tpuv5-lite',
  'v5p': 'v2-alpha-tpuv5',
  'v6e': 'v2-alpha-tpuv6e',
}
_GONE = ('SUSPENDING', 'SUSPENDED', 'FAILED', 'DELETING')  # of a queued resource
_SSH_BROKE = 255
_ATTEMPTS = 5  # of asking gcloud, which needs the network, for the state

_INSTALL = """\
set -euo pipefail
rm -rf {folder}
mkdir {folder}
tar -xzf {folder}.tar.gz -C {folder}
cd {folder}
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --python 3.11 .venv
python3 -m uv pip install --quiet --python .venv/bin/python -r requirements-tpu.txt
"""

# A connection that broke leaves the program running, and with it the TPU taken.
_RUN = """\
set -euo pipefail
cd {folder}
if [ -f pid ] && kill -KILL "$(cat pid)"; then sleep 5; fi
echo $$ > pid
export RECJAX_MULTIHOST=1 RECJAX_NUM_PROCESSES={workers} PYTHONUNBUFFERED=1
exec .venv/bin/python -m recjax.main {arguments}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the program's exit status."""
  options, program = _parse(sys.argv[1:] if argv is None else argv)
  tpu = _Slice(options)
  if options.dry_run:
    tpu.explain(program)
    return 0
  if (state := tpu.state()) is not None:
    _say(f'{options.name} is there already ({state}); give another --name, or delete it:')
    _say(shlex.join(tpu.delete_command))
    return 1
  for number in (signal.SIGTERM, signal.SIGHUP):  # so that it is deleted
    signal.signal(number, lambda number, _: sys.exit(128 + number))
  try:
    return _run(tpu, program, options.restarts)
  finally:
    if options.keep:
      _say(f'the slice is kept, and paid for, until: {shlex.join(tpu.delete_command)}')
    else:
      tpu.delete()


def _run(tpu: '_Slice', program: Sequence[str], restarts: int) -> int:
  """Creates, installs and runs until the program ends by itself or the restarts are used up."""
  is_there = False
  for restart in range(restarts + 1):
    if not is_there:
      tpu.delete()
      is_there = tpu.create() and tpu.install()
    status = tpu.run(program) if is_there else exit_status.PREEMPTED
    if status == 0:
      return 0
    is_there = is_there and not tpu.is_taken_away()
    if is_there and status not in (*exit_status.RESTART_ON, _SSH_BROKE):
      return status
    why = f'the program ended with status {status}' if is_there else 'the slice was taken away'
    _say(
      f'{why}; restart {restart + 1} of {restarts}' if restart < restarts else f'{why}; giving up'
    )
  return status


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(
    'python -m launch.tpu', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  parser.add_argument('--name', required=True, help='of the queued resource and of its node')
  parser.add_argument('--zone', required=True)
  parser.add_argument('--project', help="default: gcloud's")
  parser.add_argument('--accelerator_type', required=True, help='such as v5litepod-16 or v5p-32')
  parser.add_argument('--runtime_version', help='of the TPU VM; default: by the accelerator')
  tier = parser.add_mutually_exclusive_group()
  tier.add_argument('--spot', action='store_true', help='cheaper, and may be preempted')
  tier.add_argument('--reserved', action='store_true', help='from a reservation')
  parser.add_argument('--restarts', type=not_negative, default=20)
  parser.add_argument('--poll', type=positive, default=30, help='seconds from one look to the next')
  parser.add_argument('--keep', action='store_true', help='do not delete the slice at the end')
  parser.add_argument('--dry_run', action='store_true', help='print the commands, run nothing')
  options, program = parse(parser, argv)
  generation = options.accelerator_type.partition('-')[0]
  if options.runtime_version is None and generation not in _RUNTIMES:
    parser.error(f'--runtime_version must be given for {options.accelerator_type}')
  options.runtime_version = options.runtime_version or _RUNTIMES[generation]
  require_bucket(parser, program)
  return options, program


def _say(message: str) -> None:
  print(f'launch.tpu: {message}', file=sys.stderr, flush=True)


class _Slice:
  """A queued resource of one node, by gcloud."""

  def __init__(self, options: argparse.Namespace):
    self._options = options
    self._is_created = False
    place = [f'--zone={options.zone}']
    if options.project is not None:
      place.append(f'--project={options.project}')
    queued = ['gcloud', 'compute', 'tpus', 'queued-resources']
    vm = ['gcloud', 'compute', 'tpus', 'tpu-vm']
    name = options.name
    self._create_command = [
      *(*queued, 'create', name, f'--node-id={name}', *place),
      f'--accelerator-type={options.accelerator_type}',
      f'--runtime-version={options.runtime_version}',
      *(['--spot'] if options.spot else []),
      *(['--reserved'] if options.reserved else []),
    ]
    self._state_command = [*queued, 'describe', name, *place, '--format=value(state.state)']
    self.delete_command = [*queued, 'delete', name, *place, '--force', '--quiet']
    self._node_command = [*vm, 'describe', name, *place, '--format=json']
    self._copy_command = [*vm, 'scp', f'{_FOLDER}.tar.gz', f'{name}:', *place, '--worker=all']
    self._ssh_command = [*vm, 'ssh', name, *place, '--worker=all']

  def explain(self, program: Sequence[str]) -> None:
    """Prints what would be run."""
    install, run = _INSTALL.format(folder=_FOLDER), _run_script(program, '$WORKERS')
    print('\n'.join(map(shlex.join, (self._create_command, self._state_command))))
    print(f'# … every {self._options.poll} s, until it says ACTIVE; then WORKERS from')
    print('\n'.join(map(shlex.join, (self._node_command, self._copy_command))))
    for script in (install, run):
      print(f'{shlex.join(self._ssh_command)} --command={shlex.quote(script)}')
    print(
      f'# … again where the slice is {", ".join(_GONE)}, or the status {exit_status.RESTART_ON}'
    )
    if not self._options.keep:
      print(shlex.join(self.delete_command))

  def delete(self) -> None:
    """Deletes the slice where it was created."""
    if self._is_created:
      _say(shlex.join(self.delete_command))
      status = subprocess.run(self.delete_command, check=False).returncode
      self._is_created = status != 0
      if status:
        _say('the slice may still be there, and paid for; see the command above')

  def create(self) -> bool:
    """Asks for the slice and waits until it is there; False: it was refused or taken away."""
    _say(shlex.join(self._create_command))
    self._is_created = True  # from now on, or an interruption would leave it behind
    if subprocess.run(self._create_command, check=False).returncode:
      self._is_created = self._state() != (True, '')
      sys.exit('launch.tpu: gcloud refused the request')
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
    """Copies the sources onto every worker and installs them; False: the slice was taken away."""
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
        _say(f'the installation failed with status {status}, {attempt + 1} of {_ATTEMPTS} times')
        if self.is_taken_away():
          return False
    sys.exit(f'launch.tpu: the installation failed with status {status}')

  def run(self, program: Sequence[str]) -> int:
    """Runs the program on every worker; returns its exit status, or that of one that was preempted."""
    node = subprocess.run(self._node_command, stdout=subprocess.PIPE, text=True, check=False)
    if node.returncode:
      return exit_status.PREEMPTED
    workers = len(json.loads(node.stdout)['networkEndpoints'])
    _say(f'running on {workers} workers')
    return self._ssh(_run_script(program, str(workers)))

  def is_taken_away(self) -> bool:
    """Whether the slice is gone; a moment after a failure, since the state lags behind."""
    time.sleep(self._options.poll)
    return self._is_gone()

  def _is_gone(self) -> bool:
    """False also where nobody knows: a run goes on when the launcher's own network is down."""
    is_known, answer = self._state()
    return is_known and (not answer or answer in _GONE)

  def _state(self) -> tuple[bool, str]:
    """Whether gcloud knows the state of the queued resource, and the state ('': none), or what it said."""
    done = subprocess.run(self._state_command, capture_output=True, text=True, check=False)
    if done.returncode == 0 or 'NOT_FOUND' in done.stderr:
      return True, done.stdout.strip()
    return False, done.stderr.strip()

  def state(self) -> str | None:
    """The state of the queued resource; None where there is none."""
    for attempt in range(_ATTEMPTS):
      is_known, answer = self._state()
      if is_known:
        return answer or None
      if attempt + 1 < _ATTEMPTS:
        time.sleep(self._options.poll)
    sys.exit(f'launch.tpu: {shlex.join(self._state_command)}: {answer}')

  def _ssh(self, script: str) -> int:
    """Runs a script on every worker; returns its exit status, or that of one that was preempted."""
    process = subprocess.Popen([*self._ssh_command, f'--command={script}'])
    try:
      while True:
        try:
          return process.wait(self._options.poll)
        except subprocess.TimeoutExpired:
          if self._is_gone():  # a connection to a machine that is gone may never end
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
