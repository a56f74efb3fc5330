"""Exact metrics: every user of a split once, full ranking over the catalogue, seen items removed."""

import numpy as np

from recjax import config as config_lib
from recjax.baselines import BASELINES
from recjax.data.dataset import Dataset
from recjax.data.sequences import Sequences
from recjax.metrics import ranking
from recjax.recommend import Recommender


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
    for split in ('validation', 'test'):
      histories, targets = dataset.histories_and_targets(split)
      ranked_UK = recommend(train, histories, dataset.num_items, k)
      ranks = ranking.target_ranks(ranked_UK, np.asarray(targets))
      by_split[split] = ranking.ranking_metrics(ranks, config.eval.ks)
    results[name] = by_split['test'] | {'validation': by_split['validation']}
  return results
