"""Popularity against plain loops."""

import collections

import numpy as np
import pytest

from recjax.baselines import popularity
from recjax.data.sequences import Sequences
from tests.recjax.baselines import logs


def by_loops(counted, histories, k, exclude_seen=True):
  counts = collections.Counter(i for row in counted for i in row)
  order = sorted(range(logs.ITEMS), key=lambda i: (-counts[i], i))
  seen = histories if exclude_seen else [[]] * len(histories)
  return [logs.padded([i for i in order if i not in row], k) for row in seen]


@pytest.mark.parametrize('k', [3, 10, 30])
def test_popularity_equals_loops(k):
  train, histories = logs.random_log(0)
  ranked = popularity.recommend(logs.split_of(train, histories, k=k))
  assert ranked.dtype == np.int32
  assert ranked.tolist() == by_loops(histories, histories, k)
  counted = [[7, 7, 3], [24]]  # need not be the histories
  ranked = popularity.recommend(logs.split_of(train, histories, counted, k=k))
  assert ranked.tolist() == by_loops(counted, histories, k)


def test_seen_items_may_be_recommended_again():
  train, histories = logs.random_log(4)
  again = popularity.recommend(logs.split_of(train, histories, exclude_seen=False))
  assert again.tolist() == by_loops(histories, histories, 10, False)


def test_order_of_users_does_not_matter():
  train, histories = logs.random_log(3)
  shuffled = np.random.default_rng(0).permutation(len(train))
  ranked = popularity.recommend(logs.split_of(train, histories))
  again = popularity.recommend(logs.split_of(train, [histories[u] for u in shuffled]))
  np.testing.assert_array_equal(again, ranked[shuffled])


def test_items_of_context_may_be_recommended():
  train, histories = logs.random_log(6)
  seen = [row[::2] for row in histories]
  split = logs.split_of(train, histories, train, seen=Sequences.from_lists(seen))
  assert popularity.recommend(split).tolist() == by_loops(train, seen, 10)
