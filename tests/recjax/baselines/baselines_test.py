import collections
import gzip
import itertools
import json

import numpy as np
import pytest

from recjax.baselines import BASELINES, popularity, transitions
from recjax.data.sequences import Sequences
from recjax.metrics import ranking
from tests.shared_data import SHARED, needs_shared

# architecture.md, "A yardstick": recall@5, recall@10, ndcg@10 of test users.
YARDSTICK = {
  'beauty': {'transitions': (0.0521, 0.0707, 0.0433), 'popularity': (0.0077, 0.0135, 0.0061)},
  'sports': {'transitions': (0.0321, 0.0435, 0.0262), 'popularity': (0.0057, 0.0091, 0.0052)},
}


def _random_log(seed: int, users: int = 40, items: int = 25):
  rng = np.random.default_rng(seed)
  rows = [rng.integers(0, items, rng.integers(3, 12)).tolist() for _ in range(users)]
  return [row[:-2] for row in rows], [row[:-1] for row in rows]


def _padded(row: list[int], k: int) -> list[int]:
  return (row + [-1] * k)[:k]


def _popularity_by_loops(counted, histories, items, k, exclude_seen=True):
  counts = collections.Counter(i for row in counted for i in row)
  order = sorted(range(items), key=lambda i: (-counts[i], i))
  seen = histories if exclude_seen else [[]] * len(histories)
  return [_padded([i for i in order if i not in row], k) for row in seen]


def _transitions_by_loops(train, histories, k, decay, exclude_seen=True):
  counts = collections.defaultdict(collections.Counter)
  for row in sorted(filter(None, train), key=min):
    for source, target in itertools.pairwise(row):
      counts[source][target] += 1
  ranked = []
  for row in histories:
    scores = {}
    for age, source in enumerate(reversed(row)):
      for target, count in counts[source].items():
        if target not in row or not exclude_seen:
          scores[target] = scores.get(target, 0) + decay**age * count
    ranked.append(_padded(sorted(scores, key=scores.get, reverse=True), k))
  return ranked


@pytest.mark.parametrize('k', [3, 10, 30])
def test_popularity_equals_loops(k):
  train, histories = _random_log(0)
  train, known = Sequences.from_lists(train), Sequences.from_lists(histories)
  ranked = popularity.recommend(train, known, known, 25, k)
  assert ranked.dtype == np.int32
  assert ranked.tolist() == _popularity_by_loops(histories, histories, 25, k)
  counted = [[7, 7, 3], [24]]  # what is counted need not be the histories
  ranked = popularity.recommend(train, Sequences.from_lists(counted), known, 25, k)
  assert ranked.tolist() == _popularity_by_loops(counted, histories, 25, k)


@pytest.mark.parametrize('decay', [0.8, 0.5])
def test_transitions_equal_loops(decay):
  train, histories = _random_log(1)
  histories[3] = []  # a user without a history
  known = Sequences.from_lists(histories)
  ranked = transitions.recommend(Sequences.from_lists(train), known, known, 25, 10, decay=decay)
  assert ranked.dtype == np.int32
  assert ranked.tolist() == _transitions_by_loops(train, histories, 10, decay)


def test_seen_items_may_be_recommended_again():
  train, histories = _random_log(4)
  known = Sequences.from_lists(histories)
  arguments = (Sequences.from_lists(train), known, known, 25, 10, False)
  again = popularity.recommend(*arguments)
  assert again.tolist() == _popularity_by_loops(histories, histories, 25, 10, False)
  again = transitions.recommend(*arguments, decay=0.5)
  assert again.tolist() == _transitions_by_loops(train, histories, 10, 0.5, False)
  assert any(
    set(row) & set(history) for row, history in zip(again.tolist(), histories, strict=True)
  )


def test_blocks_change_nothing(monkeypatch):
  train, histories = (Sequences.from_lists(rows) for rows in _random_log(2))
  arguments = (train, histories, histories, 25, 10)
  whole = {name: recommend(*arguments) for name, recommend in BASELINES.items()}
  monkeypatch.setattr(popularity, 'BLOCK_CELLS', 50)
  monkeypatch.setattr(transitions, 'BLOCK_ENTRIES', 30)
  for name, recommend in BASELINES.items():
    np.testing.assert_array_equal(recommend(*arguments), whole[name])


def test_numbering_of_users_does_not_matter():
  train, histories = (Sequences.from_lists(rows) for rows in _random_log(3))
  # A user's lowest item is shared by several users: only ties between those depend on their order.
  shuffled = np.random.default_rng(0).permutation(len(train))
  first = transitions.count_successors(train, 25)
  second = transitions.count_successors(train.take(shuffled), 25)
  for i in range(25):
    rows = [
      dict(zip(s.items[i].tolist(), s.counts[slice(*s.items.offsets[i : i + 2])], strict=True))
      for s in (first, second)
    ]
    assert rows[0] == rows[1]
  ranked = popularity.recommend(train, histories, histories, 25, 10)
  again = popularity.recommend(train, histories.take(shuffled), histories.take(shuffled), 25, 10)
  np.testing.assert_array_equal(again, ranked[shuffled])


def test_no_users_and_bad_items():
  train, histories = Sequences.from_lists([[0, 1, 2]]), Sequences.from_lists([[0, 7]])
  empty = Sequences.from_lists([])
  for recommend in BASELINES.values():
    assert recommend(train, train, empty, 3, 5).shape == (0, 5)
    with pytest.raises(ValueError, match=r'lie in \[0, 3\)'):
      recommend(train, train, histories, 3, 5)
  with pytest.raises(ValueError, match=r'lie in \[0, 3\)'):
    popularity.recommend(train, histories, train, 3, 5)
  known = Sequences.from_lists([[0]])
  assert (transitions.recommend(empty, known, known, 3, 2) == -1).all()


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
def test_yardstick(name):
  rows, items = _sequences(next((SHARED / 'amazon2014' / name).glob('reviews_*_5.json.gz')))
  train = Sequences.from_lists([row[:-2] for row in rows])
  histories = Sequences.from_lists([row[:-1] for row in rows])
  targets = np.array([row[-1] for row in rows])
  for baseline, printed in YARDSTICK[name].items():
    ranked = BASELINES[baseline](train, histories, histories, items, 20)
    metrics = ranking.ranking_metrics(ranking.target_ranks(ranked, targets), (5, 10))
    figures = [metrics[key] for key in ('recall@5', 'recall@10', 'ndcg@10')]
    np.testing.assert_allclose(figures, printed, atol=3e-4, err_msg=f'{baseline} on {name}')
