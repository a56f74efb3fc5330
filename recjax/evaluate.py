"""Exact metrics: every user of a split once, full ranking over the catalogue, seen items removed."""

import json
import logging
import time

from etils import epath
import numpy as np

from recjax import config as config_lib
from recjax import distributed
from recjax.baselines import BASELINES
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.sequences import Sequences
from recjax.metrics import ranking
from recjax.recommend import Recommender

FILE = 'evaluation.json'

log = logging.getLogger(__name__)


def sample_users(num_users: int, size: int, seed: int) -> np.ndarray:
  """The fixed sample that evaluations during training use: sorted user indices, int64."""
  if size >= num_users:
    return np.arange(num_users)
  return np.sort(np.random.default_rng(seed).choice(num_users, size, replace=False))


def evaluate(
  recommender: Recommender,
  params,
  dataset: Dataset,
  split: str,
  ks: tuple[int, ...],
  users: np.ndarray | None = None,
  progress: bool = True,
) -> dict[str, float]:
  """recall@k, ndcg@k and mrr@k with standard errors.

  Args:
    recommender: the search.
    params: parameters on the mesh.
    dataset: the prepared data.
    split: 'validation' or 'test'.
    ks: the cut-offs.
    users: which users; None for all.
    progress: whether to show a progress bar.
  """
  histories, targets = dataset.histories_and_targets(split)
  users = np.arange(dataset.num_users) if users is None else users
  label = f'evaluate {split}' if progress else None
  ranked_UM, _ = recommender.rank(params, [histories[u] for u in users], label)
  return ranking.ranking_metrics(ranking.target_ranks(ranked_UM, targets[users]), ks)


def baselines(config: config_lib.Config, dataset: Dataset) -> dict[str, dict]:
  """The metrics of every baseline on the test users, and under `validation` on the validation ones."""
  k = max(config.eval.ks)
  train = Sequences(np.asarray(dataset.train.values), np.asarray(dataset.train.offsets))
  results = {}
  for name, recommend in BASELINES.items():
    by_split = {}
    for split in SPLITS:
      histories, targets = dataset.histories_and_targets(split)
      ranked_UK = recommend(train, histories, dataset.num_items, k)
      ranks = ranking.target_ranks(ranked_UK, np.asarray(targets))
      by_split[split] = ranking.ranking_metrics(ranks, config.eval.ks)
    results[name] = by_split['test'] | {'validation': by_split['validation']}
  return results


def evaluate_best(
  config: config_lib.Config,
  workdir: epath.Path,
  dataset: Dataset,
  recommender: Recommender,
  params,
  step: int,
) -> dict:
  """Every validation and test user once, beside the baselines; also written to evaluation.json.

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
    'baselines': baselines(config, dataset),
    'users_per_sec': len(SPLITS) * dataset.num_users / seconds,
  }
  if distributed.is_host0():
    partial = workdir / f'{FILE}.partial'
    partial.write_text(json.dumps(results, indent=2))
    partial.replace(workdir / FILE)
  test, rivals = metrics['test'], results['baselines']
  for name, row in [('model', test), *rivals.items()]:
    log.info(
      'test %-12s recall@5 %.4f  recall@10 %.4f ± %.4f  ndcg@10 %.4f',
      *(name, row['recall@5'], row['recall@10'], row['recall@10_stderr'], row['ndcg@10']),
    )
  return results
