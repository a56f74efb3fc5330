"""All baselines: blocks, empty splits, and published figures."""

import collections
import gzip
import json

import numpy as np
import pytest

from recjax.baselines import BASELINES, popularity, transitions
from recjax.metrics import ranking
from tests.recjax.baselines import logs
from tests.shared_data import SHARED, needs_shared

# architecture.md, "A yardstick": recall@5, recall@10, ndcg@10 of test users.
YARDSTICK = {
  'beauty': {'transitions': (0.0521, 0.0707, 0.0433), 'popularity': (0.0077, 0.0135, 0.0061)},
  'sports': {'transitions': (0.0321, 0.0435, 0.0262), 'popularity': (0.0057, 0.0091, 0.0052)},
}


def test_block_size_does_not_change_the_ranking(monkeypatch):
  given = logs.split_of(*logs.random_log(2))
  whole = {name: recommend(given) for name, recommend in BASELINES.items()}
  monkeypatch.setattr(popularity, 'BLOCK_CELLS', 50)
  monkeypatch.setattr(transitions, 'BLOCK_ENTRIES', 30)
  for name, recommend in BASELINES.items():
    np.testing.assert_array_equal(recommend(given), whole[name])


@pytest.mark.parametrize('name', BASELINES)
def test_a_split_may_be_empty(name):
  assert BASELINES[name](logs.split_of([[0, 1, 2]], [], num_items=3, k=5)).shape == (0, 5)


def _sequences(file) -> tuple[list[list[int]], int]:
  rows = collections.defaultdict(list)
  with gzip.open(file, 'rt') as lines:
    for line in lines:
      review = json.loads(line)
      rows[review['reviewerID']].append((review['unixReviewTime'], review['asin']))
  ids = {asin: i for i, asin in enumerate(sorted({a for row in rows.values() for _, a in row}))}
  by_time = (sorted(rows[user], key=lambda row: row[0]) for user in sorted(rows))
  return [[ids[asin] for _, asin in row] for row in by_time], len(ids)


@pytest.mark.parametrize('name', ['beauty', 'sports'])
@needs_shared('amazon2014')
def test_baselines_reach_the_published_metrics(name):
  rows, items = _sequences(next((SHARED / 'amazon2014' / name).glob('reviews_*_5.json.gz')))
  given = logs.split_of(
    [row[:-2] for row in rows], [row[:-1] for row in rows], num_items=items, k=20
  )
  targets = np.array([row[-1] for row in rows])
  for baseline, printed in YARDSTICK[name].items():
    ranked = BASELINES[baseline](given)
    metrics = ranking.ranking_metrics(ranking.target_ranks(ranked, targets), (5, 10))
    figures = [metrics[key] for key in ('recall@5', 'recall@10', 'ndcg@10')]
    np.testing.assert_allclose(figures, printed, atol=3e-4, err_msg=f'{baseline} on {name}')
