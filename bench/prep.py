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

from data_prep import stage as stage_lib
from data_prep.log import interactions, log_writer, raw_log, splits
from data_prep.relations import semantic_neighbours
from data_prep.relations import stage as relation_stage
from data_prep.sources.amazon import Amazon
from recjax import config as config_lib
from recjax.data.cooccurrence import cooccurrence_counts
from recjax.data.sequences import Sequences
from recjax.schema.items import Relations

GIB = 2**30


class Meter:
  """Measures time and memory of the parts of a process.

  Attributes:
    parts: for each part by name: wall seconds, CPU seconds, and the process's peak of resident memory during the
      part, in GiB.
  """

  def __init__(self):
    self.parts: dict[str, dict[str, float]] = {}

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Measures the body of a `with` statement as the part `name`."""
    # Writing 5 resets the peak of this process in Linux.
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    status = pathlib.Path('/proc/self/status').read_text()
    peak = int(status.split('VmHWM:')[1].split()[0]) * 1024
    self.parts[name] = {'seconds': seconds, 'cpu_seconds': cpu_seconds, 'peak_gib': peak / GIB}


def synthetic_log(num_interactions: int, seed: int = 0) -> raw_log.RawLog:
  """Returns a random log in the order of time, with n / 10 items and n / 8 users.

  60 % of the interactions are spread evenly over the items, the others follow Zipf's law. Users have at least
  4 interactions and 8 on average, so that a 5-core filter keeps most of the log.
  """
  rng = np.random.default_rng(seed)
  num_items, num_users = num_interactions // 10, num_interactions // 8
  lengths = 3 + rng.geometric(0.2, num_users + num_users // 50)
  users = np.repeat(np.arange(len(lengths)), lengths)[:num_interactions]
  law = np.cumsum(1 / np.arange(1, num_items + 1))
  even = np.tile(np.arange(num_items), 6)
  popular = np.searchsorted(law, rng.random(num_interactions - len(even)) * law[-1])
  items = rng.permutation(np.concatenate([even, popular]))
  order = rng.permutation(num_interactions)
  return raw_log.RawLog(
    users=_ids('A', 12, len(lengths))[users[order]],
    items=(item_ids := _ids('B', 9, num_items))[items],
    times=1_400_000_000 + np.arange(num_interactions) * 5,
    item_records={
      item: {'title': f'Item {item} of brand {n % 997}'} for n, item in enumerate(item_ids)
    },
  )


def _ids(letter: str, digits: int, number: int) -> np.ndarray:
  """Returns ids whose order differs from that of their numbers."""
  scattered = np.arange(number, dtype=np.uint64) * np.uint64(0x9E3779B97) % np.uint64(16**9)
  return np.array([f'{letter}{n:0{digits}X}' for n in scattered.tolist()])


def measure_log(num_interactions: int, place: str) -> dict[str, Any]:
  """Prepares a random log in `place` up to the collaborative relations, like `--mode=prepare`."""
  meter, folder = Meter(), stage_lib.Folder(place)
  config = config_lib.defaults(source='synthetic', name='bench')
  config.mixture.near = config_lib.component('collaborative_neighbours')
  config.relations.backfill = False
  config = config_lib.from_config_dict(config)
  with meter.part('the log itself'):
    raw = [synthetic_log(num_interactions)]

  def run(out: epath.Path) -> dict[str, Any]:
    records = raw[0].item_records
    with meter.part('5-core, sorted'):
      log = interactions.clean(raw[0], 5)
    raw.clear()
    with meter.part('split'):
      arrays = splits.split(log, 'leave_one_out', (), 0)
    with meter.part('artifacts'):
      return log_writer.write(log, arrays, records, out)

  start = time.perf_counter()
  folder.run(stage_lib.Stage('interactions', run))
  written = time.perf_counter() - start
  with meter.part('co-occurrence, top 10'):
    folder.run(relation_stage.stage(config, folder.prepared))
  inside = sum(meter.parts[name]['seconds'] for name in ('5-core, sorted', 'split', 'artifacts'))
  summary = stage_lib.read_manifest(folder.prepared / 'interactions')['summary']
  return {
    'interactions': num_interactions,
    'kept': {name: summary[name] for name in ('interactions', 'users', 'items')},
    'parts': meter.parts,
    'hashes_seconds': written - inside,
    'seconds': written + meter.parts['co-occurrence, top 10']['seconds'],
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
  print(f'{"":<24}' + ''.join(f'{log["interactions"]:>22,}' for log in logs))
  for name in logs[0]['parts']:
    parts = [log['parts'][name] for log in logs]
    print(
      f'{name:<24}' + ''.join(f'{p["seconds"]:>11.2f} s {p["peak_gib"]:5.2f} GiB' for p in parts)
    )
  print(f'{"hashes":<24}' + ''.join(f'{log["hashes_seconds"]:>11.2f} s {"":9}' for log in logs))
  print(
    f'{"all but the log itself":<24}'
    + ''.join(f'{log["seconds"]:>11.2f} s {log["peak_gib"]:5.2f} GiB' for log in logs)
  )
  per_million = [1e6 * log['seconds'] / log['interactions'] for log in logs]
  print(f'{"seconds per million":<24}' + ''.join(f'{s:>11.2f} s {"":9}' for s in per_million))


def _define_flags() -> None:
  """Defines the flags only in the command: tests and child processes import this module too."""
  from bench import circumstances  # noqa: F401 - defines --out and --commit

  flags.DEFINE_list('parts', ['sports', 'logs', 'semantic'], 'Parts to measure.')
  flags.DEFINE_string('raw_dir', None, 'sports: folder of its raw files.')
  flags.DEFINE_list('millions', ['1', '3', '10'], 'logs: interactions of each log, in millions.')
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
    for millions in flags.FLAGS.millions:
      with tempfile.TemporaryDirectory(dir=flags.FLAGS.scratch) as folder:
        logs.append(in_a_child(measure_log, round(1e6 * float(millions)), folder))
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
