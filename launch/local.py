"""Runs one program as several real processes on this machine.

  python -m launch.local -n 2 [--devices_per_process=4] --config=configs/demo.py --workdir=W

runs `python -m recjax.main --config=configs/demo.py --workdir=W` twice, as processes 0 and 1 of one
run. Everything that is not an option of the launcher goes to the program, and everything after `--`.
With --restarts=N a run that was preempted or hung is started again, up to N times.
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

from launch.options import not_negative, parse, positive
from recjax.runtime import exit_status

_DEVICE_COUNT_FLAG = '--xla_force_host_platform_device_count'
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status: 0, or that of the process that failed first (128 + n for signal n)."""
  options, program = _parse(sys.argv[1:] if argv is None else argv)
  command = [sys.executable, '-m', options.module, *program]
  if options.dry_run:
    for place in _places(options):
      print(shlex.join(['env', *(f'{k}={v}' for k, v in place.items()), *command]))
    return 0
  for restarts in range(options.restarts + 1):
    group = _Group(command, _places(options))
    status = group.wait(options.grace)
    is_over = group.was_told_to_end or restarts == options.restarts
    if is_over or status not in exit_status.RESTART_ON:
      break
    print(
      f'launch.local: restart {restarts + 1} of {options.restarts}', file=sys.stderr, flush=True
    )
  return status


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(
    'python -m launch.local', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  parser.add_argument('-n', '--num_processes', type=positive, required=True)
  parser.add_argument(
    '--devices_per_process', type=positive, help='run on so many fake CPU devices a process'
  )
  parser.add_argument('--module', default='recjax.main', help='what `python -m` runs')
  parser.add_argument(
    '--grace', type=float, default=10, help='seconds from SIGTERM to SIGKILL once one has failed'
  )
  parser.add_argument(
    '--restarts', type=not_negative, default=0, help='of a run that was preempted or hung'
  )
  parser.add_argument('--dry_run', action='store_true', help='print the commands, run nothing')
  return parse(parser, argv)


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def _places(options: argparse.Namespace) -> list[dict[str, str]]:
  port = _free_port()
  return [_place(i, options, port) for i in range(options.num_processes)]


def _place(process_id: int, options: argparse.Namespace, port: int) -> dict[str, str]:
  """What recjax.runtime.distributed reads, and the devices of one process."""
  place = {
    'RECJAX_COORDINATOR': f'localhost:{port}',
    'RECJAX_NUM_PROCESSES': str(options.num_processes),
    'RECJAX_PROCESS_ID': str(process_id),
  }
  if options.devices_per_process:
    others = re.sub(rf'{_DEVICE_COUNT_FLAG}=\d+', '', os.environ.get('XLA_FLAGS', '')).split()
    flags = [*others, f'{_DEVICE_COUNT_FLAG}={options.devices_per_process}']
    place |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ' '.join(flags)}
  return place


class _Group:
  """The processes of one run, each in a process group of its own, so that none outlives it."""

  def __init__(self, command: list[str], places: list[dict[str, str]]):
    self._processes: list[subprocess.Popen] = []
    self.was_told_to_end = False
    # Before the first process starts: a signal that came between would leave it alone.
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
    """Waits for all; when one fails, ends the others. Returns the first failure's exit status."""
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
    for i, process in enumerate(self._processes):
      code = process.poll()
      if code:
        what = f'was killed by signal {-code}' if code < 0 else f'ended with status {code}'
        print(f'launch.local: process {i} {what}', file=sys.stderr, flush=True)
        return code if code > 0 else 128 - code
    return 0

  def _pass_on(self, number: int, _) -> None:
    self.was_told_to_end = True
    self._send(number)

  def _send(self, number: int) -> None:
    for process in self._processes:
      if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it ended between the two calls
          os.killpg(process.pid, number)


def _die_with_parent() -> None:
  """Runs in the new process: a launcher that is killed outright takes its processes along."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _copy_lines(process_id: int, lines) -> None:
  for line in lines:
    # In one piece: print writes the line end by itself, and lines of two processes would mix.
    sys.stdout.write(f'[{process_id}] {line.rstrip()}\n')
    sys.stdout.flush()


if __name__ == '__main__':
  sys.exit(main())
