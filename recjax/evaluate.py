"""Evaluates a model and the baselines: every held-out row once, ranked against the full catalogue.

Items of the history are removed from the ranking unless `eval.exclude_seen` is off. Under leave-one-out the
rows are the users; `data_prep.log.splits` describes the other splits.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import json
import logging
from typing import Any

from etils import epath
import jax
import numpy as np

from recjax import config as config_lib
from recjax import models
from recjax.config import Config
from recjax.data.corpus import Corpus
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.item_dataset import ItemDataset
from recjax.decode import precision
from recjax.decode.ranker import Ranker
from recjax.metrics import leakage, protocol, ranking, rivals, selection, slices, text, weights
from recjax.metrics.evaluators.base import Context, Evaluator, Result, sample_rows
from recjax.metrics.ranked import Ranked
from recjax.recommend import best_params, make_ranker
from recjax.runtime import distributed, goodput
from recjax.workdir import evaluation_file, outcome, predictions
from recjax.workdir import sasrec as sasrec_lib

log = logging.getLogger(__name__)

SAMPLE_SEED = 0  # of the full evaluation: runs with different seeds measure the same rows


def make_context(
  config: Config, dataset: Dataset, mesh: jax.sharding.Mesh, ranker: Ranker | None = None
) -> Context:
  """Returns the context of the evaluators of a run; it has no parameters yet.

  Args:
    config: config of the run. In a run of stages the components of all stages count.
    dataset: the prepared data.
    mesh: the devices.
    ranker: the search. None: it is made.

  Raises:
    ValueError: an evaluator does not fit the mixture or the data, or there is no component to search with.
  """
  config_lib.check_evaluators(config)
  corpus = Corpus.of(dataset, models.family(config.model))
  for name, evaluator in config.evaluators.items():
    with evaluator.called(f'evaluators.{name}'):
      evaluator.check_corpus(corpus)
  ranker = make_ranker(config, dataset, mesh) if ranker is None else ranker
  return Context(
    model=config.model,
    settings=config.eval,
    limits=config.hosts,
    seed=config.seed,
    components=config.active_mixture,
    dataset=dataset,
    corpus=corpus,
    mesh=mesh,
    ranker=ranker,
  )


@goodput.phase('evaluation')
def evaluated(
  context: Context, evaluator: Evaluator, split: str, size: int | None = None
) -> Result:
  """Runs an evaluator on a fixed sample of the rows of a split.

  Args:
    context: the run, with parameters.
    evaluator: the evaluator.
    split: 'validation' or 'test'.
    size: rows of the sample of an evaluation during training, which depends on the run's seed; `evaluator.rows` if
      these are fewer. None: the sample of the full evaluation, `evaluator.rows`.
  """
  return evaluator.evaluate(context, split, _rows(context, evaluator, split, size))


def _rows(context: Context, evaluator: Evaluator, split: str, size: int | None) -> np.ndarray:
  """Returns the rows of `evaluated`."""
  sizes = [n for n in (size, evaluator.rows) if n is not None]
  seed = SAMPLE_SEED if size is None else context.seed
  return sample_rows(context.dataset.num_rows(split), min(sizes, default=None), seed)


def check_selection(config: Config, context: Context) -> None:
  """Checks, before the first step, that the evaluations of a training can choose its checkpoint.

  Raises:
    ValueError: the evaluator that `eval.choose_by` names can measure no row of the sample.
  """
  evaluator = config.evaluators[config.selection.evaluator]
  rows = _rows(context, evaluator, 'validation', config.eval.eval_users)
  measured = evaluator.measured_rows(context, 'validation')
  if measured is not None and not np.isin(rows, measured).any():
    raise ValueError(
      f'eval.choose_by={config.eval.choose_by} needs a row that the evaluator can measure among the {len(rows):,} rows '
      f'of the validation sample; it can measure {len(measured):,} of all {context.dataset.num_rows("validation"):,} '
      'validation rows, but none of the sample. Set --config.eval.choose_by or --config.eval.eval_users'
    )


def by_split(context: Context, evaluator: Evaluator) -> dict[str, Result]:
  """Runs an evaluator on both splits; the weights of the scores that it chooses on validation rows rank the test rows."""
  found = {}
  for split in ('validation', 'test'):
    found[split] = evaluated(context, evaluator, split)
    context = context.with_weights(found[split].weights or context.weights)
  return found


def _evaluated_all(config: Config, context: Context) -> dict[str, dict[str, Result]]:
  """Returns the results of all evaluators by name and split; retrieval chooses the weights of the scores for all."""
  first = by_split(context, config.evaluators['retrieval'])
  context = context.with_weights(first['test'].weights)
  return {
    name: first if name == 'retrieval' else by_split(context, evaluator)
    for name, evaluator in config.evaluators.items()
  }


def trained_baselines(
  config: Config,
  workdir: epath.Path,
  dataset: Dataset,
  mesh: jax.sharding.Mesh,
  train: Callable[[Config, epath.Path, Context], tuple[Any, int]],
) -> dict[str, dict[str, Ranked]]:
  """Returns the rankings of baselines that are models, by split and name; see `recjax.workdir.sasrec`.

  `sasrec` is the run of `eval.sasrec`, or one in `baselines/sasrec` of the workdir, which `train` (as
  `recjax.train.train_stages`) trains unless it is finished.
  """
  if not sasrec_lib.is_wanted(config):
    return {split: {} for split in SPLITS}
  if config.eval.sasrec is not None:
    own, data = sasrec_lib.earlier(config, dataset)
    context = make_context(own, data, mesh)
    params, _ = best_params(own, epath.Path(config.eval.sasrec), data, mesh)
  else:
    folder, data = sasrec_lib.folder_in(workdir), ItemDataset.load(dataset.folder)
    own = sasrec_lib.config_for(config, data, folder, mesh)
    context = make_context(own, data, mesh)
    log.info('baseline %s: a run of its own in %s', sasrec_lib.NAME, folder)
    params, _ = train(own, folder, context)
  search = dataclasses.replace(own.evaluators['retrieval'], rows=None)
  found = by_split(context.with_params(params), search)
  return {split: {sasrec_lib.NAME: result.ranked} for split, result in found.items()}


@goodput.phase('evaluation')
def evaluate_best(
  config: Config,
  workdir: epath.Path,
  context: Context,
  step: int,
  rankers: dict[str, dict[str, Ranked]] | None = None,
  trained: Mapping[str, Mapping[str, Ranked]] | None = None,
) -> dict[str, Any]:
  """Runs all evaluators and baselines on the validation and the test rows; writes predictions, then evaluation.json.

  Args:
    config: config of the evaluation.
    workdir: workdir of the run.
    context: the run, with the parameters of the best checkpoint.
    step: step of that checkpoint.
    rankers: is filled with the rankings of the model and the baselines, by split and name. None: a new dict.
    trained: rankings of all rows by baselines that are models, by split and name.

  Returns:
    The content of evaluation.json; see `recjax.workdir.evaluation_file`.

  Raises:
    ValueError: held-out interactions are in the training part; see `recjax.metrics.leakage`.
  """
  dataset, settings = context.dataset, config.eval
  leaks = leakage.check(dataset, config.data.split)
  found = _evaluated_all(config, context)
  rows = {split: result.rows for split, result in found['retrieval'].items()}
  left_out = rivals.left_out(settings, dataset, rows, outcome.training_seconds(workdir))
  left_out = distributed.from_host0('baselines', left_out)  # their number of calls must agree
  rankers = {} if rankers is None else rankers
  rankers |= {
    split: {'model': result.ranked, **result.rankers}
    | rivals.rankings(settings, dataset, split, rows[split], left_out)
    | {name: each.take(rows[split]) for name, each in (trained or {}).get(split, {}).items()}
    for split, result in found['retrieval'].items()
  }
  parts = {s: slices.measure(dataset, s, rankers[s], settings.ks, rows[s]) for s in SPLITS}
  results = {
    'step': step,
    'training': outcome.of_training(workdir, config, step),
    **_figures(rankers, settings.ks, tuple(found['retrieval']['test'].rankers)),
    **weights.record(found['retrieval']['validation'], settings.blend),
    'baselines_left_out': left_out,
    'rows': {split: len(rows[split]) for split in SPLITS},
    'eval': json.loads(json.dumps(dataclasses.asdict(settings))),
    'evaluators': {
      name: {split: {'rows': len(r.rows)} | r.metrics for split, r in by_split.items()}
      for name, by_split in found.items()
    },
    'memorization': parts['validation'].memorization | parts['test'].memorization,
    'splits': parts['validation'].splits | parts['test'].splits,
    'protocol': protocol.record(config.data, settings, dataset, rankers, rows, leaks),
    'items_sharing_a_sid': dataset.sids.sharing_items,
    'data': evaluation_file.data_record(dataset, config.data.item_text),
  }
  reachable = results['protocol']['reachable_targets']
  results['unreachable_targets'] = {
    split: reachable[split]['in_own_history'] * settings.exclude_seen for split in SPLITS
  }
  if settings.weights_dtype != precision.FLOAT32:
    exact = dataclasses.replace(settings, weights_dtype=precision.FLOAT32)
    exact = make_ranker(dataclasses.replace(config, eval=exact), dataset, context.mesh)
    sample = sample_rows(dataset.num_rows('validation'), settings.eval_users, SAMPLE_SEED)
    results['overlap@10'] = precision.measured(exact, context, sample)
  if distributed.is_host0():
    _write_predictions(config, workdir, dataset, results, found, rankers, parts)
    evaluation_file.write(workdir, results)
    _log(results)
  return results


def final_metrics(results: Mapping[str, Any]) -> dict[str, float]:
  """Returns the test metrics of all evaluators in evaluation.json, by their names in metrics.jsonl."""
  metrics = dict(results['metrics']['test'])
  for name, by_split in results['evaluators'].items():
    if name != 'retrieval':
      metrics |= selection.named(name, by_split['test'])
  return metrics


def _figures(
  rankers: Mapping[str, Mapping[str, Ranked]], ks: Sequence[int], own: Collection[str]
) -> dict[str, Any]:
  """Returns metrics and speed of the model and of the baselines.

  Args:
    rankers: split → name → ranking.
    ks: the cut-offs.
    own: names of the rankings by one score of the model.
  """
  metrics = {
    name: {split: ranking.ranking_metrics(rankers[split][name].ranks_U, ks) for split in SPLITS}
    for name in rankers['test']
  }
  tables = {
    name: by_split['test'] | {'validation': by_split['validation']}
    for name, by_split in metrics.items()
    if name != 'model'
  }
  found = [rankers[split]['model'] for split in SPLITS]
  return {
    'metrics': metrics['model'],
    'rankers': {name: table for name, table in tables.items() if name in own},
    'baselines': {name: table for name, table in tables.items() if name not in own},
    'rows_per_sec': sum(len(each.ranks_U) for each in found) / sum(each.seconds for each in found),
    'seconds_per_row': {
      name: each.seconds / len(each.ranks_U) for name, each in rankers['test'].items()
    },
  }


def _write_predictions(
  config: Config,
  workdir: epath.Path,
  dataset: Dataset,
  results: Mapping[str, Any],
  found: Mapping[str, Mapping[str, Result]],
  rankers: Mapping[str, Mapping[str, Ranked]],
  parts: Mapping[str, slices.Slices],
) -> None:
  """Writes the labels of the rows and the predictions of all evaluators and baselines; removes those of others."""
  ids, written = predictions.Ids(dataset), []
  rules = {name: results['protocol'][name] for name in ('split', 'exclude_seen')}

  def write(split, name, rows, columns, item_columns=('items',)):
    record = predictions.record(split, name, len(rows), results['data'], rules, results['step'])
    cells = predictions.groups(ids, split, rows, columns, item_columns)
    predictions.write(workdir, record, cells)
    written.append((split, name))

  for split in SPLITS:
    rows = found['retrieval'][split].rows
    write(split, predictions.ROWS, rows, predictions.of_labels(parts[split].labels))
    for name, evaluator in config.evaluators.items():
      result = found[name][split]
      ranked = {} if result.ranked is None else predictions.of_ranked(result.ranked)
      if len(result.rows):
        write(split, name, result.rows, ranked | result.predictions, evaluator.item_columns)
    for name, ranked in rankers[split].items():
      if name != 'model':
        folder = 'rankers' if name in results['rankers'] else 'baselines'
        write(split, f'{folder}/{name}', rows, predictions.of_ranked(ranked))
  predictions.remove_others(workdir, written)


def _log(results: Mapping[str, Any]) -> None:
  """Logs the protocol, what limits the metrics, and the test metrics."""
  for line in protocol.lines(results['protocol']):
    log.info('%s', line)
  for split, count in results['unreachable_targets'].items():
    if count:
      num_rows = results['protocol']['leakage']['rows'][split]
      log.warning(
        'eval.exclude_seen removes %d of %d %s targets, which are in their own history: recall cannot exceed '
        '%.4f',
        *(count, num_rows, split, 1 - count / num_rows),
      )
  if 'blend' in results:
    log.info('%s', weights.line(results['blend']))
  rows = {'model': results['metrics']['test'], **results['rankers'], **results['baselines']}
  for name, row in rows.items():
    log.info('test %-12s %s', name, text.headline(row))
  if results['baselines_left_out']:
    log.info('%s', outcome.left_out(results['baselines_left_out']))
  for name, by_split in results['evaluators'].items():
    if name != 'retrieval':
      log.info('test %-12s %s', name, text.line(by_split['test']))
  if results['items_sharing_a_sid']:
    log.info('of items with one semantic ID, the most popular in training is ranked first')
