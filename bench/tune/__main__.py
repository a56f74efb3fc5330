"""Searches settings of a config by trainings that are judged on validation rows alone.

Command:  python -m bench.tune --config=configs/beauty.py:cpu --config.data.raw_dir=FOLDER --scratch=W --budget=30
          [--parallel=2] [--users=4000] [--fields='optim.learning_rate,model.dropout=0.1:0.6,model.heads=2|4|8']
          [--config.num_epochs=16 …]

It needs the extra [tune]. A trial is an ordinary training of `python -m recjax.main` in W/trials/<number>, with its log
beside it. Its value is the best `eval.choose_by` of its evaluations during training, on a fixed sample of --users
validation rows; of a workdir only metrics.jsonl is read, so no test row can choose anything. The end of a training
evaluates as many rows. The first trial has the config's own values; a sampler (TPE of Optuna) draws the others.

The command may be stopped and given again: finished trials are kept, others are resumed, and --budget counts all. After
every trial W/tune.json and W/tune.html hold the table and the plots.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from typing import Any

from absl import app, flags
from etils import epath

from bench.ablations import runs
from bench.tune import page, space
from recjax import config as config_lib
from recjax.runtime import files, lock
from recjax.schema import flag as config_flag
from recjax.workdir import identity

_CONFIG = config_flag.define(identity.read_config_dict)
_SCRATCH = flags.DEFINE_string(
  'scratch', None, 'Folder of the search and its trainings.', required=True
)
_BUDGET = flags.DEFINE_integer('budget', 20, 'Trials in all, those of earlier calls included.', 1)
_PARALLEL = flags.DEFINE_integer('parallel', 1, 'Trials at a time.', 1)
_USERS = flags.DEFINE_integer('users', 4000, 'Validation rows of every evaluation.', 1)
_FIELDS = flags.DEFINE_list(
  'fields', [], 'Settings to search: FIELD, FIELD=low:high, FIELD=low:high:log, FIELD=a|b|c.'
)


def _own(argv: Sequence[str]) -> list[str]:
  """Returns the arguments of a command that every trial gets: the config and its overrides."""
  found = [argument for argument in argv if re.match(r'--?config[.=]', argument)]
  if not any(re.match(r'--?config=', argument) for argument in found):
    raise ValueError('--config must be given, as --config=configs/beauty.py:cpu')
  return found


def _flags(settings: Mapping[str, Any]) -> list[str]:
  return [
    f'--config.{name}={value!r}' if not isinstance(value, str) else f'--config.{name}={value}'
    for name, value in settings.items()
  ]


def _search(argv: Sequence[str]) -> None:
  from bench.tune import trials  # here: it needs the extra

  own, config, folder = _own(argv), _CONFIG.value, pathlib.Path(_SCRATCH.value).expanduser()
  checked = config_lib.from_config_dict(config)
  selection, ranges = checked.selection, space.chosen(config, _FIELDS.value)
  files.check_folder(folder, '--scratch')
  folder.mkdir(parents=True, exist_ok=True)
  sample = {'eval.eval_users': _USERS.value, f'evaluators.{selection.evaluator}.rows': _USERS.value}
  sample['evaluators.retrieval.rows'] = _USERS.value
  shared = ['-m', 'recjax.main', *own, *_flags(sample)]
  recipe = {
    'config': shlex.join(own),
    'values of the config file': files.digest(runs.changed(config)),
    'users': _USERS.value,
    'ranges': {name: [list(r.choices), r.low, r.high, r.log] for name, r in ranges.items()},
  }

  def command(params: Mapping[str, Any], workdir: pathlib.Path) -> list[str]:
    return [*shared, *_flags(space.settings(config, params)), f'--workdir={workdir}']

  def write() -> dict[str, Any]:
    found = trials.records(study)
    best = page.best_of(found, selection.lower_is_better)
    if best is not None:
      again = _flags(space.settings(config, best['settings']))
      best = shlex.join(['python', '-m', 'recjax.main', *own, *again])
    return page.write(folder, found, selection.key, selection.lower_is_better, recipe, best)

  with lock.hold(epath.Path(folder), 'search', wait=False, field='--scratch'):
    first = space.of_config(config, ranges)
    study = trials.study_in(folder, recipe, selection.lower_is_better, first)
    if subprocess.run([sys.executable, *shared, '--mode=prepare'], check=False).returncode:
      raise ValueError('the data must be prepared before the first trial; see the message above')
    trials.run(study, folder, command, ranges, selection, _BUDGET.value, _PARALLEL.value, write)
    result = write()
  if result['best'] is not None:
    best = result['best']
    print(
      f'best: trial {best["number"]}, validation {selection.key} {best["value"]:.4f} ± {best["error"]:.4f}'
    )
    print(result['command'])
  print(folder / page.HTML, flush=True)


def main(argv: Sequence[str]) -> None:
  del argv  # `sys.argv` has the flags too
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  try:
    _search(sys.argv[1:])
  except ModuleNotFoundError as error:
    if error.name != 'optuna':
      raise
    sys.exit('bench.tune needs the extra [tune]: pip install -r requirements-tune.txt')
  except (ValueError, OSError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  except KeyboardInterrupt:
    sys.exit('stopped; the same command continues the search')


if __name__ == '__main__':
  os.environ.setdefault('TQDM_DISABLE', '1')
  app.run(main, flags_parser=config_flag.parse_flags)
