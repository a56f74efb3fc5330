"""How a training went: its best epoch, why it stopped, and whether its model beats the baselines."""

from collections.abc import Iterator, Mapping, Sequence
import math
from typing import Any

from etils import epath

from recjax.config import Config
from recjax.metrics import selection
from recjax.metrics.selection import Selection
from recjax.runtime import goodput
from recjax.workdir import identity
from recjax.workdir.metrics_file import EVALUATION, read_metrics

METRIC = 'recall@10'  # of the test rows; compares the model with the baselines
_NAMES = {'transitions': 'transition counting'}


def is_patience_out(
  evaluations: Sequence[tuple[int, Mapping[str, float]]], patience: int, chosen: Selection
) -> bool:
  """Returns whether none of the last `patience` evaluations is better than the best one before.

  Args:
    evaluations: step and metrics of every evaluation, in order.
    patience: `eval.patience`; 0: never.
    chosen: the metric; an evaluation in which it is not finite is worse than any other.
  """
  found = [chosen.score(metrics) for _, metrics in evaluations]
  scores = [-math.inf if score is None else score for score in found]
  return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])


def of_training(workdir: epath.Path, config: Config, best_step: int) -> dict[str, Any]:
  """Reads how the training in a workdir went, as JSON for evaluation.json.

  Args:
    workdir: folder of the run; of the last stage in a run of stages.
    config: config of the command; the config in the workdir has precedence.
    best_step: step of the evaluated checkpoint.

  Returns:
    `best_step`; `first_best_step`: step of the first evaluation with the same score; `steps`: steps so far;
    `num_train_steps`. In epochs `best_epoch`, `epochs` and `num_epochs`; None in workdirs of earlier versions.
    `metric`: the metric of the evaluations that chooses the checkpoint. `evaluations`: number of evaluations; `patience`: that of the (last) training; `stopped`: 'steps' (all are done), 'patience',
    or None (the run is not finished).
  """
  config = identity.config_of(workdir) or config
  stages = list(config.stages.values())
  total = stages[-1].num_train_steps if stages else config.num_train_steps
  rows = read_metrics(workdir)
  last, chosen = rows[-1] if rows else {'step': best_step}, config.selection
  own = stages[-1].patience if stages else None
  patience = config.eval.patience if own is None else own
  name = EVALUATION + chosen.key
  found = [(row['step'], {chosen.key: row[name]}) for row in rows if name in row]
  epochs, stopped = {row['step']: row.get('epoch') for row in rows}, None
  if last['step'] >= total:
    stopped = 'steps'
  elif is_patience_out(found, patience, chosen):
    stopped = 'patience'
  epoch = last.get('epoch')
  best = dict(found).get(best_step)
  equal = [step for step, metrics in found if best and metrics == best]
  return {
    'best_step': best_step,
    'first_best_step': min([best_step, *equal]),
    'steps': last['step'],
    'num_train_steps': total,
    'best_epoch': epochs.get(best_step),
    'epochs': epoch,
    'num_epochs': epoch and epoch * total / last['step'],
    'metric': chosen.key,
    'evaluations': len(found),
    'patience': patience,
    'stopped': stopped,
  }


def training_seconds(workdir: epath.Path) -> float | None:
  """Returns the recorded seconds of the training steps of a run, with their waits for input. None: no record.

  Args:
    workdir: folder of the run; the folder of all stages in a run of stages.
  """
  processes = goodput.read(workdir)
  seconds = goodput.summary(processes)['seconds']
  return seconds['steps'] + seconds['input_wait'] if processes else None


def left_out(seconds: Mapping[str, float]) -> str:
  """Returns which baselines an evaluation left out because of their time, and how to compute them.

  Args:
    seconds: `baselines_left_out` of evaluation.json.
  """
  names = ', '.join(f'{name} (about {max(round(s), 1):,} s)' for name, s in seconds.items())
  return (
    f'Left out, since they cost more than a tenth of the training: {names}. '
    f'--mode=evaluate --config.eval.baselines="{tuple(seconds)}" computes them'
  )


def closing(results: Mapping[str, Any]) -> str:
  """Returns the closing line of a run: best epoch, test metrics, why it stopped, and the comparisons that it lost.

  Args:
    results: content of evaluation.json.
  """
  training = results.get('training', {})
  model = results['metrics']['test'][METRIC]
  rivals = [f'{_name(name)} {row[METRIC]:.4f}' for name, row in results['baselines'].items()]
  parts = [f'test {METRIC}: {", ".join([*rivals, f"this model {model:.4f}"])}']
  if training:
    parts = [_best(training), *parts, _reason(training)]
  better = [
    _name(name) + (' by less than a standard error' if is_noise else '')
    for name, is_noise in _better(results)
  ]
  verdict = f' The model loses to {" and to ".join(better)}.' if better else ''
  equal = [_name(n) for n, row in results['baselines'].items() if row[METRIC] == model]
  verdict += f' The model is no better than {" and ".join(equal)}.' if equal else ''
  return '; '.join(parts) + '.' + verdict


def _better(results: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
  """Yields every baseline that is better than the model, and whether by less than a standard error."""
  test = results['metrics']['test']
  for name, row in results['baselines'].items():
    if METRIC in row and test[METRIC] < row[METRIC]:
      yield name, row[METRIC] - test[METRIC] < test.get(f'{METRIC}_stderr', 0.0)


def losses(results: Mapping[str, Any]) -> list[str]:
  """Returns a sentence for every baseline that is better than the model on the test rows.

  Args:
    results: content of evaluation.json.
  """
  test, baselines = results['metrics']['test'], results['baselines']
  return [
    f'The model loses to {_name(name)}: test {METRIC} {test[METRIC]:.4f} against {baselines[name][METRIC]:.4f}'
    f'{", less than a standard error" if is_noise else ""}.'
    for name, is_noise in _better(results)
  ]


def _name(baseline: str) -> str:
  return _NAMES.get(baseline, baseline)


def _best(training: Mapping[str, Any]) -> str:
  step, first = training['best_step'], training.get('first_best_step', training['best_step'])
  text = f'step {step} of {training["steps"]}'
  equal = f', equal to step {first}' if first < step else ''
  if training['best_epoch'] is None or training['epochs'] is None:
    return f'best at {text}{equal}'
  return f'best at epoch {training["best_epoch"]:.1f} of {training["epochs"]:.1f} ({text}{equal})'


def _reason(training: Mapping[str, Any]) -> str:
  if training['stopped'] == 'patience':
    return (
      f'stopped because {training.get("metric", selection.key(selection.DEFAULT))} of the validation sample did not improve in {training["patience"]} '
      'evaluations'
    )
  if training['stopped'] == 'steps':
    return f'stopped because all {training["num_train_steps"]} steps are done'
  return f'not finished: {training["num_train_steps"]} steps are planned'
