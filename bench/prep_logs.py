"""Time and memory of the preparation of logs with millions of interactions: the part `logs` of `bench.prep`.

Every log is written once. Each engine then prepares it, from the raw files to the collaborative relations, in a process
of its own, and must write the same bytes.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import tempfile
import threading
import time
from typing import Any
from unittest import mock

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from bench.own_memory import workers_bytes
from data_prep import engine as engine_lib
from data_prep import sources
from data_prep import stage as stage_lib
from data_prep.log import arrays as arrays_lib
from data_prep.log import interactions, log_writer, splits
from recjax import config as config_lib

GIB = 2**30
ROWS = 5_000_000  # of a raw file
LOG, RELATIONS = 'the log stage', 'co-occurrence, top 10'  # parts
LOCAL, BEAM = 'local', 'beam'


class Meter:
  """Measures time and memory of the parts of a process. A part of several runs has the sum of their times.

  Attributes:
    parts: for each part by name: wall seconds, CPU seconds of this process and of workers that ended, and the peaks
      during the part, in GiB: the resident memory of this process, and that of all workers together.
  """

  def __init__(self):
    self.parts: dict[str, dict[str, float]] = {}
    self._open: list[float] = []  # peaks of the parts that are being measured

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Measures the body of a `with` statement as the part `name`; parts may be nested."""
    self._note_peak()
    self._open.append(0.0)
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    with _watched() as workers:
      yield
    seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - cpu_start
    self._note_peak()
    peak = self._open.pop()
    found = self.parts.setdefault(name, dict.fromkeys(('seconds', 'cpu_seconds'), 0.0))
    found['seconds'] += seconds
    found['cpu_seconds'] += cpu_seconds
    found['peak_gib'] = max(found.get('peak_gib', 0), peak)
    found['workers_gib'] = max(found.get('workers_gib', 0), workers[0] / GIB)

  def _note_peak(self) -> None:
    """Adds the peak since the last call to all open parts."""
    status = pathlib.Path('/proc/self/status').read_text()
    peak = int(status.split('VmHWM:')[1].split()[0]) * 1024 / GIB
    self._open = [max(peak, other) for other in self._open]
    # Writing 5 resets the peak of this process in Linux.
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def _cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return time.process_time() + used.ru_utime + used.ru_stime


@contextlib.contextmanager
def _watched() -> Iterator[list[int]]:
  """Yields a list of one number: the largest memory of all processes that this process started, in bytes."""
  peak, ended = [0], threading.Event()

  def watch() -> None:
    while not ended.wait(0.2):
      peak[0] = max(peak[0], workers_bytes())

  watcher = threading.Thread(target=watch)
  watcher.start()
  try:
    yield peak
  finally:
    ended.set()
    watcher.join()


def write_raw(folder: pathlib.Path, num_rows: int, num_items: int | None = None) -> None:
  """Writes a random log in the order of time, as numbered Parquet files, and its item table.

  Four fifths of the rows are spread evenly over n / 10 users, the others over as many visitors, most of whom a 5-core
  filter drops. 60 % of the rows are spread evenly over the items, the others follow Zipf's law. Ids are texts of 13
  and 10 characters.

  Args:
    folder: an empty folder.
    num_rows: n.
    num_items: None: n / 10, at most 3 million.
  """
  rng = np.random.default_rng(0)
  num_items = num_items or max(min(num_rows // 10, 3_000_000), 2)
  num_users = max(num_rows // 10, 2)
  law = np.cumsum(1 / np.arange(1, num_items + 1))
  starts = range(0, num_rows, ROWS)
  for shard, start in enumerate(starts):
    count = min(ROWS, num_rows - start)
    users = rng.integers(0, num_users, count) + num_users * (rng.random(count) < 0.2)
    popular = np.searchsorted(law, rng.random(count) * law[-1])
    items = np.where(rng.random(count) < 0.6, rng.integers(0, num_items, count), popular)
    columns = {
      'user': _ids('A', 12, users),
      'item': _ids('B', 9, np.minimum(items, num_items - 1)),
      'time': 1_400_000_000 + 5 * np.arange(start, start + count),
      'rating': rng.integers(1, 6, count).astype(np.float32),
    }
    path = folder / f'interactions-{shard:05d}-of-{len(starts):05d}.parquet'
    pyarrow.parquet.write_table(pa.table(columns), path)
  ids = _ids('B', 9, np.arange(num_items))
  titles = pa.array([f'Item {n} of brand {n % 997}' for n in range(num_items)])
  pyarrow.parquet.write_table(pa.table({'item': ids, 'title': titles}), folder / 'items.parquet')


def _ids(letter: str, digits: int, numbers: np.ndarray) -> pa.Array:
  """Returns ids whose order differs from that of their numbers."""
  scattered = numbers.astype(np.uint64) * np.uint64(0x9E3779B97) % np.uint64(16**9)
  shifts = np.arange(4 * (digits - 1), -1, -4, dtype=np.uint64)
  hexadecimal = np.frombuffer(b'0123456789ABCDEF', np.uint8)
  characters = np.empty((len(numbers), digits + 1), np.uint8)
  characters[:, 0] = ord(letter)
  characters[:, 1:] = hexadecimal[(scattered[:, None] >> shifts) & np.uint64(15)]
  ends = np.arange(len(numbers) + 1, dtype=np.int32) * (digits + 1)
  buffers = [None, pa.py_buffer(ends), pa.py_buffer(characters)]
  return pa.Array.from_buffers(pa.string(), len(numbers), buffers)


def parsed(text: str) -> tuple[str, int]:
  """Returns the engine and the number of its workers: 'local', 'beam' or 'beam:4'.

  Raises:
    ValueError: it is another text, or Beam is not installed.
  """
  name, _, count = text.partition(':')
  if name not in (LOCAL, BEAM) or (count and (name == LOCAL or not count.isdecimal())):
    raise ValueError(f'--engines must be of local, beam, beam:4 and so on; got {text!r}')
  engine_lib.check_ready(_config('.', name, 1).data)
  return name, int(count or 1)


def _config(raw_dir: str | os.PathLike, name: str, workers: int) -> config_lib.Config:
  config = config_lib.defaults(source='table', name='bench')
  config.mixture.near = config_lib.component('collaborative_neighbours')
  config.relations.backfill = False
  config.data.duplicates, config.data.raw_dir = 'drop', os.fspath(raw_dir)
  config.data.engine = name
  if workers > 1:
    config.data.beam_options = (
      f'--direct_num_workers={workers} --direct_running_mode=multi_processing'
    )
  return config_lib.from_config_dict(config)


def measure(raw_dir: str, place: str, name: str = LOCAL, workers: int = 1) -> dict[str, Any]:
  """Prepares a log in `place` up to the collaborative relations, like `--mode=prepare`."""
  meter, folder, config = Meter(), stage_lib.Folder(place), _config(raw_dir, name, workers)
  data, raw = config.data, epath.Path(raw_dir)
  made = engine_lib.stage(sources.get(data.source), data, raw)

  def run(out: epath.Path) -> dict[str, Any]:
    scratch = arrays_lib.Scratch(out)
    with meter.part('read'):
      found = data.load_into(scratch, raw)
    with meter.part('5-core, sorted'):
      records = found.item_records
      log = interactions.clean(found, data.k_core, data.duplicates, scratch=scratch)
      del found
    with meter.part('split'):
      arrays = splits.split(log, data.split, (), 0)
    with meter.part('artifacts'):
      return log_writer.write(log, arrays, records, out)

  start = time.perf_counter()
  with _measured_pipelines(meter) if name == BEAM else contextlib.nullcontext():
    with meter.part(LOG):
      folder.run(made if name == BEAM else dataclasses.replace(made, run=run))
    with meter.part(RELATIONS):
      folder.run(engine_lib.relation_stage(config, folder.prepared))
  summary = stage_lib.read_manifest(folder.prepared / 'interactions')['summary']
  return {
    'engine': name,
    'workers': workers,
    'kept': {name: summary[name] for name in ('interactions', 'users', 'items')},
    'parts': meter.parts,
    'seconds': time.perf_counter() - start,
    'peak_gib': max(part['peak_gib'] for part in meter.parts.values()),
    'workers_gib': max(part['workers_gib'] for part in meter.parts.values()),
  }


@contextlib.contextmanager
def _measured_pipelines(meter: Meter) -> Iterator[None]:
  """Measures every pipeline of Beam as a part."""
  from data_prep.beam import pipelines  # here: it needs Apache Beam

  run = pipelines.run

  def measured(job, options, name: str, build) -> None:
    with meter.part(f'pipeline {name}'):
      run(job, options, name, build)

  with mock.patch.object(pipelines, 'run', measured):
    yield


def manifests(place: str) -> dict[str, Any]:
  """Returns the manifests of the stages, which hold size and SHA-256 of every file."""
  found = sorted(pathlib.Path(place).glob('*/manifest.json'))
  return {path.parent.name: json.loads(path.read_text()) for path in found}


def measured(
  in_a_child: Callable[..., Any],
  sizes: Sequence[int],
  engines: Sequence[tuple[str, int]],
  scratch: str | None,
  num_items: int | None = None,
) -> Iterator[dict[str, Any]]:
  """Yields what every engine takes on a log of every size.

  Args:
    in_a_child: calls a function in a new process.
    sizes: numbers of interactions.
    engines: names and numbers of workers.
    scratch: local folder to write to; None: that of temporary files.
    num_items: see `write_raw`.

  Raises:
    AssertionError: two engines wrote different bytes.
  """
  for num_rows in sizes:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
      raw_dir, first = pathlib.Path(folder, 'raw'), None
      raw_dir.mkdir()
      in_a_child(write_raw, raw_dir, num_rows, num_items)
      for name, workers in engines:
        place = os.path.join(folder, 'prepared')
        found = in_a_child(measure, os.fspath(raw_dir), place, name, workers)
        written = manifests(place)
        shutil.rmtree(place)
        first = first or written
        if written != first:
          raise AssertionError(f'{name} must write the bytes of {engines[0][0]}; it does not')
        yield {'interactions': num_rows} | found


def text(result: dict[str, Any]) -> str:
  """Returns the measured parts of a log as lines."""
  count, workers = result['interactions'], result['workers']
  label = f'{result["engine"]}, {workers} workers' if workers > 1 else result['engine']
  lines = [f'{count:,} interactions, {label}: wall s, CPU s, peak GiB of it and of its workers']
  for name, part in result['parts'].items():
    lines.append(
      f'  {name:<24}{part["seconds"]:>9.1f}{part["cpu_seconds"]:>9.1f}{part["peak_gib"]:>7.2f}'
      f'{part["workers_gib"]:>7.2f}'
    )
  rates = (1e6 * result['parts'][name]['cpu_seconds'] / count for name in (LOG, RELATIONS))
  lines.append('  CPU s per million: {:.2f} for the log, {:.2f} for co-occurrence'.format(*rates))
  return '\n'.join(lines)
