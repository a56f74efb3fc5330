"""Rejects impossible metrics, and returns the warnings that a report shows."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import math
from typing import Any

from etils import epath

from recjax.config import Config
from recjax.data.dataset import SPLITS, Dataset
from recjax.metrics.selection import Selection
from recjax.report import group_checks
from recjax.report.facts import Training
from recjax.workdir import evaluation_file, outcome
from recjax.workdir.metrics_file import EVALUATION

_PROPORTIONS = ('recall', 'ndcg', 'mrr')  # metrics in [0, 1]
_TOLERANCE = 1e-9
_RIVALS = ('baselines', 'sasrec')  # settings of eval that add other rankers


def check_evaluation(results: Mapping[str, Any], dataset: Dataset, path: epath.Path) -> None:
  """Checks the content of evaluation.json.

  Args:
    results: content of evaluation.json; see `recjax.workdir.evaluation_file`.
    dataset: the data of the report.
    path: path of the file, for messages.

  Raises:
    ValueError: a metric is missing or impossible, or other data were evaluated.
  """
  metrics = results['metrics']
  for split in SPLITS:
    if 'recall@10' not in metrics.get(split, {}):
      raise ValueError(
        f'{path} must hold recall@10 of the {split} split; it has {sorted(metrics)}. Run --mode=evaluate'
      )
  _check_data(results, dataset, path)
  for text, name, value, most in _figures(results):
    is_number = isinstance(value, int | float) and math.isfinite(value)
    is_bounded = name.endswith('_stderr') or name.split('@')[0] in _PROPORTIONS
    if not is_number or (is_bounded and not -_TOLERANCE <= value <= most + _TOLERANCE):
      limits = f' from 0 to {most:.6g}' if is_bounded else ''
      raise ValueError(
        f'{path}: {text} {name} must be a number{limits}; got {value}. Run --mode=evaluate again'
      )
  for place in group_checks.not_finite(results, ''):
    raise ValueError(
      f'{path}: {place[1:]} must be a finite number; it is not. Run --mode=evaluate again'
    )


def ceilings(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
  """Returns `rows`, `unreachable_targets` and `highest_recall` (the highest possible one) by split.

  Empty if `results` is from an earlier version. A split of which a sample was evaluated is left out: the count of
  unreachable targets is that of all rows.
  """
  if not {'rows', 'unreachable_targets'} <= results.keys():
    return {}
  found = {}
  for split in SPLITS:
    rows, unreachable = results['rows'][split], results['unreachable_targets'][split]
    all_rows = results.get('protocol', {}).get('leakage', {}).get('rows', {}).get(split, rows)
    if rows == all_rows:
      found[split] = {
        'rows': rows,
        'unreachable_targets': unreachable,
        'highest_recall': 1 - unreachable / rows,
      }
  return found


def _figures(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, float]]:
  """Yields (description of the table, name, value, upper bound) for every metric."""
  bounds = {split: limits['highest_recall'] for split, limits in ceilings(results).items()}
  tables = [(f'{split} metrics:', split, table) for split, table in results['metrics'].items()]
  for name, found in (results.get('rankers', {}) | results['baselines']).items():
    test = {key: value for key, value in found.items() if key != 'validation'}
    kind = 'baseline' if name in results['baselines'] else 'ranker'
    tables.append((f'{kind} {name}, test:', 'test', test))
    tables.append((f'{kind} {name}, validation:', 'validation', found.get('validation', {})))
  for text, split, table in tables:
    for name, value in table.items():
      bound = math.inf if name.endswith('_stderr') else bounds.get(split, 1.0)
      yield text, name, value, bound


def samples(results: Mapping[str, Any], dataset: Dataset) -> dict[str, dict[str, int]]:
  """Returns the evaluated number of `rows` and the number `of` all rows by split, where these differ."""
  return {
    split: {'rows': rows, 'of': dataset.num_rows(split)}
    for split, rows in results.get('rows', {}).items()
    if rows < dataset.num_rows(split)
  }


def _sampled(results: Mapping[str, Any], split: str) -> int | None:
  """Returns the number of rows that the evaluator of retrieval says it evaluated."""
  return results.get('evaluators', {}).get('retrieval', {}).get(split, {}).get('rows')


def _check_data(results: Mapping[str, Any], dataset: Dataset, path: epath.Path) -> None:
  """Compares the evaluated data with the data of the report."""
  for split, rows in results.get('rows', {}).items():
    if rows != dataset.num_rows(split) and rows != _sampled(results, split):
      raise ValueError(
        f'{path} must be of all {dataset.num_rows(split)} {split} rows in {dataset.folder}; it is of '
        f'{rows}. Run --mode=evaluate again'
      )
  evaluated = results.get('data')
  if evaluated is None:  # earlier versions recorded only this number
    was, now = results.get('items_sharing_a_sid', 0), dataset.sids.sharing_items
    different = ['sids'] if was != now else []
  else:
    record = evaluation_file.data_record(dataset, evaluated['item_text'])
    different = [name for name in ('interactions', 'sids') if evaluated[name] != record[name]]
  if different:
    folder = '' if evaluated is None else f' {evaluated["folder"]}'
    raise ValueError(
      f'{path} holds metrics of other data{folder}, which differ from {dataset.folder} in '
      f'{", ".join(different)}. Run --mode=evaluate again, or set --config.data.prepared_dir'
    )


def warnings(
  results: Mapping[str, Any], config: Config, dataset: Dataset, trainings: Sequence[Training]
) -> list[str]:
  """Returns warnings for the top of the report, one sentence each or more.

  Args:
    results: content of evaluation.json.
    config: config of the latest start of the run.
    dataset: the data of the report.
    trainings: trainings of the run; the evaluated checkpoint is of the last one.
  """
  found = [*outcome.losses(results), *_evaluation_settings(results, config)]
  found += group_checks.doubts(results)
  for split, sample in samples(results, dataset).items():
    found.append(
      f'The {split} metrics are those of a fixed sample of {sample["rows"]:,} of {sample["of"]:,} rows.'
    )
  if 'data' not in results:
    found.append(
      f'The evaluation does not record its data: statistics are of the data in {dataset.folder} now.'
    )
  if str(dataset.folder) != str(config.prepared_folder):
    found.append(
      f'Evaluated on the data in {dataset.folder}; the run was trained on {config.prepared_folder}.'
    )
  for training in trainings:
    stage = f'Stage {training.name}: ' if training.name else ''
    steps = [row['step'] for row in training.rows if not _is_finite(row.get('loss', 0.0))]
    if steps:
      found.append(
        f'{stage}The loss was not finite at {len(steps)} steps; the first is step {steps[0]}.'
      )
  found += _better_checkpoint(results, trainings[-1], config.selection)
  return found


def _evaluation_settings(results: Mapping[str, Any], config: Config) -> Iterator[str]:
  """Yields a sentence for every eval setting of the model's figures that differs from the run's config."""
  run = json.loads(json.dumps(dataclasses.asdict(config.eval)))
  for name, value in results.get('eval', {}).items():
    if name in run and name not in _RIVALS and run[name] != value:
      yield (
        f'Evaluated with eval.{name} = {json.dumps(value)}; the config of the run has '
        f'{json.dumps(run[name])}.'
      )


def _better_checkpoint(
  results: Mapping[str, Any], training: Training, chosen: Selection
) -> Iterator[str]:
  """Yields a sentence if training continued after the evaluation and reached a better checkpoint."""
  name = EVALUATION + chosen.key
  scores = {
    row['step']: chosen.score({chosen.key: row[name]})
    for row in training.rows
    if _is_finite(row.get(name))
  }
  step = results['step']
  if step not in scores:
    return
  best = max(scores, key=scores.get)
  if scores[best] > scores[step]:
    yield (
      f'The evaluated checkpoint of step {step} is not the best one: {chosen.key} on the validation sample '
      f'is better at step {best}. Run --mode=evaluate again.'
    )


def _is_finite(value: Any) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)
