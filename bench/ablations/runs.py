"""The runs of a table: their commands, and several of them at a time. Finished ones are read and not run again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
import re
import runpy
import time
from typing import Any

import ml_collections

from bench import processes
from bench.ablations.tables import Row, Table
from recjax import config as config_lib
from recjax.runtime import files
from recjax.schema import flag as config_flag
from recjax.workdir import evaluation_file

SPLITS = ('validation', 'test')
_ENDED = ('steps', 'patience')  # how a finished training ended


@dataclasses.dataclass(frozen=True, eq=False)
class Run(processes.Job):
  """A row with one seed on one data set.

  Attributes:
    data: name of the data set.
    row: the row.
    seed: the seed.
    workdir: its folder; the log is beside it.
    command: the arguments after `python`.
  """

  data: str
  row: Row
  seed: int
  workdir: pathlib.Path
  command: tuple[str, ...]

  @property
  def name(self) -> str:
    return f'{self.data}, {self.row.name}, seed {self.seed}'

  @property
  def is_finished(self) -> bool:
    """Whether the files of a whole run are there: evaluation.json after the last step, and both predictions."""
    if not (self.workdir / evaluation_file.FILE).exists():
      return False
    training = evaluation_file.read(self.workdir).get('training', {})
    files = [self.workdir / 'predictions' / split / 'retrieval.parquet' for split in SPLITS]
    return training.get('stopped') in _ENDED and all(file.exists() for file in files)


def planned(
  table: Table,
  data: Mapping[str, str | None],
  seeds: Sequence[int],
  folder: pathlib.Path,
  base: str | None = None,
  extra: Sequence[str] = (),
) -> Iterator[Run]:
  """Yields all runs of a table: of each data set all rows with the first seed, then with the second, and so on.

  The name of a workdir holds a digest of the whole recipe, so a changed row or config is another run, and tables share
  equal ones.

  Args:
    table: the table.
    data: name of the data set → folder of its raw files; None: it needs none.
    seeds: the seeds.
    folder: workdirs and prepared data are in FOLDER/<data>.
    base: replaces the table's base.
    extra: further arguments, such as --config.num_train_steps=500, of all rows; a row's own settings have precedence.

  Raises:
    ValueError: the base config does not exist or fails.
  """
  for name, raw_dir in data.items():
    value = (base or table.base).replace('{data}', name)
    config = _loaded(value)
    epochs = _epochs(config.num_epochs, [*_flags(table.settings), *extra])
    places = [f'--config.data.prepared_dir={folder / name / "prepared"}']
    places += [f'--config.data.raw_dir={raw_dir}'] if raw_dir is not None else []
    recipes = {}
    for row in table.rows:
      flags = [*_flags(table.settings), *extra, *_flags(_settings(row, config.mixture))]
      if row.epochs != 1 and epochs is not None:
        flags.append(f'--config.num_epochs={row.epochs * epochs:.6g}')
      slug = re.sub(r'\W+', '_', row.name).strip('_')
      digest = files.digest([changed(config), flags])[:8]
      recipes[row.name] = flags, folder / name / f'{slug}-{digest}'
    for seed in seeds:
      for row in table.rows:
        flags, own = recipes[row.name]
        command = ('-m', 'recjax.main', f'--config={value}', *places, *flags)
        workdir = own / str(seed)
        yield Run(
          name, row, seed, workdir, (*command, f'--config.seed={seed}', f'--workdir={workdir}')
        )


def _loaded(value: str) -> ml_collections.ConfigDict:
  """Returns a base config."""
  file, variant = config_flag.split(value)
  if not os.path.isfile(file):
    raise ValueError(f'--base must name a config file for every data set; {file!r} does not exist')
  get_config = runpy.run_path(file)['get_config']
  return get_config(*(() if variant is None else (variant,)))


def changed(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields of a config that are not at their defaults, so that a later field does not change a digest."""
  initial = config_lib.defaults(config.data.source, config.data.name)
  for name, part in config.mixture.items():
    initial.mixture[name] = config_lib.component(part.task)
  for name, part in config.evaluators.items():
    initial.evaluators[name] = config_lib.evaluator(part.evaluator)
  initial.stages = {name: config_lib.stage() for name in config.stages}
  initial = files.flat(initial.to_dict())
  kept = {
    name: value
    for name, value in files.flat(config.to_dict()).items()
    if name not in initial or initial[name] != value
  }
  return kept | {'mixture': sorted(config.mixture), 'stages': list(config.stages)}


def _settings(row: Row, components: Iterable[str]) -> dict[str, str]:
  """Returns the settings of a row, with the weight of every component."""
  weights = {}
  if row.mixture is not None:
    weights = dict.fromkeys(components, 0.0) | row.mixture
  return {f'mixture.{name}.weight': f'{weight:.6g}' for name, weight in weights.items()} | {
    **row.settings
  }


def _epochs(epochs: float | None, flags: Sequence[str]) -> float | None:
  """Returns the number of epochs of a base with further flags; None: it has a number of steps, or one from the data."""
  for flag in flags:
    name, _, value = flag.lstrip('-').partition('=')
    if name in ('config.num_epochs', 'config.num_train_steps'):
      is_number = name == 'config.num_epochs' and re.fullmatch(r'\d*\.?\d+', value)
      epochs = float(value) if is_number else None
  return epochs


def _flags(settings: Mapping[str, str]) -> list[str]:
  return [f'--config.{field}={value}' for field, value in settings.items()]


def run_all(runs: Sequence[Run], parallel: int, minutes: float | None = None) -> list[Run]:
  """Runs what is not finished, `parallel` processes at a time, and prints a line for every start and end.

  A run that fails does not end the others. Ctrl-C and SIGTERM end all of them; each saves its last step.

  Args:
    runs: the runs.
    parallel: the number of processes at a time. Without XLA_PYTHON_CLIENT_MEM_FRACTION in the environment each may take
      its part of nine tenths of the accelerator's memory.
    minutes: after so many no run is started, and those that run are ended; the next call resumes them. None: no limit.

  Returns:
    The runs that did not finish.
  """
  end = time.monotonic() + 60 * minutes if minutes is not None else float('inf')
  waiting = [run for run in runs if not run.is_finished]
  print(f'{len(runs) - len(waiting)} of {len(runs)} runs are finished', flush=True)
  with processes.Pool(parallel) as pool:
    while waiting or pool:
      is_over = time.monotonic() > end
      if is_over:
        pool.end()
        waiting.clear()
      while pool.has_room and (run := pool.first_free(waiting)):
        waiting.remove(run)
        if run.is_finished:  # by the process that held its workdir
          print(f'{run.name}: finished', flush=True)
        else:
          pool.start(run)
      for ended in pool.ended():
        print(f'{ended.job.name}: {_outcome(ended, is_over)}', flush=True)
  return [run for run in runs if not run.is_finished]


def _outcome(ended: processes.Ended, is_over: bool) -> str:
  run = ended.job
  if run.is_finished:
    return f'finished in {ended.seconds:.0f} s'
  if is_over:
    return f'not finished in the time, after {ended.seconds:.0f} s; the same command resumes it'
  failure = ended.failure or 'failed'
  return f'{failure} after {ended.seconds:.0f} s, see {run.log}: {run.last_line}'
