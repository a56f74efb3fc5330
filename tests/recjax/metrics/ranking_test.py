"""Ranking metrics against plain loops and scikit-learn."""

import math
import statistics

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from recjax.metrics import ranking


def _random_lists(seed: int, users: int = 60, width: int = 20, items: int = 40):
  rng = np.random.default_rng(seed)
  ranked_UK = np.stack([rng.permutation(items)[:width] for _ in range(users)])
  return ranked_UK, rng.integers(0, items, users)


def test_ranks_equal_a_python_search():
  ranked_UK, targets_U = _random_lists(0)
  expected = [
    row.index(target) if target in row else len(row)
    for row, target in zip(ranked_UK.tolist(), targets_U.tolist(), strict=True)
  ]
  ranks_U = ranking.target_ranks(ranked_UK, targets_U)
  assert ranks_U.tolist() == expected
  assert ranks_U.dtype == np.int64


def test_padding_is_never_a_hit():
  ranked_UK = np.array([[3, -1, -1], [-1, -1, -1]])
  assert ranking.target_ranks(ranked_UK, np.array([3, 0])).tolist() == [0, 3]


def test_metrics_equal_plain_loops():
  ranked_UK, targets_U = _random_lists(1)
  metrics = ranking.ranking_metrics(ranking.target_ranks(ranked_UK, targets_U), (1, 5, 10, 20))
  for k in (1, 5, 10, 20):
    values = {'recall': [], 'ndcg': [], 'mrr': []}
    for row, target in zip(ranked_UK.tolist(), targets_U.tolist(), strict=True):
      place = row[:k].index(target) + 1 if target in row[:k] else None
      values['recall'].append(1.0 if place else 0.0)
      values['ndcg'].append(1 / math.log2(place + 1) if place else 0.0)
      values['mrr'].append(1 / place if place else 0.0)
    for name, column in values.items():
      assert metrics[f'{name}@{k}'] == pytest.approx(statistics.fmean(column))
      stderr = statistics.stdev(column) / math.sqrt(len(column))
      assert metrics[f'{name}@{k}_stderr'] == pytest.approx(stderr)
  assert all(type(value) is float for value in metrics.values())


def test_ndcg_equals_scikit_learn():
  ranked_UK, targets_U = _random_lists(2, width=40)  # full ranking: every item has a score
  scores = np.zeros(ranked_UK.shape)
  np.put_along_axis(scores, ranked_UK, np.arange(40, 0, -1.0)[None], axis=1)
  relevant = np.eye(40)[targets_U]
  metrics = ranking.ranking_metrics(ranking.target_ranks(ranked_UK, targets_U), (5, 10))
  for k in (5, 10):
    assert metrics[f'ndcg@{k}'] == pytest.approx(ndcg_score(relevant, scores, k=k))


def test_one_row_has_no_standard_error():
  assert ranking.ranking_metrics(np.array([0]), (1,))['recall@1_stderr'] == 0.0


def test_bad_input_is_refused():
  with pytest.raises(ValueError, match='at least one row'):
    ranking.ranking_metrics(np.array([], int), (1,))
  with pytest.raises(ValueError, match='positive'):
    ranking.ranking_metrics(np.array([0]), (0, 5))
  with pytest.raises(ValueError, match=r'\[U, K\]'):
    ranking.target_ranks(np.zeros((2, 3), int), np.zeros(3, int))
  with pytest.raises(ValueError, match='negative'):
    ranking.target_ranks(np.zeros((1, 3), int), np.array([-1]))
