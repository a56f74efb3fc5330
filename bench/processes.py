"""Trainings as processes, several at a time; a table of ablations and a search of settings run theirs so.

A process that was killed or preempted is started again, at most RESTARTS times: a training goes on from its last
checkpoint. One that ends with an error is not. When this process ends, even by SIGKILL, the others save and end.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple, TypeVar

from recjax.runtime import exit_status, lock

RESTARTS = 2
_POLL_SECONDS = 0.2
_KILLED = (-signal.SIGKILL, -signal.SIGTERM, *exit_status.RESTART_ON)
# Becomes the program, to which the kernel sends SIGTERM when its parent (the first argument) dies: prctl(2). A function
# that subprocess calls in the child would do the same, but is unsafe beside threads.
_TIED = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
if sys.platform == 'linux':
  ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(parent):
  os.execv(sys.executable, [sys.executable, *command])
"""


class Job:
  """A training with a workdir of its own. Its log is beside the workdir.

  Attributes:
    name: its name in messages.
    workdir: its folder.
    command: the arguments after `python`.
  """

  name: str
  workdir: pathlib.Path
  command: tuple[str, ...]

  @property
  def log(self) -> pathlib.Path:
    return self.workdir.with_suffix('.log')

  @property
  def last_line(self) -> str:
    """The last line of its log."""
    lines = self.log.read_text(errors='replace').split('\n') if self.log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), 'its log is empty')


J = TypeVar('J', bound=Job)


class Ended(NamedTuple):
  """A job whose process ended.

  Attributes:
    job: the job.
    seconds: since its start.
    failure: None: it ended well; else 'failed' or 'was killed'.
  """

  job: Job
  seconds: float
  failure: str | None


@dataclasses.dataclass
class _Running:
  process: subprocess.Popen
  start: float
  restarts: int = 0


class Pool:
  """Processes of jobs, at most `parallel` at a time. Leaving it asks those that run to save and end, and waits.

  Without XLA_PYTHON_CLIENT_MEM_FRACTION in the environment each process may take its part of nine tenths of the
  accelerator's memory.
  """

  def __init__(self, parallel: int):
    self._parallel = parallel
    self._running: dict[Job, _Running] = {}
    self._asked: set[int] = set()  # processes that were asked to end
    self._waited: set[Job] = set()
    self._env = {'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{0.9 / parallel:.3f}'} | dict(os.environ)

  def __enter__(self) -> 'Pool':
    return self

  def __exit__(self, *_) -> None:
    self.end()
    for each in self._running.values():
      each.process.wait()

  def __len__(self) -> int:
    return len(self._running)

  @property
  def has_room(self) -> bool:
    return len(self) < self._parallel

  def first_free(self, jobs: Iterable[J]) -> J | None:
    """Returns the first job whose workdir no other process holds; None: there is none. Names those that wait, once."""
    for job in jobs:
      try:
        lock.check_free(job.workdir, 'the folder of the workdirs')
        return job
      except lock.Held as held:
        if job not in self._waited:
          self._waited.add(job)
          print(f'{job.name}: waits: {held}', flush=True)
    return None

  def start(self, job: Job) -> None:
    """Starts a job; its output is added to its log."""
    self._running[job] = _Running(self._started(job), time.monotonic())
    print(f'{job.name}: started', flush=True)

  def _started(self, job: Job) -> subprocess.Popen:
    job.workdir.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open('a') as log:
      return subprocess.Popen(
        [sys.executable, '-S', '-c', _TIED, str(os.getpid()), *job.command],
        stdout=log, stderr=subprocess.STDOUT, env=self._env,
      )  # fmt: skip

  def ended(self) -> list[Ended]:
    """Returns the jobs that ended since the last call, after a short pause. Starts those again that were killed."""
    time.sleep(_POLL_SECONDS)
    found = []
    for job, each in list(self._running.items()):
      code = each.process.poll()
      if code is None:
        continue
      is_killed = code in _KILLED and each.process.pid not in self._asked
      if is_killed and each.restarts < RESTARTS:
        print(f'{job.name}: {_cause(code)}, is started again', flush=True)
        each.process = self._started(job)
        each.restarts += 1
        continue
      del self._running[job]
      failure = None if code == 0 else 'was killed' if is_killed else 'failed'
      found.append(Ended(job, time.monotonic() - each.start, failure))
    return found

  def end(self) -> None:
    """Asks every process to save and end, once."""
    for each in self._running.values():
      if each.process.poll() is None and each.process.pid not in self._asked:
        each.process.send_signal(signal.SIGTERM)
        self._asked.add(each.process.pid)


def _cause(code: int) -> str:
  names: Mapping[int, str] = {exit_status.PREEMPTED: 'was preempted', exit_status.HUNG: 'hung'}
  return names.get(code) or f'was killed ({signal.Signals(-code).name})'
