"""Measures data preparation: co-occurrence, logs with millions of interactions by each engine, semantic neighbours.

Command:  python -m bench.prep --raw_dir=FOLDER   (the raw files of Amazon Sports; several minutes)
          python -m bench.prep --parts=logs --engines=local,beam:4 --rows=3e6,10e6,30e6 --scratch=FOLDER
"""

import collections
from collections.abc import Callable
from concurrent import futures
import multiprocessing
import time
from typing import Any

from absl import app, flags
from etils import epath
import numpy as np

from bench import prep_logs
from data_prep.log import interactions, splits
from data_prep.relations import collaborative, semantic_neighbours
from data_prep.sources.amazon import Amazon
from recjax.data.cooccurrence import cooccurrence_counts
from recjax.data.sequences import Sequences
from recjax.schema.items import Relations


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
  lists, _ = _seconds(lambda: collaborative.collaborative(train, num_items, Relations()), repeats=3)
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
  meter = prep_logs.Meter()
  with meter.part('semantic'):
    semantic_neighbours.semantic(vectors_ID, 10)
  return {'items': num_items, 'width': width, **meter.parts['semantic']}


def in_a_child(function: Callable[..., Any], *args: Any) -> Any:
  """Runs a function in a new process, whose peak memory is only that of the function."""
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
    return pool.submit(function, *args).result()


def _define_flags() -> None:
  """Defines the flags only in the command: tests and child processes import this module too."""
  from bench import circumstances  # noqa: F401 - defines --out and --commit

  flags.DEFINE_list('parts', ['sports', 'logs', 'semantic'], 'Parts to measure.')
  flags.DEFINE_string('raw_dir', None, 'sports: folder of its raw files.')
  flags.DEFINE_list('rows', ['3e6', '10e6', '30e6'], 'logs: interactions of each log.')
  flags.DEFINE_list(
    'engines', ['local'], 'logs: local, beam (one process), beam:4 (four workers) and so on.'
  )
  flags.DEFINE_integer(
    'items', None, 'logs: items of each; None: a tenth of the rows, at most 3e6.'
  )
  flags.DEFINE_string('scratch', None, 'logs: folder to write to; None: a temporary folder.')
  flags.DEFINE_list('vectors', ['100000', '384'], 'semantic: items and width.')


def main(_) -> None:
  from bench.circumstances import circumstances, write

  values = flags.FLAGS
  result: dict[str, Any] = {'circumstances': circumstances()}
  try:
    engines = [prep_logs.parsed(text) for text in values.engines]
  except ValueError as error:
    raise app.UsageError(str(error)) from None
  if 'sports' in values.parts:
    if values.raw_dir is None:
      raise app.UsageError('--raw_dir must name the folder of the raw files of Sports')
    sports = result['sports'] = in_a_child(measure_sports, values.raw_dir)
    for name, value in sports.items():
      print(f'{name:<24}{value:>11,.3f}')
  if 'logs' in values.parts:
    sizes = [round(float(rows)) for rows in values.rows]
    result['logs'] = []
    for log in prep_logs.measured(in_a_child, sizes, engines, values.scratch, values.items):
      print(prep_logs.text(log), flush=True)
      result['logs'].append(log)
      write(result)  # after every log, because the largest takes long
  if 'semantic' in values.parts:
    near = result['semantic'] = in_a_child(measure_semantic, *map(int, values.vectors))
    print(
      f'the 10 nearest of {near["items"]:,} × {near["width"]}: {near["seconds"]:.1f} s '
      f'({near["cpu_seconds"]:.1f} CPU s), '
      f'{near["peak_gib"]:.2f} GiB'
    )
  write(result)


if __name__ == '__main__':
  _define_flags()
  app.run(main)
