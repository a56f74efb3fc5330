"""Metrics of a run: metrics.jsonl, one line a step, and TensorBoard event files."""

from collections.abc import Iterator, Mapping
import contextlib
import json
import math
import os
import time

from etils import epath
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2, summary_pb2

FILE = 'metrics.jsonl'
FOLDER = 'tensorboard'
EVALUATION = 'validation/'  # prefix of the metrics of an evaluation during training


def read_metrics(workdir: epath.PathLike) -> list[dict]:
  """The lines of metrics.jsonl in order: `step` and the metrics of that step.

  A last line that was cut off by a kill is left out; a value that was not finite is None.

  Raises:
    ValueError: another line is not an object with a step; the message names file and line.
  """
  path = epath.Path(workdir) / FILE
  if not path.exists():
    return []
  lines = path.read_text().splitlines()
  rows = []
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      if number == len(lines):  # torn
        break
      raise ValueError(f'{path}, line {number}, must be a JSON object; {error}') from error
    if not isinstance(row, dict) or not isinstance(row.get('step'), int):
      raise ValueError(f'{path}, line {number}, must be an object with a step; got {line[:80]!r}')
    rows.append(row)
  return rows


def _line(row: Mapping[str, float]) -> str:
  numbers = {name: v if isinstance(v, int) else float(v) for name, v in row.items()}
  finite = {name: v if math.isfinite(v) else None for name, v in numbers.items()}  # JSON has no NaN
  return json.dumps(finite, allow_nan=False) + '\n'


class Writer:
  """Writes each step exactly once, also where a run is killed and continued.

  Opening drops the lines after `start_step`, which the continued run computes again, and a torn last
  line; TensorBoard is told to drop those events as well. On a local disk every line is written at
  once. On an object store, where nothing can be appended, lines gather until `flush`.

  Attributes:
    workdir: the folder of the run; metrics.jsonl and tensorboard/ appear in it.
    start_step: steps that are done; the first one written is later.
    enabled: False makes every call a no-op, for hosts other than the first.
  """

  def __init__(self, workdir: epath.PathLike, start_step: int, enabled: bool = True):
    self._enabled = enabled
    self._step = start_step
    self._row: dict[str, float] | None = None  # the last line, which an evaluation may extend
    if not enabled:
      return
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self._path = workdir / FILE
    self._is_local = '://' not in os.fspath(self._path)
    kept = [row for row in read_metrics(workdir) if row['step'] <= start_step]
    lines = [json.dumps(row) + '\n' for row in kept]
    self._replace(lines)
    if kept and kept[-1]['step'] == start_step:
      self._row = kept[-1]
      lines = lines[:-1]
    self._lines = lines  # before the last; grows on a store only
    self._size = sum(len(line.encode()) for line in lines)  # where the last line begins
    self._folder = workdir / FOLDER
    self._folder.mkdir(exist_ok=True)
    # tensorboardX's SummaryWriter writes in a thread, and waits for ever once that failed at a full disk.
    # The name holds a second and the host; two starts within a second must not share a file.
    with _naming(self._folder):
      self._events = event_file_writer.EventsWriter(
        os.fspath(self._folder / 'events'), f'.{start_step}.{os.getpid()}.{os.urandom(3).hex()}'
      )
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._put_event(
      step=start_step + 1, session_log=start
    )  # hides what came after in earlier files

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
    self._step, self._row = step, {'step': step, **values}
    self._put_row()
    self._add_events(step, values)

  def write_evaluation(self, step: int, values: Mapping[str, float]) -> None:
    """Adds the metrics of an evaluation to the line of the step that was written last.

    They appear as `validation/<name>`, on disk when this returns.

    Raises:
      ValueError: another step was written last.
    """
    if not self._enabled:
      return
    if self._row is None or step != self._step:
      raise ValueError(
        f'an evaluation must follow the metrics of its step {step}; got {self._step}'
      )
    values = {EVALUATION + name: value for name, value in values.items()}
    self._row |= values
    self._put_row()
    self._add_events(step, values)
    self.flush()

  def flush(self) -> None:
    """Puts everything written so far where a kill cannot lose it; call it before a checkpoint."""
    if not self._enabled:
      return
    if not self._is_local:
      self._replace([*self._lines, *([_line(self._row)] if self._row else [])])
    with _naming(self._folder):
      self._events.flush()

  def close(self) -> None:
    """Flushes and closes the event file."""
    if self._enabled:
      try:
        self.flush()
      finally:
        self._enabled = False
        with _naming(self._folder):
          self._events.close()

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _end_row(self) -> None:
    if self._row is None:
      return
    line = _line(self._row)
    self._size += len(line.encode())
    if not self._is_local:
      self._lines.append(line)

  def _put_row(self) -> None:
    """Writes the last line, over its earlier form if it has one."""
    if not self._is_local:
      return
    with _naming(self._path), open(self._path, 'r+b') as f:  # epath knows no such mode
      f.seek(self._size)
      f.write(_line(self._row).encode())  # only ever longer: nothing of the old line stays

  def _replace(self, lines: list[str]) -> None:
    partial = self._path.with_name(f'.{FILE}.partial')
    partial.write_text(''.join(lines))
    partial.replace(self._path)

  def _add_events(self, step: int, values: Mapping[str, float]) -> None:
    # TensorBoard allows no @ in names: recall@10 appears as recall_10.
    scalars = [
      summary_pb2.Summary.Value(tag=name.replace('@', '_'), simple_value=value)
      for name, value in values.items()
    ]
    self._put_event(step=step, summary=summary_pb2.Summary(value=scalars))

  def _put_event(self, **fields) -> None:
    with _naming(self._folder):
      self._events.write_event(event_pb2.Event(wall_time=time.time(), **fields))


@contextlib.contextmanager
def _naming(path: epath.Path) -> Iterator[None]:
  """An error of the disk says what could not be written, and what to do."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f'{path} could not be written: {error}. Checkpoints are not touched; make room there or mend it, '
      'then start the same command again'
    ) from error
