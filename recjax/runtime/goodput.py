"""Goodput: which share of a run's wall time went into steps that counted, and where the rest went.

A process has one clock from its beginning, imports included, and every second is in exactly one phase. What
JAX traces and compiles is told apart in whatever phase it happens. The processes that a run needed (one more
after each kill or preemption) stand in goodput.json, one after the other; the time between two of them is
nobody's. Steps that a later process had to repeat are lost.
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

from recjax.runtime import preemption

FILE = 'goodput.json'
PHASES = (
  'steps',  # of training, and waiting for their results
  'input_wait',  # for the next batch
  'compile',  # tracing too, or reading the result from the compilation cache
  'checkpoint',  # the part of saving that training waits for
  'evaluation',
  'start_up',  # imports, reading data, surveying the mixture, making or restoring the state
  'preparation',  # of the data set, where the run makes it itself
  'report',
)
LOST = 'lost'  # steps that were repeated later; not a phase of the clock

_COMPILE = '/jax/core/compile/'  # JAX's events of tracing, lowering and compiling begin so

log = logging.getLogger(__name__)


class Clock:
  """The seconds of a process by phase; their sum is its age at any moment.

  Phases nest: the innermost counts. They are entered by the thread that made the clock.

  Args:
    age: seconds that are over already; they count as start-up.
    now: the time in seconds; never falls.
  """

  def __init__(self, age: float = 0.0, now: Callable[[], float] = time.monotonic):
    self._now = now
    self._since = now() - age  # the beginning of the current slice, which is in one phase
    self._phases = ['start_up']
    self._seconds = dict.fromkeys(PHASES, 0.0)
    self._compiled: list[tuple[float, float]] = []  # from when to when, in the current slice
    self._thread = threading.get_ident()

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Counts the time inside as this phase, without what nested ones take."""
    if name not in PHASES:
      raise ValueError(f'a phase must be one of {", ".join(PHASES)}; got {name!r}')
    self._cut()
    self._phases.append(name)
    try:
      yield
    finally:
      self._cut()
      self._phases.pop()

  def seconds(self) -> dict[str, float]:
    """By phase, until now."""
    self._cut()
    return dict(self._seconds)

  def on_event(self, event: str, seconds: float, **_: Any) -> None:
    """Takes JAX's word that something took so long until now; for `jax.monitoring`."""
    if not event.startswith(_COMPILE) or threading.get_ident() != self._thread:
      return
    end = self._now()
    start = end - seconds
    while self._compiled and self._compiled[-1][0] >= start:  # was a part of this
      self._compiled.pop()
    self._compiled.append((start, end))

  def _cut(self) -> None:
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
  """goodput.json of a run: appends this process to those before it.

  The file appears with the first training and is replaced every few seconds, so a kill costs no more of it.

  Args:
    workdir: of the run.
    clock: of this process.
    enabled: False makes every call a no-op, for hosts other than the first.
  """

  def __init__(self, workdir: epath.PathLike, clock: Clock, enabled: bool = True):
    self._workdir = epath.Path(workdir)
    self._clock = clock
    self._pause = 30.0 if '://' in os.fspath(self._workdir) else 2.0  # seconds between two writes
    self._enabled = enabled
    self._written = float('-inf')
    self._has_failed = False
    self._before: list[dict[str, Any]] = []
    self._training: dict[str, Any] | None = None
    began = time.time() - sum(clock.seconds().values())
    self._process: dict[str, Any] = {
      'began': datetime.datetime.fromtimestamp(began, datetime.UTC).isoformat(timespec='seconds'),
      'ended': None,  # as it stays where the process is killed
      'first_step_after': None,
      'seconds': {},
      'trainings': {},
    }

  def training(self, folder: epath.PathLike, step: int) -> None:
    """A training in this folder begins after so many steps, which an earlier process did."""
    if not self._enabled:
      return
    if not self._process['trainings']:
      self._before = read(self._workdir)
    self._close_training()
    name = os.path.relpath(os.fspath(folder), os.fspath(self._workdir))
    self._training = {'from': step, 'to': step, 'seconds': 0.0}
    self._process['trainings'][name] = self._training
    self._steps_before = self._step_seconds()
    self.write()

  def done(self, step: int) -> None:
    """The results of this step are here."""
    if self._training is None:
      return
    self._training['to'] = step
    if self._process['first_step_after'] is None:
      self._process['first_step_after'] = sum(self._clock.seconds().values())
      self.write()
    elif time.monotonic() >= self._written + self._pause:
      self.write()

  def write(self) -> None:
    """Puts the file in place as of now; call it beside a checkpoint, so that none is newer."""
    if self._training is None:
      return
    self._close_training()
    self._process['seconds'] = self._clock.seconds()
    processes = [*self._before, self._process]
    text = json.dumps({'summary': summary(processes), 'processes': processes}, indent=2) + '\n'
    self._written = time.monotonic()
    partial = self._workdir / f'.{FILE}.partial'
    try:
      partial.write_text(text)
      partial.replace(self._workdir / FILE)
    except Exception as error:  # noqa: BLE001 - whatever the store says, training does not need it
      if not self._has_failed:
        log.warning('%s is not up to date: %s; training goes on', self._workdir / FILE, error)
      self._has_failed = True

  def close(self, ended: str) -> None:
    """Writes the file for the last time and logs the summary of all processes."""
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
  """The processes so far; a file that is no longer readable is put aside, with a warning."""
  path = epath.Path(workdir) / FILE
  if not path.exists():
    return []
  try:
    processes = json.loads(path.read_text())['processes']
    summary(processes)
    return processes
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    aside = path.with_name(f'{FILE}.damaged')
    log.warning(
      '%s is not what was written (%r); it is %s now, a new one begins', path, error, aside
    )
    path.replace(aside)
    return []


def _lost(processes: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
  """How many steps were repeated by a later process, and their seconds."""
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
  """What goodput.json says of all processes together.

  Returns:
    `goodput` (share of the wall time in steps that were not lost), `wall_seconds`, `seconds` and `shares`
    by phase and for `lost`, which is taken from the steps and the input wait; `starts` of a process, `steps`
    that count and `lost_steps`.
  """
  seconds = {name: sum(p['seconds'].get(name, 0.0) for p in processes) for name in PHASES}
  lost_steps, lost = _lost(processes)
  of_training = seconds['steps'] + seconds['input_wait']
  left = 1 - lost / of_training if of_training else 1.0
  seconds |= {name: seconds[name] * left for name in ('steps', 'input_wait')} | {LOST: lost}
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


def describe(found: Mapping[str, Any]) -> str:
  """A summary in one line."""
  shares = sorted(found['shares'].items(), key=lambda item: -item[1])
  rest = ', '.join(
    f'{name.replace("_", " ")} {share:.1%}'
    for name, share in shares
    if name != 'steps' and share >= 0.0005
  )
  starts = f', {found["starts"]} starts' if found['starts'] > 1 else ''
  lost = f', {found["lost_steps"]} steps lost' if found['lost_steps'] else ''
  return (
    f'goodput {found["goodput"]:.1%} of {found["wall_seconds"]:,.0f} s in {found["steps"]:,} steps'
    f'{starts}{lost}; else {rest}'
  )


def _age() -> float:
  """Seconds since this process began; 0 where the system does not say."""
  try:
    with open('/proc/self/stat') as f:
      ticks = int(f.read().rpartition(')')[2].split()[19])  # since boot: field 22 of proc(5)
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK'))
  except (OSError, AttributeError):  # AttributeError: only Linux has this clock
    return 0.0


_clock = Clock(_age())
_record: Record | None = None
jax.monitoring.register_event_duration_secs_listener(_clock.on_event)

phase = _clock.phase
seconds = _clock.seconds


def training(folder: epath.PathLike, step: int) -> None:
  """See `Record.training`; nothing where the process is not recorded."""
  if _record is not None:
    _record.training(folder, step)


def done(step: int) -> None:
  """See `Record.done`; nothing where the process is not recorded."""
  if _record is not None:
    _record.done(step)


def write() -> None:
  """See `Record.write`; nothing where the process is not recorded."""
  if _record is not None:
    _record.write()


@contextlib.contextmanager
def recorded(workdir: epath.PathLike, enabled: bool = True) -> Iterator[None]:
  """Keeps goodput.json in the workdir while the run inside trains, evaluates and reports."""
  global _record
  _record = Record(workdir, _clock, enabled)
  try:
    yield
  except BaseException as error:
    _record.close('preempted' if isinstance(error, preemption.Preempted) else type(error).__name__)
    raise
  else:
    _record.close('done')
  finally:
    _record = None
