"""Measures data preparation: co-occurrence, logs with millions of interactions, semantic neighbours.

Command:  python -m bench.prep --raw_dir=FOLDER   (the raw files of Amazon Sports; several minutes)
"""

import collections
from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import multiprocessing
import pathlib
import tempfile
import time
from typing import Any

from absl import app, flags
from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from data_prep import stage as stage_lib
from data_prep.log import arrays as arrays_lib
from data_prep.log import interactions, log_writer, splits
from data_prep.relations import semantic_neighbours
from data_prep.relations import stage as relation_stage
from data_prep.sources.amazon import Amazon
from recjax import config as config_lib
from recjax.data.cooccurrence import cooccurrence_counts
from recjax.data.sequences import Sequences
from recjax.schema.items import Relations

GIB = 2**30
ROWS = 5_000_000  # of a raw file
RAW, LOG = 'the raw files', 'the log stage'  # parts


class Meter:
  """Measures time and memory of the parts of a process.

  Attributes:
    parts: for each part by name: wall seconds, CPU seconds, and the process's peak of resident memory during the
      part, in GiB.
  """

  def __init__(self):
    self.parts: dict[str, dict[str, float]] = {}
    self._open: list[float] = []  # peaks of the parts that are being measured

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Measures the body of a `with` statement as the part `name`; parts may be nested."""
    self._note_peak()
    self._open.append(0.0)
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    self._note_peak()
    peak = self._open.pop()
    self.parts[name] = {'seconds': seconds, 'cpu_seconds': cpu_seconds, 'peak_gib': peak}

  def _note_peak(self) -> None:
    """Adds the peak since the last call to all open parts."""
    status = pathlib.Path('/proc/self/status').read_text()
    peak = int(status.split('VmHWM:')[1].split()[0]) * 1024 / GIB
    self._open = [max(peak, other) for other in self._open]
    # Writing 5 resets the peak of this process in Linux.
    pathlib.Path('/proc/self/clear_refs').write_text('5')


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


def measure_log(num_rows: int, place: str, num_items: int | None = None) -> dict[str, Any]:
  """Prepares a random log in `place` up to the collaborative relations, like `--mode=prepare`."""
  meter, folder, raw_dir = Meter(), stage_lib.Folder(place), pathlib.Path(place) / 'raw'
  config = config_lib.defaults(source='table', name='bench')
  config.mixture.near = config_lib.component('collaborative_neighbours')
  config.relations.backfill = False
  config = config_lib.from_config_dict(config)
  data = config.data
  raw_dir.mkdir()
  with meter.part(RAW):
    write_raw(raw_dir, num_rows, num_items)

  def run(out: epath.Path) -> dict[str, Any]:
    scratch = arrays_lib.Scratch(out)
    with meter.part('read'):
      raw = data.load_into(scratch, epath.Path(raw_dir))
    with meter.part('5-core, sorted'):
      records = raw.item_records
      log = interactions.clean(raw, 5, 'drop', scratch=scratch)
      del raw
    with meter.part('split'):
      arrays = splits.split(log, 'leave_one_out', (), 0)
    with meter.part('artifacts'):
      return log_writer.write(log, arrays, records, out)

  start = time.perf_counter()
  with meter.part(LOG):
    folder.run(stage_lib.Stage('interactions', run))
  with meter.part('co-occurrence, top 10'):
    folder.run(relation_stage.stage(config, folder.prepared))
  summary = stage_lib.read_manifest(folder.prepared / 'interactions')['summary']
  return {
    'interactions': num_rows,
    'kept': {name: summary[name] for name in ('interactions', 'users', 'items')},
    'parts': meter.parts,
    'seconds': time.perf_counter() - start,
    'peak_gib': max(part['peak_gib'] for part in meter.parts.values()),
  }


def measure_sports(raw_dir: str) -> dict[str, Any]:
  """Counts co-occurrence in the training part of Sports, with our code and with a loop over dictionaries."""
  data = Amazon(source='amazon2014', name='sports', category='Sports_and_Outdoors')
  log = interactions.clean(data.load(epath.Path(raw_dir)), 5)
  arrays = splits.split(log, 'leave_one_out', (), 0)
  train = Sequences(arrays['train_items'], arrays['train_offsets'])
  users = [train[u].tolist() for u in range(len(train))]
  num_items = len(log.item_ids)
  ours, counts = _seconds(lambda: cooccurrence_counts(train, num_items, 5, 'none'), repeats=9)
  loop, looped = _seconds(lambda: loop_counts(users, 5), repeats=3)
  lists, _ = _seconds(
    lambda: relation_stage.collaborative(train, num_items, Relations()), repeats=3
  )
  if {(i, j): n for i, row in looped.items() for j, n in row.items()} != dict(counts.todok()):
    raise AssertionError('the loop must count the same pairs')
  return {
    'interactions': len(train.values),
    'pairs': counts.nnz,
    'seconds': ours,
    'loop_seconds': loop,
    'ratio': loop / ours,
    'seconds_with_top_10': lists,
  }


def loop_counts(users: list[list[int]], window: int) -> dict[int, dict[int, int]]:
  """Counts co-occurrence with a plain loop over dictionaries."""
  counts = collections.defaultdict(lambda: collections.defaultdict(int))
  for items in users:
    for position, item in enumerate(items):
      for other in items[position + 1 : position + 1 + window]:
        if other != item:
          counts[item][other] += 1
          counts[other][item] += 1
  return counts


def _seconds(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
  """Returns the seconds of the fastest run, and the result of the last one."""
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    result = run()
    seconds.append(time.perf_counter() - start)
  return min(seconds), result


def measure_semantic(num_items: int, width: int) -> dict[str, Any]:
  """Measures the search for the ten nearest neighbours of random vectors."""
  vectors_ID = np.random.default_rng(0).normal(size=(num_items, width)).astype(np.float32)
  meter = Meter()
  with meter.part('semantic'):
    semantic_neighbours.semantic(vectors_ID, 10)
  return {'items': num_items, 'width': width, **meter.parts['semantic']}


def in_a_child(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
  """Runs a function in a new process, whose peak memory is only that of the function."""
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
    return pool.submit(function, *args).result()


def _print_logs(logs: list[dict[str, Any]]) -> None:
  print(f'{"wall s, CPU s, peak GiB":<24}' + ''.join(f'{log["interactions"]:>26,}' for log in logs))
  for name in logs[0]['parts']:
    parts = [log['parts'][name] for log in logs]
    cells = (f'{p["seconds"]:>9.1f} {p["cpu_seconds"]:>8.1f} {p["peak_gib"]:>7.2f}' for p in parts)
    print(f'{name:<24}' + ''.join(cells))
  for name in (LOG, 'co-occurrence, top 10'):
    rates = [1e6 * log['parts'][name]['cpu_seconds'] / log['interactions'] for log in logs]
    print(f'{"CPU s per million:":<24}' + ''.join(f'{rate:>26.2f}' for rate in rates) + f'  {name}')


def _define_flags() -> None:
  """Defines the flags only in the command: tests and child processes import this module too."""
  from bench import circumstances  # noqa: F401 - defines --out and --commit

  flags.DEFINE_list('parts', ['sports', 'logs', 'semantic'], 'Parts to measure.')
  flags.DEFINE_string('raw_dir', None, 'sports: folder of its raw files.')
  flags.DEFINE_list('rows', ['3e6', '10e6', '30e6'], 'logs: interactions of each log.')
  flags.DEFINE_integer(
    'items', None, 'logs: items of each; None: a tenth of the rows, at most 3e6.'
  )
  flags.DEFINE_string('scratch', None, 'logs: folder to write to; None: a temporary folder.')
  flags.DEFINE_list('vectors', ['100000', '384'], 'semantic: items and width.')


def main(_) -> None:
  from bench.circumstances import circumstances, write

  result: dict[str, Any] = {'circumstances': circumstances()}
  if 'sports' in flags.FLAGS.parts:
    if flags.FLAGS.raw_dir is None:
      raise app.UsageError('--raw_dir must name the folder of the raw files of Sports')
    sports = result['sports'] = in_a_child(measure_sports, flags.FLAGS.raw_dir)
    for name, value in sports.items():
      print(f'{name:<24}{value:>11,.3f}')
  if 'logs' in flags.FLAGS.parts:
    logs = result['logs'] = []
    for rows in flags.FLAGS.rows:
      with tempfile.TemporaryDirectory(dir=flags.FLAGS.scratch) as folder:
        logs.append(in_a_child(measure_log, round(float(rows)), folder, flags.FLAGS.items))
    _print_logs(logs)
  if 'semantic' in flags.FLAGS.parts:
    near = result['semantic'] = in_a_child(measure_semantic, *map(int, flags.FLAGS.vectors))
    print(
      f'the 10 nearest of {near["items"]:,} × {near["width"]}: {near["seconds"]:.1f} s '
      f'({near["cpu_seconds"]:.1f} CPU s), '
      f'{near["peak_gib"]:.2f} GiB'
    )
  write(result)


if __name__ == '__main__':
  _define_flags()
  app.run(main)
