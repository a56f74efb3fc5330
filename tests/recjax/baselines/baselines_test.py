"""All baselines: blocks, empty splits, and published figures."""

import collections
import gzip
import json

import numpy as np
import pytest

from recjax.baselines import (
  BASELINES,
  Baseline,
  bpr_mf,
  expensive,
  graph,
  popularity,
  sums,
  transitions,
)
from recjax.metrics import ranking
from tests.recjax.baselines import logs
from tests.shared_data import SHARED, needs_shared

# architecture.md, "A yardstick": recall@5, recall@10, ndcg@10 of test users.
YARDSTICK = {
  'beauty': {
    'transitions': (0.0521, 0.0707, 0.0433),
    'popularity': (0.0077, 0.0135, 0.0061),
    'item_knn': (0.0525, 0.0717, 0.0438),
  },
  'sports': {
    'transitions': (0.0321, 0.0435, 0.0262),
    'popularity': (0.0057, 0.0091, 0.0052),
    'item_knn': (0.0239, 0.0340, 0.0199),
  },
}


@pytest.fixture(autouse=True)
def _small_factors(monkeypatch):
  for name, value in {'WIDTH': 8, 'EPOCHS': 3, 'BATCH': 16}.items():
    monkeypatch.setattr(bpr_mf, name, value)
  monkeypatch.setattr(bpr_mf, '_last', {})


def recommended(given):
  return {name: baseline.recommend(given) for name, baseline in BASELINES.items()}


def test_block_size_does_not_change_the_ranking(monkeypatch):
  given = logs.split_of(*logs.random_log(2))
  whole = recommended(given)
  monkeypatch.setattr(popularity, 'BLOCK_CELLS', 50)
  monkeypatch.setattr(transitions, 'BLOCK_ENTRIES', 30)
  monkeypatch.setattr(sums, 'BLOCK_ENTRIES', 30)
  monkeypatch.setattr(graph, 'BLOCK_ENTRIES', 30)
  monkeypatch.setattr(bpr_mf, 'BLOCK_CELLS', 50)
  for name, ranked in recommended(given).items():
    np.testing.assert_array_equal(ranked, whole[name])


def test_lists_hold_distinct_items_that_the_user_has_not_seen():
  """Catalogues smaller than k, repeated items, users without history, and items that training never had."""
  train = [[0, 1, 1, 2], [], [2, 3], [1], [0, 3, 0]]
  histories = [[0, 1, 1, 2], [], [2, 3, 5], [1, 4], [0, 3, 0]]
  for k in (2, 10):
    for name, ranked in recommended(logs.split_of(train, histories, num_items=6, k=k)).items():
      assert ranked.shape == (5, k) and ranked.dtype == np.int32
      for row, history in zip(ranked.tolist(), histories, strict=True):
        items = [item for item in row if item >= 0]
        assert row == logs.padded(items, k)
        assert len(set(items)) == len(items) and not set(items) & set(history)
        if name in ('transitions', 'item_knn', 'graph'):
          assert not set(items) & {4, 5}
          assert items or not history or k == 2 or name == 'transitions' or history == [2, 3, 5]


@pytest.mark.parametrize('histories', [[], [[]], [[0]]])
@pytest.mark.parametrize('train', [[], [[]], [[0, 1, 2]], [[0], [0]]])
def test_a_split_may_be_empty(train, histories):
  for ranked in recommended(logs.split_of(train, histories, num_items=3, k=5)).values():
    assert ranked.shape == (len(histories), 5)


def test_rows_of_a_split_by_time_are_ranked_by_training_alone():
  """Two rows of one user, and a user that training does not have."""
  train, _ = logs.random_log(7)
  rows = [train[4], [*train[4], 3], [7]]
  given = logs.split_of(train, rows, train, users=np.array([4, 4, -1]))
  alone = logs.split_of(train, [rows[1]], train, users=np.array([4]))
  for name, ranked in recommended(given).items():
    np.testing.assert_array_equal(ranked[1:2], BASELINES[name].recommend(alone))


def test_the_numbering_of_users_does_not_matter():
  train, histories = logs.random_log(3)
  order = np.random.default_rng(0).permutation(len(train))
  shuffled = logs.split_of([train[u] for u in order], [histories[u] for u in order])
  given = logs.split_of(train, histories)
  for name in ('popularity', 'item_knn', 'graph'):
    again = BASELINES[name].recommend(shuffled)
    np.testing.assert_array_equal(again, BASELINES[name].recommend(given)[order])


def test_baselines_above_a_tenth_of_the_training_are_expensive(monkeypatch):
  given = logs.split_of(*logs.random_log(2))
  costs = {
    name: baseline.seconds(given) for name, baseline in BASELINES.items() if baseline.seconds
  }
  assert expensive([given, given], None).keys() == {'bpr_mf'}
  assert expensive([given, given], 5.0) == pytest.approx({'bpr_mf': 2 * costs['bpr_mf']})
  assert expensive([given, given], 1000.0) == {}
  monkeypatch.setitem(BASELINES, 'slow', Baseline(popularity.recommend, lambda split: 55.0))
  assert expensive([given, given], 1099.0) == {'slow': 110.0}
  assert expensive([given, given], 1101.0) == {}


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
    ranked = BASELINES[baseline].recommend(given)
    metrics = ranking.ranking_metrics(ranking.target_ranks(ranked, targets), (5, 10))
    figures = [metrics[key] for key in ('recall@5', 'recall@10', 'ndcg@10')]
    np.testing.assert_allclose(figures, printed, atol=3e-4, err_msg=f'{baseline} on {name}')
