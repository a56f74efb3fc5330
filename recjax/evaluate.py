"""Evaluates a model and the baselines: every held-out row once, ranked against the full catalogue.

Items of the history are removed from the ranking unless `eval.exclude_seen` is off. Under leave-one-out the
rows are the users; `data_prep.log.splits` describes the other splits.
"""

from collections.abc import Mapping
import dataclasses
import logging
import time
from typing import Any

from etils import epath
import jax
import numpy as np

from recjax import config as config_lib
from recjax import models
from recjax.baselines import BASELINES
from recjax.baselines.split import Split
from recjax.config import Config
from recjax.data.corpus import Corpus
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.sequences import Sequences
from recjax.decode.ranker import Ranker
from recjax.metrics import ranking
from recjax.metrics.evaluators.base import Context, Evaluator, Result, sample_rows
from recjax.metrics.ranked import Ranked
from recjax.metrics.reachable import count_unreachable
from recjax.recommend import make_ranker
from recjax.runtime import distributed, goodput
from recjax.workdir import evaluation_file, outcome

log = logging.getLogger(__name__)


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
  corpus = Corpus(dataset, models.family(config.model).is_encoder_decoder)
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
    size: rows of the sample; `evaluator.rows` if these are fewer. None: `evaluator.rows`.
  """
  sizes = [n for n in (size, evaluator.rows) if n is not None]
  num_rows = context.dataset.num_rows(split)
  rows = sample_rows(num_rows, min(sizes, default=None), context.seed)
  return evaluator.evaluate(context, split, rows)


def headline(metrics: Mapping[str, float]) -> str:
  """Returns one line of the metrics of retrieval; `eval.ks` always holds 10."""
  recalls = [f'{name} {metrics[name]:.4f}' for name in ('recall@5', 'recall@10') if name in metrics]
  error, ndcg = metrics['recall@10_stderr'], metrics['ndcg@10']
  return f'{"  ".join(recalls)} ± {error:.4f}  ndcg@10 {ndcg:.4f}'


def baseline_rankings(config: Config, dataset: Dataset, split: str) -> dict[str, Ranked]:
  """Returns the ranked items of every row of a split, for every baseline."""
  histories, targets = dataset.histories_and_targets(split)
  depth = max(config.eval.ks)
  baseline_input = Split(
    train=Sequences(np.asarray(dataset.train.values), np.asarray(dataset.train.offsets)),
    counted=dataset.countable_sequences(split),
    histories=histories,
    num_items=dataset.num_items,
    k=depth,
    exclude_seen=config.eval.exclude_seen,
    seen=dataset.seen(split),
    train_is_target=dataset.train_is_target,
  )
  found = {}
  for name, recommend in BASELINES.items():
    start = time.monotonic()
    items_UK = recommend(baseline_input)
    seconds = time.monotonic() - start
    found[name] = Ranked.of(items_UK, None, np.asarray(targets), depth, seconds)
  return found


def unreachable_targets(config: Config, dataset: Dataset) -> dict[str, int]:
  """Returns the number of targets that `eval.exclude_seen` removes, by split; warns if there are any."""
  if not config.eval.exclude_seen:
    return dict.fromkeys(SPLITS, 0)
  counts = {name: count_unreachable(dataset.seen(name), dataset.targets(name)) for name in SPLITS}
  for split, count in counts.items():
    if count and distributed.is_host0():
      num_rows = dataset.num_rows(split)
      log.warning(
        'eval.exclude_seen removes %d of %d %s targets, which are in their own history: recall cannot exceed '
        '%.4f',
        *(count, num_rows, split, 1 - count / num_rows),
      )
  return counts


@goodput.phase('evaluation')
def evaluate_best(
  config: Config,
  workdir: epath.Path,
  context: Context,
  step: int,
  ranked: dict[str, Ranked] | None = None,
  trained: Mapping[str, Mapping[str, Ranked]] | None = None,
) -> dict[str, Any]:
  """Runs all evaluators and baselines on the validation and the test rows; writes evaluation.json.

  Args:
    config: config of the evaluation.
    workdir: workdir of the run.
    context: the run, with the parameters of the best checkpoint.
    step: step of that checkpoint.
    ranked: is filled with the model's ranking of every split.
    trained: the rankings of baselines that are models, by split and name (`recjax.workdir.sasrec`).

  Returns:
    The content of evaluation.json; see `recjax.workdir.evaluation_file`.
  """
  dataset, ks = context.dataset, config.eval.ks
  ranked = {} if ranked is None else ranked
  found: dict[str, dict[str, Result]] = {name: {} for name in config.evaluators}
  for name, evaluator in config.evaluators.items():
    for split in SPLITS:
      found[name][split] = evaluated(context, evaluator, split)
  retrieval = found['retrieval']
  ranked |= {split: result.ranked for split, result in retrieval.items()}
  metrics = {split: ranking.ranking_metrics(ranked[split].ranks_U, ks) for split in SPLITS}
  rows = {split: len(result.rows) for split, result in retrieval.items()}
  rivals = {split: baseline_rankings(config, dataset, split) for split in SPLITS}
  for split, found_of in (trained or {}).items():
    rivals[split] |= found_of
  results = {
    'step': step,
    'training': outcome.of_training(workdir, config, step),
    'metrics': metrics,
    'rows': rows,
    'unreachable_targets': unreachable_targets(config, dataset),
    'eval': dataclasses.asdict(config.eval)
    | {'ks': list(ks), 'baselines': list(config.eval.baselines)},
    'evaluators': {
      name: {
        split: {'rows': len(result.rows)} | result.metrics for split, result in by_split.items()
      }
      for name, by_split in found.items()
    },
    'baselines': {
      name: _rival_metrics({s: rivals[s][name].take(retrieval[s].rows) for s in SPLITS}, ks)
      for name in rivals['test']
    },
    'rows_per_sec': sum(rows.values()) / sum(ranked[split].seconds for split in SPLITS),
    'items_sharing_a_sid': dataset.sids.sharing_items,
    'data': evaluation_file.data_record(dataset, config.data.item_text),
  }
  if distributed.is_host0():
    evaluation_file.write(workdir, results)
  for name, row in [('model', metrics['test']), *results['baselines'].items()]:
    log.info('test %-12s %s', name, headline(row))
  if sharing := results['items_sharing_a_sid']:
    log.info(
      '%d of %d items share their semantic ID with another; the most popular in training is ranked first',
      *(sharing, dataset.num_items),
    )
  return results


def _rival_metrics(ranked: Mapping[str, Ranked], ks: tuple[int, ...]) -> dict[str, Any]:
  """Returns the test metrics of a baseline, and under `validation` its validation metrics."""
  metrics = {split: ranking.ranking_metrics(found.ranks_U, ks) for split, found in ranked.items()}
  return metrics['test'] | {'validation': metrics['validation']}
