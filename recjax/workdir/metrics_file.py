"""Metrics of a run: metrics.jsonl, one line per step, and TensorBoard event files."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import logging
import math
import os
import time
from typing import Any

from etils import epath
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2, summary_pb2

from recjax.runtime.files import is_local, write_whole

FILE = 'metrics.jsonl'
DAMAGED = 'metrics.damaged'  # lines of metrics.jsonl that could not be read
FOLDER = 'tensorboard'
EVALUATION = 'validation/'  # prefix of the metrics of an evaluation during training

_NAMED = 5  # line numbers that a message lists

log = logging.getLogger(__name__)


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the rows of metrics.jsonl by ascending step. Values that were not finite are None.

  Lines that are not JSON objects of numbers with a step are skipped with a warning. An incomplete last line is skipped
  without a warning, since a kill can cut it off. Of two lines with the same step, the one with more values
  is used; if they have equally many, the later one.
  """
  rows, damaged = _read(epath.Path(workdir) / FILE)
  _warn(epath.Path(workdir) / FILE, damaged, 'left out')
  return rows


def _read(path: epath.Path) -> tuple[list[dict[str, Any]], dict[int, bytes]]:
  """Returns the rows by ascending step, and the damaged lines by line number."""
  if not path.exists():
    return [], {}
  lines = path.read_bytes().split(b'\n')
  torn = lines.pop()  # the text after the last line break
  rows, damaged = {}, {}
  for number, line in enumerate([*lines, torn] if torn else lines, start=1):
    row = _parsed(line)
    if row is not None:
      if len(row) >= len(rows.get(row['step'], ())):
        rows[row['step']] = row
    elif number <= len(lines):
      damaged[number] = line
  return [rows[step] for step in sorted(rows)], damaged


def _parsed(line: bytes) -> dict[str, Any] | None:
  """Returns the row of a line; None: the line is damaged."""
  try:
    row = json.loads(line, parse_constant=lambda _: None)  # NaN
  except (ValueError, RecursionError):  # also bytes that are not UTF-8
    return None
  is_row = isinstance(row, dict) and type(row.get('step')) is int and row['step'] >= 0
  return row if is_row and all(type(v) in (int, float, type(None)) for v in row.values()) else None


def _warn(path: epath.Path, damaged: Mapping[int, bytes], outcome: str) -> None:
  if damaged:
    numbers = ', '.join(map(str, list(damaged)[:_NAMED]))
    more = f' and {len(damaged) - _NAMED} more' if len(damaged) > _NAMED else ''
    first = next(iter(damaged.values()))[:60].decode(errors='replace')
    log.warning(
      '%s: damaged lines %s%s are %s; every line must be a JSON object of numbers with a step, got %r',
      *(path, numbers, more, outcome, first),
    )


def _numbers(values: Mapping[str, float]) -> dict[str, int | float | None]:
  """Returns the values as JSON knows them, which has no NaN."""
  numbers = {name: v if isinstance(v, int) else float(v) for name, v in values.items()}
  return {name: v if math.isfinite(v) else None for name, v in numbers.items()}


def _line(row: Mapping[str, int | float | None]) -> str:
  return json.dumps(row, allow_nan=False) + '\n'


class Writer:
  """Writes every step exactly once, also in a run that is killed and resumed.

  Opening drops the lines after `start_step`, which the resumed run computes again, and tells TensorBoard to
  drop those events. Damaged lines are moved to metrics.damaged. They do not block a resume, since the
  checkpoints hold the state of the run. On a local disk every line is written at once. In a bucket, which
  allows no appends, `flush` writes the file.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    start_step: int,
    enabled: bool = True,
    also: Callable[[int, Mapping[str, float]], None] | None = None,
  ):
    """Opens the files of a workdir; creates the workdir if it does not exist.

    Args:
      workdir: the folder of metrics.jsonl and tensorboard/.
      start_step: number of completed steps; only later steps can be written.
      enabled: False makes every call a no-op; for processes other than process 0.
      also: gets the step and its metrics too; see `recjax.workdir.trackers`.
    """
    self._enabled, self._also = enabled, also
    self._step = start_step
    # The last line, which an evaluation may extend.
    self._row: dict[str, int | float | None] | None = None
    if not enabled:
      return
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self._path = workdir / FILE
    self._is_local = is_local(self._path)
    kept = [row for row in self._repaired_rows() if row['step'] <= start_step]
    lines = [_line(row) for row in kept]
    write_whole(self._path, ''.join(lines))
    if kept and kept[-1]['step'] == start_step:
      self._row = kept[-1]
      lines = lines[:-1]
    self._lines = lines  # before the last line; grows in a bucket only
    self._size = sum(len(line.encode()) for line in lines)  # offset of the last line
    self._folder = workdir / FOLDER
    self._folder.mkdir(exist_ok=True)
    # tensorboardX's SummaryWriter writes in a thread that hangs forever after a full disk. Its file names hold
    # only second and host, so two starts within a second would write to the same file.
    with _named_errors(self._folder):
      self._events = event_file_writer.EventsWriter(
        os.fspath(self._folder / 'events'), f'.{start_step}.{os.getpid()}.{os.urandom(3).hex()}'
      )
    # Makes TensorBoard hide later steps in the files of earlier starts.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._put_event(step=start_step + 1, session_log=start)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the metrics of a step.

    Raises:
      ValueError: the step is not later than the last one.
    """
    if not self._enabled:
      return
    if step <= self._step:
      raise ValueError(f'steps must be written once, in order; got step {step} after {self._step}')
    self._end_row()
    self._step, self._row = step, {'step': step, **_numbers(values)}
    self._put_row()
    self._add_events(step, values)

  def write_evaluation(self, step: int, values: Mapping[str, float]) -> None:
    """Adds the metrics of an evaluation to the line of the last step, and flushes.

    They appear as `validation/<name>`. The last step of a new writer is `start_step`.

    Raises:
      ValueError: another step was written last.
    """
    if not self._enabled:
      return
    if step != self._step:
      raise ValueError(
        f'an evaluation must follow the metrics of its step {step}; got {self._step}'
      )
    values = {EVALUATION + name: value for name, value in values.items()}
    row = self._row or {'step': step}  # the line of a resumed step may be lost
    self._row = row | _numbers(values)
    self._put_row()
    self._add_events(step, values)
    self.flush()

  def flush(self) -> None:
    """Writes all buffered lines and events to disk; call it before a checkpoint."""
    if not self._enabled:
      return
    if not self._is_local:
      lines = [*self._lines, *([_line(self._row)] if self._row else [])]
      with _named_errors(self._path):
        write_whole(self._path, ''.join(lines))
    with _named_errors(self._folder):
      self._events.flush()

  def close(self) -> None:
    """Flushes and closes the event file."""
    if self._enabled:
      try:
        self.flush()
      finally:
        self._enabled = False
        with _named_errors(self._folder):
          self._events.close()

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _repaired_rows(self) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl; its damaged lines are moved to metrics.damaged."""
    rows, damaged = _read(self._path)
    if damaged:
      aside = self._path.with_name(DAMAGED)
      before = aside.read_bytes() if aside.exists() else b''
      write_whole(aside, before + b''.join(line + b'\n' for line in damaged.values()))
      _warn(self._path, damaged, f'moved to {DAMAGED}')
    return rows

  def _end_row(self) -> None:
    if self._row is None:
      return
    line = _line(self._row)
    self._size += len(line.encode())
    if not self._is_local:
      self._lines.append(line)

  def _put_row(self) -> None:
    """Overwrites the last line; an evaluation only makes it longer."""
    if not self._is_local:
      return
    with _named_errors(self._path), open(self._path, 'r+b') as f:  # epath knows no such mode
      f.seek(self._size)
      f.write(_line(self._row).encode())

  def _add_events(self, step: int, values: Mapping[str, float]) -> None:
    # TensorBoard allows no @ in names: recall@10 appears as recall_10.
    scalars = [
      summary_pb2.Summary.Value(tag=name.replace('@', '_'), simple_value=value)
      for name, value in values.items()
    ]
    self._put_event(step=step, summary=summary_pb2.Summary(value=scalars))
    if self._also is not None:
      self._also(step, values)

  def _put_event(self, **fields) -> None:
    with _named_errors(self._folder):
      self._events.write_event(event_pb2.Event(wall_time=time.time(), **fields))


@contextlib.contextmanager
def _named_errors(path: epath.Path) -> Iterator[None]:
  """Adds path and remedy to the message of a disk error."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f'{path} could not be written: {error}. Checkpoints are untouched; free or repair the disk, then '
      'start the same command again'
    ) from error
