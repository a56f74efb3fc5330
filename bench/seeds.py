"""Collects the figures of runs that differ by seed: of every run, their mean, and the deviation over the seeds.

Command:  python -m bench.seeds --workdirs=runs/sasrec_0,runs/sasrec_1,… [--out=FILE]

Runs of several data sets may be given; each data set has its own mean. `curve` of a run is its recall@10 over the
validation users of an evaluation during training, after so many minutes: the time to a quality. Only files of the
workdirs are read: report.json, config.json, goodput.json, metrics.jsonl and the event files.
"""

from collections.abc import Mapping, Sequence
import json
import statistics
from typing import Any

from absl import app, flags
from etils import epath

from bench import circumstances
from recjax.runtime import goodput
from recjax.workdir import timeline

METRICS = ('recall@5', 'recall@10', 'ndcg@5', 'ndcg@10')
CURVE = 'recall@10'

_WORKDIRS = flags.DEFINE_list('workdirs', [], 'Workdirs of finished runs.')


def figures_of(workdir: epath.Path) -> dict[str, Any]:
  """Returns data set, seed, metrics and seconds of a finished run."""
  report = json.loads((workdir / 'report.json').read_text())
  config = json.loads((workdir / 'config.json').read_text())
  seconds = sum(sum(process['seconds'].values()) for process in goodput.read(workdir))
  return {
    'name': report['name'],
    'seed': config['seed'],
    'commit': report.get('commit'),
    'best_step': report['run']['best_step'],
    'steps': config['num_train_steps'],
    'seconds': round(seconds, 1),
    'curve': [
      (round(minutes, 2), value) for minutes, value in timeline.evaluations(workdir, CURVE)
    ],
    **{
      split: {
        key: report['metrics'][split][key]
        for metric in METRICS
        for key in (metric, f'{metric}_stderr')
        if key in report['metrics'][split]
      }
      for split in ('validation', 'test')
    },
  }


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns mean and sample deviation over the seeds of every test metric, and the longest time."""
  found: dict[str, Any] = {'seeds': [run['seed'] for run in runs]}
  for metric in METRICS:
    values = [run['test'][metric] for run in runs if metric in run['test']]
    if values:
      found[metric] = statistics.mean(values)
      found[f'{metric}_deviation'] = statistics.stdev(values) if len(values) > 1 else None
  return found | {'most_seconds': max(run['seconds'] for run in runs)}


def collected(workdirs: Sequence[str]) -> dict[str, Any]:
  """Returns by data set the runs in the order of their seeds, and their summary."""
  runs = sorted((figures_of(epath.Path(w)) for w in workdirs), key=lambda run: run['seed'])
  names = sorted({run['name'] for run in runs})
  by_name = {name: [run for run in runs if run['name'] == name] for name in names}
  return {name: {'summary': summary(own), 'runs': own} for name, own in by_name.items()}


def main(_: list[str]) -> None:
  found = collected(_WORKDIRS.value)
  for name, group in found.items():
    circumstances.show({'data': name} | group['summary'])
  circumstances.write({'circumstances': circumstances.circumstances()} | found)


if __name__ == '__main__':
  app.run(main)
