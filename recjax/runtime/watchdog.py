"""Ends a run that hangs, with a message that says where every process is.

Each process tells the others every few seconds, through JAX's coordination service, what it is doing. A
process ends all of them when one is silent for too long (it was stopped, or its machine is gone), when one
says that it failed, or when its own work takes longer than `expect` allows: then every process has joined
the same collective but one, and that one's stack, which is printed, says why.

Time counts while this process runs: one that was suspended and resumed does not blame the others.
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

_LISTED = 16  # processes in a message
_FIRST = 3  # steps that may compile: the metrics of one arrive during the next

_running: 'Watchdog | None' = None


class Board(Protocol):
  """What the processes write on and read from; the real one is JAX's coordination service."""

  def write(self, text: str) -> None:
    """Replaces this process's text."""

  def read(self) -> dict[int, str]:
    """The text of every process that has written, by process."""


class CoordinationBoard:
  """The board of a run, kept by process 0."""

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
class _Task:
  what: str
  seconds: float  # 0: as long as it takes
  taken: float = 0.0


@dataclasses.dataclass(frozen=True)
class Word:
  """What a process last said: that it runs, that it left, or why it ended with which status."""

  beat: int
  host: str
  what: str
  taken: float
  left: bool = False
  status: int = 0
  why: str = ''


class Watchdog:
  """Two threads: one reads and writes the board, the other judges, so that a dead board is noticed."""

  def __init__(
    self,
    board: Board | None,
    process: int,
    processes: int,
    silence: float,
    period: float,
    say: Callable[[int, str], None],
    leave: Callable[[int], None],
  ):
    """Args:
    board: None in a run of one process.
    process: which of them this is.
    processes: how many there are.
    silence: seconds after which a process that says nothing counts as hung.
    period: seconds from one word to the next.
    say: is told the exit status and why, before the process ends.
    leave: ends the process with a status.
    """
    self._board, self._me, self._processes = board, process, processes
    self._silence, self._period, self._say, self._leave = silence, period, say, leave
    self._late = 3 * period  # seconds without a word from which on a process is suspicious
    self._host = socket.gethostname()
    self._task = _Task('start-up', 0)
    self._heard: dict[int, Word] = {}
    self._rounds = 0  # how often the whole board was read
    self._silent = dict.fromkeys(range(processes), 0.0)
    self._unread = 0.0
    self._ended: tuple[int, str] = (0, '')
    self._stopped = threading.Event()
    self._threads = [threading.Thread(target=self._judge, daemon=True, name='watchdog')]
    if board is not None:
      self._threads.append(threading.Thread(target=self._talk, daemon=True, name='watchdog board'))
    for thread in self._threads:
      thread.start()

  @contextlib.contextmanager
  def expect(self, what: str, seconds: float) -> Iterator[None]:
    """The work inside must end within so many seconds; 0: no limit. What is around it begins anew."""
    outer, self._task = self._task, _Task(what, seconds)
    try:
      yield
    finally:
      outer.taken = 0.0
      self._task = outer

  def end(self, status: int, why: str, details: str = '') -> None:
    """Ends this process, and lets the others know why: they end with the same status."""
    self._say(status, why + details)
    self._ended = (status, why)
    if self._board is not None:
      time.sleep(2 * self._period)
    self._leave(status)

  @property
  def is_shared(self) -> bool:
    """Whether there are other processes."""
    return self._board is not None

  def stop(self) -> None:
    """Says that this process leaves in peace, and watches no longer."""
    self._stopped.set()
    for thread in self._threads:
      thread.join(2 * self._period + 1)

  def describe(self, process: int) -> str:
    """Where a process is, in words."""
    if process == self._me:
      return self._line(process, self._word(0), 0.0)
    return self._line(process, self._heard.get(process), self._silent[process])

  def _line(self, process: int, word: Word | None, silent: float) -> str:
    if word is None:
      return f'process {process}: was never heard'
    where = f'process {process} on {word.host}: '
    if word.left:
      return where + 'has ended'
    if word.why:
      return where + word.why
    doing = f'in {word.what} for {word.taken:.0f} s'
    if silent > self._late:
      return where + f'silent for {silent:.0f} s, before that {doing}'
    return where + doing + (' (this one)' if process == self._me else '')

  def _word(self, beat: int) -> Word:
    task, (status, why) = self._task, self._ended
    left = self._stopped.is_set()
    return Word(beat, self._host, task.what, round(task.taken, 1), left, status, why)

  def _talk(self) -> None:
    beat, is_last = 0, False
    while not is_last:
      beat, is_last = beat + 1, self._stopped.is_set()
      # A board that fails is one that is not read: the judge counts for how long.
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        self._board.write(json.dumps(dataclasses.asdict(self._word(beat))))
        heard = {p: Word(**json.loads(text)) for p, text in self._board.read().items()}
        self._heard, self._rounds = heard, self._rounds + 1
      self._stopped.wait(self._period)

  def _judge(self) -> None:
    last, rounds, beats = time.monotonic(), 0, {}
    while not self._stopped.wait(self._period):
      now = time.monotonic()
      passed, last = min(now - last, 3 * self._period), now
      self._task.taken += passed
      self._unread += passed
      if self._rounds != rounds:
        rounds, heard = self._rounds, self._heard
        for process in range(self._processes):
          word = heard.get(process)
          is_same = word is None or (word.beat == beats.get(process) and not word.left)
          self._silent[process] = self._silent[process] + self._unread if is_same else 0.0
        beats = {process: word.beat for process, word in heard.items()}
        self._unread = 0.0
      if verdict := self._verdict():
        self.end(*verdict)
        return

  def _verdict(self) -> tuple[int, str, str] | None:
    """Status, why, and details where the run must end."""
    task = self._task
    for process, word in self._heard.items():
      if word.status and process != self._me and not self._ended[0]:
        return word.status, f'process {process} on {word.host} ends the run: {word.why}', ''
    if self._board is not None and self._unread > self._silence:
      return self._hung(
        f'process 0, through which the processes hear of each other, did not answer for '
        f'{self._unread:.0f} s'
      )
    silent = [process for process, seconds in self._silent.items() if seconds > self._silence]
    if silent:
      return self._hung(
        f'process {", ".join(map(str, silent))} did not answer for {self._silence:.0f} s '
        '(--config.hosts.heartbeat_timeout)'
      )
    if 0 < task.seconds < task.taken:
      return self._hung(f'no end of {task.what} after {task.taken:.0f} s')
    return None

  def _hung(self, why: str) -> tuple[int, str, str]:
    """The details list the silent processes first, then those that do what few others do."""
    doing = {process: word.what for process, word in self._heard.items()}
    common = collections.Counter(doing.values())

    def suspicion(process: int) -> tuple[float, int]:
      is_silent = self._silent[process] > self._late
      return -self._silent[process] if is_silent else 0.0, common[doing.get(process)]

    order = sorted(range(self._processes), key=suspicion)
    lines = ['', *map(self.describe, order[:_LISTED])]
    if len(order) > _LISTED:
      lines.append(f'and {len(order) - _LISTED} more')
    return exit_status.HUNG, f'the run hangs: {why}', '\n  '.join(lines)


def start(client: Any, process: int, processes: int, silence: float, shortest: float) -> None:
  """Starts the watchdog of this process.

  Args:
    client: of JAX's coordination service; None in a run of one process.
    process: which of them this is.
    processes: how many there are.
    silence: seconds after which a process that says nothing counts as hung.
    shortest: the shortest limit in seconds that `expect` will be given.
  """
  global _running
  # Process 0 answers all of them, each with the words of all.
  often = min(5.0, max(1.0, processes / 50))
  period = max(0.1, min(often, silence / 8, shortest / 8))
  board = CoordinationBoard(client, process) if client is not None else None
  _running = Watchdog(board, process, processes, silence, period, _print, os._exit)


@contextlib.contextmanager
def expect(what: str, seconds: float) -> Iterator[None]:
  """The work inside must end within so many seconds, or the run ends; 0: as long as it takes."""
  if _running is None:
    yield
    return
  with _running.expect(what, seconds):
    yield


def watched(steps: Iterable[int], first_seconds: float, seconds: float) -> Iterator[int]:
  """The steps; what is done with each must end in time, with the first ones, which compile, in theirs."""
  for n, step in enumerate(steps):
    with expect(f'step {step}', first_seconds if n < _FIRST else seconds):
      yield step


def describe(process: int) -> str:
  """Where a process is, in words."""
  return f'process {process}' if _running is None else _running.describe(process)


def fail(why: str, details: str = '', status: int = 1) -> None:
  """Ends this process, if it is one of several, and the others with it, at once.

  Python's own way out would wait for the others, which wait for this one.

  Args:
    why: what the others say, too.
    details: what this process alone adds.
    status: of all of them.
  """
  if _running is not None and _running.is_shared:
    _running.end(status, why, details)


def stop() -> None:
  """Watches no longer; the other processes do not miss this one."""
  global _running
  if _running is not None:
    _running.stop()
    _running = None


def _print(status: int, message: str) -> None:
  print(message, file=sys.__stderr__, flush=True)
  if status == exit_status.HUNG:
    print('the stacks of this process (docs/hangs.md):', file=sys.__stderr__, flush=True)
    faulthandler.dump_traceback(sys.__stderr__)
