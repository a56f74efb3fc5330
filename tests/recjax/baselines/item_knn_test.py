"""Item-kNN against plain loops."""

import collections

import numpy as np
import pytest

from recjax.baselines import item_knn
from tests.recjax.baselines import logs


def by_loops(train, marks, histories, seen, k, window, decay):
  near = collections.defaultdict(float)
  for row, marked in zip(train, marks, strict=True):
    for a, item in enumerate(row):
      for b, other in enumerate(row):
        if 0 < abs(a - b) <= window and item != other and marked[b]:
          near[item, other] += 1 / abs(a - b)
  of_source, of_target = collections.Counter(), collections.Counter()
  for (item, other), weight in near.items():
    of_source[item] += weight
    of_target[other] += weight
  ranked = []
  for row, hidden in zip(histories, seen, strict=True):
    scores = collections.Counter()
    for age, item in enumerate(reversed(row)):
      for other in range(logs.ITEMS):
        if (item, other) in near:
          cosine = near[item, other] / (of_source[item] * of_target[other]) ** 0.5
          scores[other] += decay**age * cosine
    ranked.append(logs.best(scores, hidden, logs.popularity_order(train, marks), k))
  return ranked


@pytest.mark.parametrize(('window', 'decay'), [(5, 0.8), (2, 0.5), (100, 1.0)])
def test_item_knn_equals_loops(window, decay):
  train, histories = logs.random_log(1)
  histories[3] = []  # a user without a history
  marks = [[True] * len(row) for row in train]
  ranked = item_knn.recommend(logs.split_of(train, histories), window, decay)
  assert ranked.dtype == np.int32
  assert ranked.tolist() == by_loops(train, marks, histories, histories, 10, window, decay)
  split = logs.split_of(train, histories, exclude_seen=False)
  nothing = [[]] * len(histories)
  expected = by_loops(train, marks, histories, nothing, 10, window, decay)
  assert item_knn.recommend(split, window, decay).tolist() == expected


def test_context_leads_to_items_but_is_not_recommended():
  train, histories = logs.random_log(5)
  split, marks, seen = logs.with_context(5)
  assert item_knn.recommend(split).tolist() == by_loops(train, marks, histories, seen, 10, 5, 0.8)


def test_equal_sums_are_ordered_by_popularity_and_index():
  # 1 and 2 are each beside 0 once; 3 and 4 are a pair that makes 2 as popular as 4.
  train = [[0, 2], [0, 1], [4, 3], [4]]
  split = logs.split_of(train, [[0]], num_items=6)
  assert item_knn.recommend(split)[0, :3].tolist() == [1, 2, -1]
  split = logs.split_of([*train, [2]], [[0]], num_items=6)
  assert item_knn.recommend(split)[0, :3].tolist() == [2, 1, -1]
