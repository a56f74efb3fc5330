"""The graph baseline against plain loops, and against the exact walk."""

import collections

import numpy as np
import pytest

from recjax.baselines import graph
from recjax.data.sequences import Sequences
from tests.recjax.baselines import logs


def strongest(row, order, k):
  kept = sorted(row, key=lambda item: (-np.float32(row[item]), order.index(item)))[:k]
  return {item: float(np.float32(row[item])) for item in kept}


def by_loops(train, marks, histories, seen, k, options):
  order = logs.popularity_order(train, marks)
  edges = collections.defaultdict(collections.Counter)
  for row, marked in zip(train, marks, strict=True):
    for a, item in enumerate(row):
      for b, other in enumerate(row):
        if 0 < abs(a - b) <= options['window'] and item != other and marked[b]:
          edges[item][other] += 1 / abs(a - b)
  steps = {}
  for item, row in edges.items():
    kept = strongest(row, order, options['edges'])
    total = sum(kept.values())
    steps[item] = {j: (1 - options['restart']) * w / total for j, w in kept.items()}
  visits = {}
  for item in steps:
    walk, total = dict(steps[item]), collections.Counter(steps[item])
    for _ in range(options['steps'] - 1):
      reached = collections.Counter()
      for i, weight in walk.items():
        for j, share in steps.get(i, {}).items():
          reached[j] += weight * share
      walk = strongest(reached, order, options['width'])
      total.update(walk)
    visits[item] = strongest(total, order, options['width'])
  ranked = []
  for row, hidden in zip(histories, seen, strict=True):
    scores = collections.Counter()
    for age, item in enumerate(reversed(row)):
      for other, share in visits.get(item, {}).items():
        scores[other] += options['decay'] ** age * share
    ranked.append(logs.best(scores, hidden, order, k))
  return ranked


OPTIONS = [
  {'window': 5, 'decay': 0.7, 'restart': 0.5, 'steps': 3, 'edges': 15, 'width': 100},
  {'window': 2, 'decay': 0.5, 'restart': 0.2, 'steps': 4, 'edges': 3, 'width': 5},
  {'window': 3, 'decay': 1.0, 'restart': 0.8, 'steps': 1, 'edges': 4, 'width': 2},
]


@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('at_once', [20, 1 << 23])
def test_graph_equals_loops(monkeypatch, options, at_once):
  monkeypatch.setattr(graph, 'BLOCK_ENTRIES', at_once)
  train, histories = logs.random_log(1)
  histories[3] = []  # a user without a history
  marks = [[True] * len(row) for row in train]
  ranked = graph.recommend(logs.split_of(train, histories), **options)
  assert ranked.dtype == np.int32
  assert ranked.tolist() == by_loops(train, marks, histories, histories, 10, options)


def test_context_leads_to_items_but_is_not_recommended():
  train, histories = logs.random_log(5)
  split, marks, seen = logs.with_context(5)
  expected = by_loops(train, marks, histories, seen, 10, OPTIONS[0])
  assert graph.recommend(split, **OPTIONS[0]).tolist() == expected


def test_visits_of_a_whole_graph_are_powers_of_the_walk():
  train = Sequences.from_lists(logs.random_log(2)[0])
  split = logs.split_of(logs.random_log(2)[0], [])
  got = graph.visits(split, 5, restart=0.4, steps=3, edges=logs.ITEMS, width=logs.ITEMS).toarray()
  near = np.zeros((logs.ITEMS, logs.ITEMS))
  for u in range(len(train)):
    row = train[u]
    for a in range(len(row)):
      for b in range(len(row)):
        if 0 < abs(a - b) <= 5 and row[a] != row[b]:
          near[row[a], row[b]] += 1 / abs(a - b)
  walk = 0.6 * near / near.sum(axis=1, keepdims=True)
  expected = walk + walk @ walk + walk @ walk @ walk
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_walk_reaches_items_that_never_occur_together():
  train = [[0, 1], [1, 2], [2, 3]]
  ranked = graph.recommend(logs.split_of(train, [[0]], num_items=5, k=4))
  assert ranked.tolist() == [[1, 2, 3, -1]]
