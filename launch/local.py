"""Runs recjax as several processes of one run on this machine.

  python -m launch.local -n 2 [--devices_per_process=4] --config=configs/demo.py --workdir=W

starts `python -m recjax.main --config=configs/demo.py --workdir=W` twice, as processes 0 and 1. Options that the
launcher does not know, and all arguments after `--`, are passed to the program. --restarts=N restarts a preempted
or hung run up to N times. --min_processes=M starts a run again without the processes that were killed (SIGKILL), with M
or more.
"""

import argparse
from collections.abc import Sequence
import contextlib
import ctypes
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

from launch.options import flag, not_negative, parse, positive, usable_hosts
from recjax.runtime import exit_status

_DEVICE_COUNT_FLAG = '--xla_force_host_platform_device_count'
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs all processes; returns 0, or the exit status of the first that failed (128 + n for signal n)."""
  options, program = _parse(sys.argv[1:] if argv is None else argv)
  command = [sys.executable, '-m', options.module, *program]
  if options.dry_run:
    for place in _places(options, options.num_processes):
      print(shlex.join(['env', *(f'{k}={v}' for k, v in place.items()), *command]))
    return 0
  count, restarts = options.num_processes, 0
  while True:
    group = _Group(command, _places(options, count))
    status = group.wait(options.grace)
    if group.has_received_signal:
      return status
    if group.killed and options.min_processes is not None:
      count = _fewer(options, program, count, group.killed)
      if count is None:
        return status
    elif status in exit_status.RESTART_ON and restarts < options.restarts:
      restarts += 1
      _say(f'restart {restarts} of {options.restarts}')
    else:
      return status


def _say(message: str) -> None:
  print(f'launch.local: {message}', file=sys.stderr, flush=True)


def _fewer(
  options: argparse.Namespace, program: Sequence[str], count: int, killed: int
) -> int | None:
  """Returns the number of processes to go on with; None: the run cannot go on, which is said."""
  devices = options.devices_per_process or 1
  found, why = usable_hosts(program, count - killed, devices=devices)
  if found is not None and found < options.min_processes:
    found, why = None, f'{found} could go on, less than --min_processes={options.min_processes}'
  outcome = f'and {why}' if found is None else f'the run goes on with {found}'
  _say(f'{killed} of {count} processes were killed, {outcome}')
  return found


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(
    'python -m launch.local', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  parser.add_argument('-n', '--num_processes', type=positive, required=True)
  parser.add_argument(
    '--devices_per_process', type=positive, help='simulated CPU devices of each process'
  )
  parser.add_argument('--module', default='recjax.main', help='module that `python -m` runs')
  parser.add_argument(
    '--grace',
    type=_seconds,
    default=10,
    help='seconds from SIGTERM to SIGKILL after a process has failed',
  )
  parser.add_argument(
    '--restarts', type=not_negative, default=0, help='restarts of a preempted or hung run'
  )
  parser.add_argument(
    '--min_processes',
    type=positive,
    help='start again with this many processes or more after others were killed',
  )
  parser.add_argument('--dry_run', action='store_true', help='print the commands and run nothing')
  found, program = parse(parser, argv)
  if (found.min_processes or 0) > found.num_processes:
    parser.error(
      f'--min_processes must be at most -n {found.num_processes}; got {found.min_processes}'
    )
  if found.min_processes is not None and flag(program, 'workdir') is None:
    parser.error('--min_processes needs the --workdir of the program, which is missing')
  return found, program


def _seconds(text: str) -> float:
  """An argparse type: seconds, 0 or more."""
  if not re.fullmatch(r'[0-9]+(\.[0-9]*)?|\.[0-9]+', text):
    raise argparse.ArgumentTypeError(f'must be a number of seconds, 0 or more; got {text!r}')
  return float(text)


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def _places(options: argparse.Namespace, count: int) -> list[dict[str, str]]:
  port = _free_port()
  return [_place(i, count, options, port) for i in range(count)]


def _place(process_id: int, count: int, options: argparse.Namespace, port: int) -> dict[str, str]:
  """Returns the variables for recjax.runtime.distributed and for the devices of one process."""
  place = {
    'RECJAX_COORDINATOR': f'localhost:{port}',
    'RECJAX_NUM_PROCESSES': str(count),
    'RECJAX_PROCESS_ID': str(process_id),
  }
  if options.devices_per_process:
    others = re.sub(rf'{_DEVICE_COUNT_FLAG}=\d+', '', os.environ.get('XLA_FLAGS', '')).split()
    flags = [*others, f'{_DEVICE_COUNT_FLAG}={options.devices_per_process}']
    place |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ' '.join(flags)}
  return place


class _Group:
  """The processes of one run. Each has its own process group, so that its children end with it."""

  def __init__(self, command: list[str], places: list[dict[str, str]]):
    self._processes: list[subprocess.Popen] = []
    self.has_received_signal = False
    self.killed = 0  # processes that had been killed (SIGKILL) when the first failure was seen
    # Set before the first process starts, so that no signal is lost.
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._pass_on)
    for place in places:
      process = subprocess.Popen(
        command,
        env=os.environ | place | {'PYTHONUNBUFFERED': '1'},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        start_new_session=True,
        preexec_fn=_die_with_parent,
      )
      self._processes.append(process)
    self._readers = [
      threading.Thread(target=_copy_lines, args=(i, process.stdout), daemon=True)
      for i, process in enumerate(self._processes)
    ]
    for reader in self._readers:
      reader.start()

  def wait(self, grace: float) -> int:
    """Waits for all processes, and ends them if one fails. Returns the exit status of the first failure."""
    status, deadline = 0, None
    while any(process.poll() is None for process in self._processes):
      if not status and (status := self._first_failure()):
        self._send(signal.SIGTERM)
        deadline = time.monotonic() + grace
      if deadline is not None and time.monotonic() > deadline:
        self._send(signal.SIGKILL)
        deadline = None
      time.sleep(0.05)
    for reader in self._readers:
      reader.join(timeout=5)
    return status or self._first_failure()

  def _first_failure(self) -> int:
    codes = [process.poll() for process in self._processes]
    self.killed = self.killed or codes.count(-signal.SIGKILL)
    for i, process in enumerate(self._processes):
      code = process.poll()
      if code:
        outcome = f'was killed by signal {-code}' if code < 0 else f'ended with status {code}'
        print(f'launch.local: process {i} {outcome}', file=sys.stderr, flush=True)
        return code if code > 0 else 128 - code
    return 0

  def _pass_on(self, number: int, _) -> None:
    self.has_received_signal = True
    self._send(number)

  def _send(self, number: int) -> None:
    for process in self._processes:
      if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # the process ended between the two calls
          os.killpg(process.pid, number)


def _die_with_parent() -> None:
  """Makes the kernel kill this new process when the launcher dies, even by SIGKILL."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _copy_lines(process_id: int, lines) -> None:
  with lines:
    for line in lines:
      # One write per line: print writes the line end separately, and lines of two processes would mix.
      sys.stdout.write(f'[{process_id}] {line.rstrip()}\n')
      sys.stdout.flush()


if __name__ == '__main__':
  sys.exit(main())
