"""A watchdog that ends a hung run with a message that names the process at fault.

Every process writes a heartbeat with its current activity to a key-value store (JAX's coordination service)
every few seconds, and reads those of the others. A process fails the run when

- another process sends no heartbeat for `heartbeat_timeout` seconds: it was stopped, or its machine is gone;
- another process reports a failure;
- its own activity exceeds the limit given to `expect`. Usually all processes but one have then entered the
  same collective. The failing process prints stack traces, which show the collective.

A process counts only the time during which it runs. So a process that was suspended and resumed does not
blame the others.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from typing import Any, Protocol

import jax

from recjax.runtime import exit_status

_MAX_LISTED = 16  # processes in a message
# The first steps may compile, and the metrics of a step arrive during the next one.
_COMPILING_STEPS = 3

_running: 'Watchdog | None' = None


class Store(Protocol):
  """A key-value store that holds one text per process."""

  def write(self, text: str) -> None:
    """Replaces the text of this process."""

  def read(self) -> dict[int, str]:
    """Returns the texts by process; processes that have written none are absent."""


class CoordinationStore:
  """A `Store` in JAX's coordination service, which process 0 hosts."""

  _FOLDER = 'recjax/watchdog/'

  def __init__(self, client: Any, process: int):
    self._client = client
    self._key = f'{self._FOLDER}{process}'

  def write(self, text: str) -> None:
    self._client.key_value_set(self._key, text, allow_overwrite=True)

  def read(self) -> dict[int, str]:
    found = self._client.key_value_dir_get(self._FOLDER)
    return {int(key.rpartition('/')[2]): text for key, text in found}


@dataclasses.dataclass
class _Activity:
  name: str
  limit: float  # seconds; 0: no limit
  elapsed: float = 0.0  # seconds


@dataclasses.dataclass(frozen=True)
class Status:
  """The state of a process according to its last heartbeat.

  Attributes:
    heartbeat: a number that grows with each heartbeat.
    host: name of its machine.
    activity: its current activity.
    elapsed: seconds since the activity began.
    has_ended: whether the process ended without a failure.
    exit_status: exit status after a failure; 0: no failure.
    reason: cause of the failure; empty: no failure.
  """

  heartbeat: int
  host: str
  activity: str
  elapsed: float
  has_ended: bool = False
  exit_status: int = 0
  reason: str = ''


class Watchdog:
  """Monitors the processes of a run with two threads.

  The heartbeat thread writes to and reads from the store. The monitor thread checks all limits; it never
  touches the store, so it also notices a store that does not answer.
  """

  def __init__(
    self,
    store: Store | None,
    process: int,
    num_processes: int,
    heartbeat_timeout: float,
    period: float,
    on_fail: Callable[[int, str], None],
    exit_process: Callable[[int], None],
  ):
    """Starts the threads.

    Args:
      store: the store that all processes share; None in a run of one process.
      process: index of this process.
      num_processes: number of processes in the run.
      heartbeat_timeout: seconds without a heartbeat after which a process counts as hung.
      period: seconds between two heartbeats.
      on_fail: called with exit status and message before the process ends.
      exit_process: ends the process with an exit status.
    """
    self._store, self._me, self._num_processes = store, process, num_processes
    self._timeout, self._period = heartbeat_timeout, period
    self._on_fail, self._exit_process = on_fail, exit_process
    self._suspicious_after = 3 * period  # seconds without a heartbeat
    self._host = socket.gethostname()
    self._activity = _Activity('start-up', 0)
    self._statuses: dict[int, Status] = {}
    self._num_reads = 0  # successful reads of the store
    self._silent_seconds = dict.fromkeys(range(num_processes), 0.0)
    self._seconds_since_read = 0.0
    self._failure: tuple[int, str] = (0, '')  # of this process: exit status and reason
    self._stopped = threading.Event()
    self._threads = [threading.Thread(target=self._monitor, daemon=True, name='watchdog monitor')]
    if store is not None:
      heartbeat = threading.Thread(target=self._heartbeat, daemon=True, name='watchdog heartbeat')
      self._threads.append(heartbeat)
    for thread in self._threads:
      thread.start()

  @contextlib.contextmanager
  def expect(self, activity: str, limit: float) -> Iterator[None]:
    """Fails the run unless the work inside ends within `limit` seconds; 0: no limit.

    The time of the enclosing activity restarts at zero afterwards.
    """
    outer, self._activity = self._activity, _Activity(activity, limit)
    try:
      yield
    finally:
      outer.elapsed = 0.0
      self._activity = outer

  def fail(self, status: int, reason: str, details: str = '') -> None:
    """Ends all processes with the same exit status; only this one prints the details."""
    self._on_fail(status, reason + details)
    self._failure = (status, reason)
    if self._store is not None:
      time.sleep(2 * self._period)  # until the heartbeat thread has reported it
    self._exit_process(status)

  @property
  def is_distributed(self) -> bool:
    """Whether the run has several processes."""
    return self._store is not None

  def stop(self) -> None:
    """Reports that this process ends normally, and stops both threads."""
    self._stopped.set()
    for thread in self._threads:
      thread.join(2 * self._period + 1)

  def describe(self, process: int) -> str:
    """Returns one line with the host and the activity of a process."""
    if process == self._me:
      return self._line(process, self._status(0), 0.0)
    return self._line(process, self._statuses.get(process), self._silent_seconds[process])

  def _line(self, process: int, status: Status | None, silent: float) -> str:
    if status is None:
      return f'process {process}: has sent no heartbeat yet'
    prefix = f'process {process} on {status.host}: '
    if status.has_ended:
      return prefix + 'has ended'
    if status.reason:
      return prefix + status.reason
    activity = f'in {status.activity} for {status.elapsed:.0f} s'
    if silent > self._suspicious_after:
      return prefix + f'no heartbeat for {silent:.0f} s, before that {activity}'
    return prefix + activity + (' (this process)' if process == self._me else '')

  def _status(self, heartbeat: int) -> Status:
    activity, (status, reason) = self._activity, self._failure
    elapsed, has_ended = round(activity.elapsed, 1), self._stopped.is_set()
    return Status(heartbeat, self._host, activity.name, elapsed, has_ended, status, reason)

  def _heartbeat(self) -> None:
    number, is_last = 0, False
    while not is_last:
      number, is_last = number + 1, self._stopped.is_set()
      # After an error nothing was read; the monitor counts the seconds since the last read.
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        self._store.write(json.dumps(dataclasses.asdict(self._status(number))))
        statuses = {p: Status(**json.loads(text)) for p, text in self._store.read().items()}
        self._statuses, self._num_reads = statuses, self._num_reads + 1
      self._stopped.wait(self._period)

  def _monitor(self) -> None:
    last, num_reads, heartbeats = time.monotonic(), 0, {}
    while not self._stopped.wait(self._period):
      now = time.monotonic()
      passed, last = min(now - last, 3 * self._period), now  # less, if the process was suspended
      self._activity.elapsed += passed
      self._seconds_since_read += passed
      if self._num_reads != num_reads:
        num_reads, statuses = self._num_reads, self._statuses
        for process in range(self._num_processes):
          status = statuses.get(process)
          is_silent = status is None or (
            status.heartbeat == heartbeats.get(process) and not status.has_ended
          )
          silent = self._silent_seconds[process] + self._seconds_since_read
          self._silent_seconds[process] = silent if is_silent else 0.0
        heartbeats = {process: status.heartbeat for process, status in statuses.items()}
        self._seconds_since_read = 0.0
      if failure := self._find_failure():
        self.fail(*failure)
        return

  def _find_failure(self) -> tuple[int, str, str] | None:
    """Returns exit status, reason and details if the run must end."""
    for process, status in self._statuses.items():
      if status.exit_status and process != self._me and not self._failure[0]:
        reason = f'process {process} on {status.host} ends the run: {status.reason}'
        return status.exit_status, reason, ''
    if self._store is not None and self._seconds_since_read > self._timeout:
      return self._hung(
        'process 0, which hosts the coordination service, has not answered for '
        f'{self._seconds_since_read:.0f} s'
      )
    silent = [process for process, s in self._silent_seconds.items() if s > self._timeout]
    if silent:
      return self._hung(
        f'process {", ".join(map(str, silent))} sent no heartbeat for {self._timeout:.0f} s '
        '(--config.hosts.heartbeat_timeout)'
      )
    activity = self._activity
    if 0 < activity.limit < activity.elapsed:
      return self._hung(f'{activity.name} has not ended after {activity.elapsed:.0f} s')
    return None

  def _hung(self, reason: str) -> tuple[int, str, str]:
    """Returns a failure whose details list all processes, the most suspicious ones first.

    Silent processes come first, then those whose activity few others share.
    """
    activities = {process: status.activity for process, status in self._statuses.items()}
    counts = collections.Counter(activities.values())

    def suspicion(process: int) -> tuple[float, int]:
      silent = self._silent_seconds[process]
      is_suspicious = silent > self._suspicious_after
      return -silent if is_suspicious else 0.0, counts[activities.get(process)]

    order = sorted(range(self._num_processes), key=suspicion)
    lines = ['', *map(self.describe, order[:_MAX_LISTED])]
    if len(order) > _MAX_LISTED:
      lines.append(f'and {len(order) - _MAX_LISTED} more')
    return exit_status.HUNG, f'the run hangs: {reason}', '\n  '.join(lines)


def start(
  client: Any, process: int, num_processes: int, heartbeat_timeout: float, shortest_limit: float
) -> None:
  """Starts the watchdog of this process.

  Args:
    client: client of JAX's coordination service; None in a run of one process.
    process: index of this process.
    num_processes: number of processes in the run.
    heartbeat_timeout: seconds without a heartbeat after which a process counts as hung.
    shortest_limit: seconds; the shortest limit that will be given to `expect`.
  """
  global _running
  # Process 0 serves every heartbeat, and each read returns the texts of all processes.
  longest = min(5.0, max(1.0, num_processes / 50))
  period = max(0.1, min(longest, heartbeat_timeout / 8, shortest_limit / 8))
  store = CoordinationStore(client, process) if client is not None else None
  place = (process, num_processes)
  _running = Watchdog(store, *place, heartbeat_timeout, period, _print_failure, os._exit)


@contextlib.contextmanager
def expect(activity: str, limit: float) -> Iterator[None]:
  """Ends the run unless the work inside ends within `limit` seconds; 0: no limit."""
  if _running is None:
    yield
    return
  with _running.expect(activity, limit):
    yield


def watched(steps: Iterable[int], compile_limit: float, limit: float) -> Iterator[int]:
  """Yields the steps and ends the run if one takes too long.

  Args:
    steps: step numbers.
    compile_limit: seconds for each of the first steps, which may compile; 0: no limit.
    limit: seconds for every other step; 0: no limit.
  """
  for n, step in enumerate(steps):
    with expect(f'step {step}', compile_limit if n < _COMPILING_STEPS else limit):
      yield step


def describe(process: int) -> str:
  """Returns one line with the host and the activity of a process."""
  return f'process {process}' if _running is None else _running.describe(process)


def fail(reason: str, details: str = '', status: int = 1) -> None:
  """Ends all processes of a distributed run at once; does nothing in a run of one process.

  At a normal exit the interpreter would wait for the other processes, while they wait for this one.

  Args:
    reason: printed by all processes.
    details: printed by this process only.
    status: exit status of all processes.
  """
  if _running is not None and _running.is_distributed:
    _running.fail(status, reason, details)


def stop() -> None:
  """Stops the watchdog; the other processes then expect no heartbeats from this one."""
  global _running
  if _running is not None:
    _running.stop()
    _running = None


def _print_failure(status: int, message: str) -> None:
  print(message, file=sys.__stderr__, flush=True)
  if status == exit_status.HUNG:
    print('stack traces of this process (see docs/hangs.md):', file=sys.__stderr__, flush=True)
    faulthandler.dump_traceback(sys.__stderr__)
