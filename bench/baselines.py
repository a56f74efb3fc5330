"""Measures every baseline: metrics on logs of Amazon 2014, time and memory on a made-up log.

Command:  python -m bench.baselines --raw_dirs=beauty=FOLDER,sports=FOLDER --made_up=2000000,100000 --out=results/baselines.json

Leave-one-out over the logs with a 5-core filter, all users, items of the history removed. `seconds` are those of the
test rows, `cpu_seconds` the same on all cores together; BPR's hold its training. `estimate` is what the cost rule of
`eval.baselines` expects. The peak of memory is that of the process of one log, with the baselines in the order of the
table.
"""

import pathlib
import resource
import time
from typing import Any

from absl import app, flags
from etils import epath
import numpy as np

from bench.prep import in_a_child
from bench.prep_logs import GIB
from data_prep.log import interactions, splits
from data_prep.sources.amazon import Amazon
from recjax.baselines import BASELINES
from recjax.baselines.split import Split
from recjax.data.sequences import Sequences, offsets_of
from recjax.metrics import ranking

CATEGORIES = {'beauty': 'Beauty', 'sports': 'Sports_and_Outdoors', 'toys': 'Toys_and_Games'}
K = 20
METRICS = ('recall@5', 'recall@10', 'recall@10_stderr', 'ndcg@10')


def amazon(name: str, raw_dir: str) -> dict[str, tuple[Split, np.ndarray]]:
  """Returns the validation and the test rows of a log, with their targets."""
  data = Amazon(source='amazon2014', name=name, category=CATEGORIES[name])
  log = interactions.clean(data.load(epath.Path(raw_dir)), 5)
  arrays = splits.split(log, 'leave_one_out', (), 0)
  train = Sequences(arrays['train_items'], arrays['train_offsets'])
  histories = {'validation': train, 'test': train.append(arrays['validation_items'])}
  return {
    split: (Split(train, rows, rows, len(log.item_ids), K), arrays[f'{split}_items'])
    for split, rows in histories.items()
  }


def made_up(num_interactions: int, num_items: int) -> dict[str, tuple[Split, np.ndarray]]:
  """Returns the rows of a random log: users of about ten interactions, 60 % of them near one place in the catalogue.

  The others follow a law of popularity, 1 / (rank + 50).
  """
  rng = np.random.default_rng(0)
  lengths = np.minimum(2 + rng.geometric(1 / 8, num_interactions // 10), 200)
  offsets = offsets_of(lengths)
  law = np.cumsum(1 / (np.arange(num_items) + 50))
  popular = rng.permutation(num_items)[np.searchsorted(law, rng.random(offsets[-1]) * law[-1])]
  places = np.repeat(rng.integers(0, num_items, len(lengths)), lengths)
  near = (places + np.round(rng.standard_cauchy(offsets[-1]) * 20).astype(np.int64)) % num_items
  items = np.where(rng.random(offsets[-1]) < 0.6, near, popular).astype(np.int32)
  train = Sequences(items, offsets)
  targets = rng.integers(0, num_items, len(lengths)).astype(np.int32)
  return {'test': (Split(train, train, train, num_items, K), targets)}


def measure(rows: dict[str, tuple[Split, np.ndarray]], names: list[str]) -> dict[str, Any]:
  """Returns sizes of a log, and for every baseline its metrics by split, its time, its estimate and the memory."""
  test = rows['test'][0]
  found = {}
  for name in names:
    baseline = BASELINES[name]
    start, cpu = time.perf_counter(), time.process_time()
    ranked = {'test': baseline.recommend(test)}
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    ranked |= {split: baseline.recommend(rows[split][0]) for split in rows if split != 'test'}
    metrics = {}
    for split, ranked_UK in ranked.items():
      ranks_U = ranking.target_ranks(ranked_UK, rows[split][1])
      every = ranking.ranking_metrics(ranks_U, (5, 10, K))
      metrics[split] = {metric: every[metric] for metric in METRICS}
    found[name] = metrics | {
      'seconds': seconds,
      'cpu_seconds': cpu,
      'estimate': baseline.seconds(test) if baseline.seconds else None,
      'peak_gib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
    }
    _print(name, found[name])
  return {
    'users': len(test.train),
    'items': test.num_items,
    'train_interactions': len(test.train.values),
    'baselines': found,
  }


def _print(name: str, found: dict[str, Any]) -> None:
  values = '  '.join(f'{metric} {found["test"][metric]:.4f}' for metric in METRICS)
  estimate = 'always' if found['estimate'] is None else f'{found["estimate"]:.1f}'
  print(
    f'{name:12} {values}  {found["seconds"]:.1f} s, CPU {found["cpu_seconds"]:.1f} s, estimate {estimate}, '
    f'{found["peak_gib"]:.2f} GiB',
    flush=True,
  )


def measure_amazon(name: str, raw_dir: str, names: list[str]) -> dict[str, Any]:
  return measure(amazon(name, raw_dir), names)


def measure_made_up(num_interactions: int, num_items: int, names: list[str]) -> dict[str, Any]:
  return measure(made_up(num_interactions, num_items), names)


def _define_flags() -> None:
  """Defines the flags only in the command: tests and child processes import this module too."""
  from bench import circumstances  # noqa: F401 - defines --out and --commit

  flags.DEFINE_list('raw_dirs', [], f'NAME=FOLDER of raw files; names: {", ".join(CATEGORIES)}.')
  flags.DEFINE_list('made_up', [], 'Interactions and items of a made-up log; empty: none.')
  flags.DEFINE_list('baselines', list(BASELINES), 'Baselines to measure.')


def main(_) -> None:
  from bench.circumstances import circumstances, write

  names, logs = flags.FLAGS.baselines, {}
  if unknown := set(names) - set(BASELINES):
    raise app.UsageError(f'--baselines must be among {", ".join(BASELINES)}; got {unknown}')
  for entry in flags.FLAGS.raw_dirs:
    name, _, folder = entry.partition('=')
    if name not in CATEGORIES or not pathlib.Path(folder).is_dir():
      raise app.UsageError(
        f'--raw_dirs must be NAME=FOLDER with a name among {", ".join(CATEGORIES)}; got {entry}'
      )
    print(name)
    logs[name] = in_a_child(measure_amazon, name, folder, names)
  if flags.FLAGS.made_up:
    sizes = [round(float(size)) for size in flags.FLAGS.made_up]
    print(f'made up, {sizes[0]:,} interactions, {sizes[1]:,} items')
    logs['made_up'] = in_a_child(measure_made_up, *sizes, names)
  write({'circumstances': circumstances(), 'logs': logs})


if __name__ == '__main__':
  _define_flags()
  app.run(main)
