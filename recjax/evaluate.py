"""Exact metrics: every held-out row once, full ranking over the catalogue.

Seen items are removed unless `eval.exclude_seen` is off. Under leave-one-out the rows are the users;
see `data_prep.log.splits` for other splits.
"""

from collections.abc import Mapping
import dataclasses
import json
import logging
import time

from etils import epath
import numpy as np

from recjax import config as config_lib
from recjax.baselines import BASELINES
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.sequences import Sequences
from recjax.metrics import ranking
from recjax.recommend import Recommender
from recjax.runtime import distributed, goodput

FILE = 'evaluation.json'

log = logging.getLogger(__name__)


def sample_rows(num_rows: int, size: int, seed: int) -> np.ndarray:
  """The fixed sample that evaluations during training use: sorted row numbers, int64."""
  if size >= num_rows:
    return np.arange(num_rows)
  return np.sort(np.random.default_rng(seed).choice(num_rows, size, replace=False))


@goodput.phase('evaluation')
def evaluate(
  recommender: Recommender,
  params,
  dataset: Dataset,
  split: str,
  ks: tuple[int, ...],
  rows: np.ndarray | None = None,
  progress: bool = True,
) -> dict[str, float]:
  """recall@k, ndcg@k and mrr@k with standard errors.

  Args:
    recommender: the search.
    params: parameters on the mesh.
    dataset: the prepared data.
    split: 'validation' or 'test'.
    ks: the cut-offs.
    rows: which held-out rows of the split (users under leave-one-out); None for all.
    progress: whether to show a progress bar.
  """
  histories, targets = dataset.histories_and_targets(split)
  rows = np.arange(len(targets)) if rows is None else rows
  label = f'evaluate {split}' if progress else None
  columns = {name: dataset.of_histories(split, name) for name in recommender.columns}
  if 'times' in columns:  # in seconds, as in a file of histories
    columns['times'] = columns['times'] / dataset.ticks_per_second
  columns = {name: values for name, values in columns.items() if values is not None}
  places = [slice(histories.offsets[row], histories.offsets[row + 1]) for row in rows]
  ranked_UM, _ = recommender.rank(
    params,
    [histories.values[place] for place in places],
    label,
    [{name: values[place] for name, values in columns.items()} for place in places],
  )
  # A catalogue may have fewer items than the largest cut-off: what is absent must not count as found.
  missing = max(max(ks) - ranked_UM.shape[1], 0)
  ranked_UM = np.pad(ranked_UM, ((0, 0), (0, missing)), constant_values=-1)
  return ranking.ranking_metrics(ranking.target_ranks(ranked_UM, targets[rows]), ks)


def headline(metrics: Mapping[str, float]) -> str:
  """A line's worth of metrics; `eval.ks` may lack 5, but not 10."""
  recalls = [f'{name} {metrics[name]:.4f}' for name in ('recall@5', 'recall@10') if name in metrics]
  error, ndcg = metrics['recall@10_stderr'], metrics['ndcg@10']
  return f'{"  ".join(recalls)} ± {error:.4f}  ndcg@10 {ndcg:.4f}'


def baselines(config: config_lib.Config, dataset: Dataset) -> dict[str, dict]:
  """The metrics of every baseline on the test rows, and under `validation` on the validation ones."""
  k = max(config.eval.ks)
  train = Sequences(np.asarray(dataset.train.values), np.asarray(dataset.train.offsets))
  results = {}
  for name, recommend in BASELINES.items():
    by_split = {}
    for split in SPLITS:
      histories, targets = dataset.histories_and_targets(split)
      counted = dataset.counted_before(split)
      ranked_UK = recommend(
        train, counted, histories, dataset.num_items, k, config.eval.exclude_seen
      )
      ranks = ranking.target_ranks(ranked_UK, np.asarray(targets))
      by_split[split] = ranking.ranking_metrics(ranks, config.eval.ks)
    results[name] = by_split['test'] | {'validation': by_split['validation']}
  return results


@goodput.phase('evaluation')
def evaluate_best(
  config: config_lib.Config,
  workdir: epath.Path,
  dataset: Dataset,
  recommender: Recommender,
  params,
  step: int,
) -> dict:
  """Every validation and test row once, beside the baselines; also written to evaluation.json.

  Args:
    config: the run's config.
    workdir: where evaluation.json goes.
    dataset: the prepared data.
    recommender: the search.
    params: parameters of the best checkpoint, on the mesh.
    step: its step.
  """
  start = time.monotonic()
  metrics = {
    split: evaluate(recommender, params, dataset, split, config.eval.ks) for split in SPLITS
  }
  seconds = time.monotonic() - start
  results = {
    'step': step,
    'metrics': metrics,
    'eval': dataclasses.asdict(config.eval) | {'ks': list(config.eval.ks)},
    'baselines': baselines(config, dataset),
    'rows_per_sec': sum(map(dataset.num_rows, SPLITS)) / seconds,
    'items_sharing_a_sid': dataset.sids.sharing_items,
  }
  if distributed.is_host0():
    partial = workdir / f'{FILE}.partial'
    partial.write_text(json.dumps(results, indent=2))
    partial.replace(workdir / FILE)
  test, rivals = metrics['test'], results['baselines']
  for name, row in [('model', test), *rivals.items()]:
    log.info(
      'test %-12s %s',
      *(name, headline(row)),
    )
  if sharing := results['items_sharing_a_sid']:
    log.info(
      '%d of %d items share their SID with another: the most popular in training comes first',
      *(sharing, dataset.num_items),
    )
  return results
