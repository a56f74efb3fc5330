"""Transition counts against plain loops."""

import collections
import itertools

import numpy as np
import pytest

from recjax.baselines import transitions
from recjax.data.sequences import Sequences
from tests.recjax.baselines import logs


def by_loops(train, histories, k, decay, exclude_seen=True):
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
    ranked.append(logs.padded(sorted(scores, key=scores.get, reverse=True), k))
  return ranked


@pytest.mark.parametrize('decay', [0.8, 0.5])
def test_transitions_equal_loops(decay):
  train, histories = logs.random_log(1)
  histories[3] = []  # a user without a history
  ranked = transitions.recommend(logs.split_of(train, histories), decay=decay)
  assert ranked.dtype == np.int32
  assert ranked.tolist() == by_loops(train, histories, 10, decay)


def test_seen_items_may_be_recommended_again():
  train, histories = logs.random_log(4)
  again = transitions.recommend(logs.split_of(train, histories, exclude_seen=False), decay=0.5)
  assert again.tolist() == by_loops(train, histories, 10, 0.5, False)
  assert any(
    set(row) & set(history) for row, history in zip(again.tolist(), histories, strict=True)
  )


def test_order_of_users_does_not_matter():
  train = Sequences.from_lists(logs.random_log(3)[0])
  # Several users share their lowest item. Only ties between these users depend on their order.
  shuffled = np.random.default_rng(0).permutation(len(train))
  first = transitions.count_successors(train, logs.ITEMS)
  second = transitions.count_successors(train.take(shuffled), logs.ITEMS)
  for i in range(logs.ITEMS):
    rows = [
      dict(zip(s.items[i].tolist(), s.counts[slice(*s.items.offsets[i : i + 2])], strict=True))
      for s in (first, second)
    ]
    assert rows[0] == rows[1]


def test_nothing_is_recommended_without_training_sequences():
  assert (transitions.recommend(logs.split_of([], [[0]], num_items=3)) == -1).all()


def test_context_precedes_but_does_not_follow():
  train, histories = logs.random_log(5)
  split, marks, seen = logs.with_context(5)
  counts = collections.defaultdict(collections.Counter)
  for row, marked in zip(train, marks, strict=True):
    for (source, target), is_target in zip(itertools.pairwise(row), marked[1:], strict=True):
      counts[source][target] += is_target
  ranked = transitions.recommend(split, decay=0.5).tolist()
  for row, hidden, found in zip(histories, seen, ranked, strict=True):
    scores = collections.Counter()
    for age, source in enumerate(reversed(row)):
      for target, count in counts[source].items():
        scores[target] += 0.5**age * count
    best = sorted(
      (scores[item] for item in scores if item not in hidden and scores[item]), reverse=True
    )
    assert [scores[item] for item in found if item >= 0] == pytest.approx(best[:10])
    assert not set(found) & set(hidden)
