"""The trials of a search: asked of Optuna, run as processes of recjax.main, judged on validation rows alone."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import optuna

from bench import processes
from bench.tune.space import Range
from recjax.metrics.selection import Selection
from recjax.workdir.metrics_file import EVALUATION, read_metrics

STUDY = 'study.log'  # of Optuna; a line for every change, so that a killed search loses none
NAME = 'tune'


@dataclasses.dataclass(frozen=True)
class Score:
  """The best evaluation of a training, on its sample of validation rows.

  Attributes:
    value: the metric of `eval.choose_by`.
    error: its standard error.
    step: the step of the evaluation.
  """

  value: float
  error: float
  step: int


def score(workdir: pathlib.Path, selection: Selection) -> Score | None:
  """Returns the best evaluation in metrics.jsonl; None: there is none. No other file of the workdir is read."""
  key = EVALUATION + selection.key
  rows = [row for row in read_metrics(workdir) if row.get(key) is not None]
  if not rows:
    return None
  best = max(rows, key=lambda row: selection.score({selection.key: row[key]}))
  return Score(best[key], best.get(f'{key}_stderr') or 0.0, int(best['step']))


def distributions(ranges: Mapping[str, Range]) -> dict[str, optuna.distributions.BaseDistribution]:
  """Returns the ranges as Optuna has them."""
  found = {}
  for name, each in ranges.items():
    if each.choices:
      found[name] = optuna.distributions.CategoricalDistribution(each.choices)
    elif isinstance(each.low, int) and isinstance(each.high, int):
      found[name] = optuna.distributions.IntDistribution(each.low, each.high, log=each.log)
    else:
      found[name] = optuna.distributions.FloatDistribution(each.low, each.high, log=each.log)
  return found


def study_in(
  folder: pathlib.Path, recipe: Mapping[str, Any], lower_is_better: bool, first: Mapping[str, Any]
) -> optuna.Study:
  """Opens the study of a folder, or creates it with the config's own values as its first trial.

  Args:
    folder: the folder of the search.
    recipe: what all trials share, as JSON; it must not change.
    lower_is_better: whether the metric is better if lower.
    first: values of the first trial.

  Raises:
    ValueError: the folder holds a search with another recipe, or its log is damaged.
  """
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  _drop_half_a_line(folder / STUDY)
  backend = optuna.storages.journal.JournalFileBackend(str(folder / STUDY))
  try:
    study = optuna.create_study(
      study_name=NAME,
      storage=optuna.storages.JournalStorage(backend),
      direction='minimize' if lower_is_better else 'maximize',
      load_if_exists=True,
    )
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{folder / STUDY} must hold a search as Optuna wrote it; it is damaged: {" ".join(str(error).split())}. Restore it '
      'from a backup, or set --scratch to a new folder'
    ) from error
  was = study.user_attrs.get('recipe')
  if was is None:
    study.set_user_attr('recipe', dict(recipe))
    study.enqueue_trial(dict(first))
  # A search of an earlier version lacks some parts.
  elif changed := [name for name in recipe if name in was and was[name] != recipe[name]]:
    raise ValueError(
      f'a search must keep {", ".join(changed)} of the one in {folder}: {was.get(changed[0])!r}; got '
      f'{recipe[changed[0]]!r}. Set --scratch to a new folder'
    )
  # Another seed at every start: the same one would draw the same values again.
  study.sampler = optuna.samplers.TPESampler(
    seed=len(study.trials), multivariate=True, constant_liar=True
  )
  return study


def _drop_half_a_line(log: pathlib.Path) -> None:
  """Cuts a line that a killed search did not finish: the next one would be appended to it."""
  if not log.exists():
    return
  content = log.read_bytes()
  whole = content.rfind(b'\n') + 1
  if whole < len(content):
    os.truncate(log, whole)


@dataclasses.dataclass(frozen=True, eq=False)
class _Trial(processes.Job):
  trial: optuna.trial.Trial
  workdir: pathlib.Path
  command: tuple[str, ...]

  @property
  def name(self) -> str:
    return f'trial {self.trial.number}'


def run(
  study: optuna.Study,
  folder: pathlib.Path,
  command: Callable[[Mapping[str, Any], pathlib.Path], Sequence[str]],
  ranges: Mapping[str, Range],
  selection: Selection,
  budget: int,
  parallel: int,
  done: Callable[[], None],
) -> None:
  """Runs trials until the study has `budget` of them that ended, `parallel` at a time.

  Trials that an earlier call left unfinished are resumed first, in their workdirs, as soon as no process of that call
  still saves there. A trial that fails counts, but the search ends if its first one does. Ctrl-C and SIGTERM end the
  processes, which save their last step.

  Args:
    study: of `study_in`.
    folder: the folder of the search; trial n has the workdir trials/n and the log trials/n.log.
    command: values of a trial, workdir → the arguments after `python`.
    ranges: the ranges.
    selection: the metric.
    budget: trials in all, those of earlier calls included.
    parallel: processes at a time, see `processes.Pool`.
    done: is called after every trial.

  Raises:
    ValueError: the first trial failed; the message has the last line of its log.
  """
  states, spread = optuna.trial.TrialState, distributions(ranges)

  def made(trial: optuna.trial.Trial) -> _Trial:
    workdir = folder / 'trials' / f'{trial.number:03d}'
    return _Trial(trial, workdir, tuple(command(trial.params, workdir)))

  left = [
    made(optuna.trial.Trial(study, each._trial_id))
    for each in study.get_trials(states=(states.RUNNING,))
  ]
  with processes.Pool(parallel) as pool:
    while True:
      missing = budget - len(pool)
      missing -= len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.FAIL)))
      if missing <= 0 and not pool:
        return
      if missing > 0 and pool.has_room:
        each = pool.first_free(left) if left else made(study.ask(spread))
        if each is not None:
          left = [other for other in left if other is not each]
          pool.start(each)
          print(f'{each.name}: {_text(each.trial.params)}', flush=True)
          continue
      for ended in pool.ended():
        _tell(study, ended, selection)
        done()


def _tell(study: optuna.Study, ended: processes.Ended, selection: Selection) -> None:
  """Tells the study how a process ended."""
  job, trial = ended.job, ended.job.trial
  found = score(job.workdir, selection) if ended.failure is None else None
  trial.set_user_attr('seconds', round(ended.seconds, 1))
  if found is None:
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    message = f'{job.name} {ended.failure or "failed"}, see {job.log}: {job.last_line}'
    if not study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
      raise ValueError(message)
    print(message, flush=True)
    return
  for name in ('error', 'step'):
    trial.set_user_attr(name, getattr(found, name))
  study.tell(trial, found.value)
  print(
    f'{job.name}: {selection.key} {found.value:.4f} ± {found.error:.4f} at step {found.step}, {ended.seconds:.0f} s',
    flush=True,
  )


def _text(params: Mapping[str, Any]) -> str:
  return ', '.join(
    f'{name}={f"{value:.4g}" if isinstance(value, float) else value}'
    for name, value in params.items()
  )


def records(study: optuna.Study) -> list[dict[str, Any]]:
  """Returns the trials that ended, in their order: number, state, value, error, step, seconds, settings."""
  return [
    {
      'number': each.number,
      'state': each.state.name.lower(),
      'value': each.value,
      **{name: each.user_attrs.get(name) for name in ('error', 'step', 'seconds')},
      'settings': dict(each.params),
    }
    for each in study.get_trials(deepcopy=False)
    if each.state.is_finished()
  ]
