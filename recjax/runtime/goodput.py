"""Goodput: the share of a run's wall time spent in training steps that count, and the use of the rest.

Every process has one clock that starts with the process, imports included. Each second belongs to exactly one
phase. Tracing and compilation by JAX are counted as `compile` in every phase. After each kill or
preemption a new process continues the run: goodput.json lists the processes in order. Time between two
processes is not counted. Steps that a later process repeated are lost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import datetime
import json
import logging
import os
import threading
import time
from typing import Any

from etils import epath
import jax

from recjax.runtime import files, preemption

FILE = 'goodput.json'
PHASES = (
  'steps',  # training steps, and waiting for their results
  'input_wait',  # waiting for the next batch
  'compile',  # tracing, lowering and compiling, or reading the compilation cache
  'checkpoint',  # the part of a save that blocks training
  'evaluation',
  'start_up',  # imports, reading data, measuring the mixture, initialising or restoring the state
  'preparation',  # of the data set, if the run prepares it
  'report',
)
LOST = 'lost'  # steps that a later process repeated; not a phase of the clock

_COMPILE = '/jax/core/compile/'  # prefix of JAX's events of tracing, lowering and compiling

log = logging.getLogger(__name__)


class Clock:
  """Counts the seconds of a process by phase; their sum is always its age.

  Phases may be nested: a second belongs to the innermost one. Only the thread that created the clock may
  enter phases.

  Args:
    age: seconds since the start of the process, counted as start-up.
    now: returns the time in seconds; must be monotonic.
  """

  def __init__(self, age: float = 0.0, now: Callable[[], float] = time.monotonic):
    self._now = now
    self._since = now() - age  # start of the current interval, which lies in one phase
    self._phases = ['start_up']
    self._seconds = dict.fromkeys(PHASES, 0.0)
    # (start, end) of compilations in the current interval.
    self._compiled: list[tuple[float, float]] = []
    self._thread = threading.get_ident()

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Counts the time inside as this phase, except for nested phases.

    Raises:
      ValueError: the name is not in PHASES.
    """
    if name not in PHASES:
      raise ValueError(f'a phase must be one of {", ".join(PHASES)}; got {name!r}')
    self._close_interval()
    self._phases.append(name)
    try:
      yield
    finally:
      self._close_interval()
      self._phases.pop()

  def seconds(self) -> dict[str, float]:
    """Returns the seconds by phase until now."""
    self._close_interval()
    return dict(self._seconds)

  def on_event(self, event: str, seconds: float, **_: Any) -> None:
    """Records a compilation that ends now; a listener for `jax.monitoring`.

    Args:
      event: name of JAX's event; other events than those of compilation are ignored.
      seconds: duration of the event.
    """
    if not event.startswith(_COMPILE) or threading.get_ident() != self._thread:
      return
    end = self._now()
    start = end - seconds
    while self._compiled and self._compiled[-1][0] >= start:  # a part of this event
      self._compiled.pop()
    self._compiled.append((start, end))

  def _close_interval(self) -> None:
    now = self._now()
    compiled, reached = 0.0, self._since
    for start, end in self._compiled:
      compiled += max(0.0, min(end, now) - max(start, reached))
      reached = max(reached, end)
    self._seconds['compile'] += compiled
    self._seconds[self._phases[-1]] += now - self._since - compiled
    self._since = now
    self._compiled.clear()


class Record:
  """Writes goodput.json in the workdir of a run, and appends this process to the earlier ones.

  The file is created when the first training starts and rewritten every few seconds, so a kill loses only the
  last seconds of the record.

  Args:
    workdir: workdir of the run.
    clock: clock of this process.
    enabled: False makes every call a no-op; for processes other than process 0.
  """

  def __init__(self, workdir: epath.PathLike, clock: Clock, enabled: bool = True):
    self._workdir = epath.Path(workdir)
    self._clock = clock
    self._pause = 2.0 if files.is_local(self._workdir) else 30.0  # seconds between two writes
    self._enabled = enabled
    self._written = float('-inf')
    self._has_failed = False
    self._before: list[dict[str, Any]] = []
    self._training: dict[str, Any] | None = None
    began = time.time() - sum(clock.seconds().values())
    self._process: dict[str, Any] = {
      'began': datetime.datetime.fromtimestamp(began, datetime.UTC).isoformat(timespec='seconds'),
      'ended': None,  # stays None if the process is killed
      'first_step_after': None,
      'seconds': {},
      'trainings': {},
    }

  def training(self, folder: epath.PathLike, step: int) -> None:
    """Starts the record of a training.

    Args:
      folder: folder of the training: the workdir, or a stage's folder in it.
      step: step of the restored checkpoint; 0 if the training starts from scratch.
    """
    if not self._enabled:
      return
    if not self._process['trainings']:
      files.remove_partial_files(self._workdir / FILE)
      self._before = read(self._workdir)
    self._close_training()
    name = os.path.relpath(os.fspath(folder), os.fspath(self._workdir))
    self._training = {'from': step, 'to': step, 'seconds': 0.0}
    self._process['trainings'][name] = self._training
    self._steps_before = self._step_seconds()
    self.write()

  def is_recording(self, workdir: epath.Path) -> bool:
    """Returns whether a training in this workdir has started."""
    return self._training is not None and workdir == self._workdir

  def done(self, step: int) -> None:
    """Records that the results of a step have arrived."""
    if self._training is None:
      return
    self._training['to'] = step
    if self._process['first_step_after'] is None:
      self._process['first_step_after'] = sum(self._clock.seconds().values())
      self.write()
    elif time.monotonic() >= self._written + self._pause:
      self.write()

  def write(self) -> None:
    """Writes the file now; call it with each save, so that no checkpoint is newer than the record."""
    if self._training is None:
      return
    self._close_training()
    self._process['seconds'] = self._clock.seconds()
    processes = [*self._before, self._process]
    text = json.dumps({'summary': summary(processes), 'processes': processes}, indent=2) + '\n'
    self._written = time.monotonic()
    try:
      # Waiting for the disk every two seconds would slow training down.
      files.write_whole(self._workdir / FILE, text, is_durable=False)
    except Exception as error:  # noqa: BLE001 - training does not depend on this file
      if not self._has_failed:
        log.warning('%s could not be written: %s; training continues', self._workdir / FILE, error)
      self._has_failed = True

  def close(self, ended: str) -> None:
    """Writes the file for the last time and logs the summary of all processes.

    Args:
      ended: how the process ended: 'done', 'preempted', 'interrupted', or the name of an exception.
    """
    if self._training is None:
      return
    self._process['ended'] = ended
    self.write()
    log.info('%s', describe(summary([*self._before, self._process])))

  def _step_seconds(self) -> float:
    seconds = self._clock.seconds()
    return seconds['steps'] + seconds['input_wait']

  def _close_training(self) -> None:
    if self._training is not None:
      self._training['seconds'] = self._step_seconds() - self._steps_before


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the records of the processes in goodput.json, oldest first.

  A damaged file is renamed with a warning; the result is then empty.
  """
  path = epath.Path(workdir) / FILE
  if not path.exists():
    return []
  try:
    processes = json.loads(path.read_text())['processes']
    summary(processes)
    return processes
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    aside = path.with_name(f'{FILE}.damaged')
    log.warning('%s is damaged (%r); renamed to %s, and a new file is started', path, error, aside)
    path.replace(aside)
    return []


def _lost(processes: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
  """Returns the number of steps that a later process repeated, and their seconds."""
  steps, seconds = 0, 0.0
  for i, process in enumerate(processes):
    for folder, training in process['trainings'].items():
      later = [
        p['trainings'][folder]['from'] for p in processes[i + 1 :] if folder in p['trainings']
      ]
      kept = max(training['from'], min([training['to'], *later]))
      lost, done = training['to'] - kept, training['to'] - training['from']
      if lost:
        steps += lost
        seconds += training['seconds'] * lost / done
  return steps, seconds


def summary(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Sums up all processes of a run.

  Args:
    processes: as in goodput.json, oldest first.

  Returns:
    `goodput`: share of the wall time spent in steps that were not lost. `wall_seconds`: wall time of all
    processes. `seconds` and `shares`: by phase, and `lost`, which is subtracted from `steps` and
    `input_wait`. `starts`: number of processes. `steps`: number of steps without lost ones. `lost_steps`:
    number of lost steps.
  """
  seconds = {name: sum(p['seconds'].get(name, 0.0) for p in processes) for name in PHASES}
  lost_steps, lost = _lost(processes)
  training_seconds = seconds['steps'] + seconds['input_wait']
  kept = 1 - lost / training_seconds if training_seconds else 1.0
  seconds |= {name: seconds[name] * kept for name in ('steps', 'input_wait')} | {LOST: lost}
  wall = sum(seconds.values())
  done = sum(t['to'] - t['from'] for p in processes for t in p['trainings'].values())
  return {
    'goodput': seconds['steps'] / wall if wall else 0.0,
    'wall_seconds': wall,
    'seconds': seconds,
    'shares': {name: value / wall if wall else 0.0 for name, value in seconds.items()},
    'starts': len(processes),
    'steps': done - lost_steps,
    'lost_steps': lost_steps,
  }


def describe(totals: Mapping[str, Any]) -> str:
  """Returns the result of `summary` as one line of text."""
  shares = sorted(totals['shares'].items(), key=lambda item: -item[1])
  rest = ', '.join(
    f'{name.replace("_", " ")} {share:.1%}'
    for name, share in shares
    if name != 'steps' and share >= 0.0005
  )
  starts = f', {totals["starts"]} starts' if totals['starts'] > 1 else ''
  lost = f', {totals["lost_steps"]} steps lost' if totals['lost_steps'] else ''
  return (
    f'goodput {totals["goodput"]:.1%} of {totals["wall_seconds"]:,.0f} s in {totals["steps"]:,} steps'
    f'{starts}{lost}; remaining time: {rest}'
  )


def _age() -> float:
  """Returns the seconds since this process started; 0 on systems other than Linux."""
  try:
    with open('/proc/self/stat') as f:
      ticks = int(f.read().rpartition(')')[2].split()[19])  # start time: field 22 of proc(5)
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK'))
  except (OSError, AttributeError):  # AttributeError: no such clock
    return 0.0


_clock = Clock(_age())
_record: Record | None = None
jax.monitoring.register_event_duration_secs_listener(_clock.on_event)

phase = _clock.phase
seconds = _clock.seconds


def training(folder: epath.PathLike, step: int) -> None:
  """See `Record.training`; does nothing outside of `recorded`."""
  if _record is not None:
    _record.training(folder, step)


def done(step: int) -> None:
  """See `Record.done`; does nothing outside of `recorded`."""
  if _record is not None:
    _record.done(step)


def is_recording(workdir: epath.PathLike) -> bool:
  """Returns whether this process is recording a training in a workdir."""
  return _record is not None and _record.is_recording(epath.Path(workdir))


def write() -> None:
  """See `Record.write`; does nothing outside of `recorded`."""
  if _record is not None:
    _record.write()


@contextlib.contextmanager
def recorded(workdir: epath.PathLike, enabled: bool = True) -> Iterator[None]:
  """Writes goodput.json in the workdir while the code inside trains, evaluates and reports.

  Args:
    workdir: workdir of the run.
    enabled: False in processes other than process 0.
  """
  global _record
  _record = Record(workdir, _clock, enabled)
  try:
    yield
  except BaseException as error:
    stopped = isinstance(error, preemption.Preempted)
    _record.close(error.word if stopped else type(error).__name__)
    raise
  else:
    _record.close('done')
  finally:
    _record = None
