"""Runs `configs/table.py:cpu` as it is on three made-up logs, and compares the models with the baselines.

Command:  python -m bench.first_hour --out=results/first_hour.json [--logs=small,middle,large] [--scratch=FOLDER]

The logs are those of `bench.shop_log`: 40 customers and 30 items, 800 and 300, 50,000 and 20,000. Nothing is set but
the names of the columns. With --scratch a killed run goes on where it was. The table and the file hold test recall@10
of the model and the baselines, epochs, steps and time.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

from bench import shop_log

LOGS = {'small': (40, 30), 'middle': (800, 300), 'large': (50_000, 20_000)}
_NAMES = flags.DEFINE_list('logs', list(LOGS), f'Logs to run: {", ".join(LOGS)}.')
_SCRATCH = flags.DEFINE_string('scratch', None, 'Folder of logs and workdirs. Default: a new one.')


def measure(name: str, folder: pathlib.Path, settings: tuple[str, ...] = ()) -> dict[str, Any]:
  """Trains on one log in a process of its own.

  Args:
    name: a name of LOGS.
    folder: raw files, prepared data and workdir are written here.
    settings: further flags; none in the benchmark.

  Returns:
    The sizes of the log, the seconds of the run, how its training went, and test metrics by method.
  """
  users, items = LOGS[name]
  raw, workdir = folder / name / 'raw', folder / name / 'run'
  rows = shop_log.write(raw, users, items)['rows']
  command = [
    *(sys.executable, '-m', 'recjax.main', '--config=configs/table.py:cpu'),
    *(f'--config.data.name={name}', f'--config.data.raw_dir={raw}', *shop_log.column_flags()),
    *(
      f'--config.data.prepared_dir={folder / name / "prepared"}',
      f'--workdir={workdir}',
      *settings,
    ),
  ]
  start = time.monotonic()
  log = folder / name / 'log.txt'
  with log.open('a') as out:
    subprocess.run(command, check=True, stdout=out, stderr=subprocess.STDOUT)
  seconds = time.monotonic() - start
  results = json.loads((workdir / 'evaluation.json').read_text())
  methods = {'model': results['metrics']['test']} | results['baselines']
  return {
    'customers': users,
    'items': items,
    'rows': rows,
    'seconds': round(seconds),
    'training': results['training'],
    'recall@10': {method: row['recall@10'] for method, row in methods.items()},
    'ndcg@10': {method: row['ndcg@10'] for method, row in methods.items()},
    'stderr': results['metrics']['test']['recall@10_stderr'],
  }


def table(results: dict[str, dict[str, Any]]) -> str:
  """Returns the results as text, one line a log."""
  lines = [
    'log     rows      model            transitions  popularity  best epoch  steps       seconds'
  ]
  for name, row in results.items():
    recall, training = row['recall@10'], row['training']
    best, epochs = (f'{training[key]:.1f}' for key in ('best_epoch', 'epochs'))
    lines.append(
      f'{name:7} {row["rows"]:8,}  {recall["model"]:.4f} ± {row["stderr"]:.4f}  {recall["transitions"]:.4f}       '
      f'{recall["popularity"]:.4f}      {best:>4} of {epochs:<4} '
      f'{training["steps"]:5} of {training["num_train_steps"]:<5} {row["seconds"]:5}'
    )
  return '\n'.join(lines)


def main(_) -> None:
  from bench.circumstances import circumstances, write

  with tempfile.TemporaryDirectory() as new:
    folder = pathlib.Path(_SCRATCH.value or new).absolute()
    results = {name: measure(name, folder) for name in _NAMES.value}
    print(table(results))
    write({'circumstances': circumstances(), 'logs': results})


if __name__ == '__main__':
  # Here, not above: recjax.main also defines --out, and the tests import both.
  from bench import circumstances  # noqa: F401 - defines --out and --commit

  app.run(main)
