"""Hop distances against a breadth-first search in plain Python."""

import itertools

import numpy as np
import pytest

from recjax.data.sequences import Sequences
from recjax.metrics import hops, onehop
from tests.recjax.metrics import logs


def by_search(train, history, target):
  """Returns the smallest number of transitions, at least one, up to 4; 0 if there is no such path."""
  pairs = {pair for row in train for pair in itertools.pairwise(row)}
  reached = set(history)
  for distance in range(1, 5):
    reached = {b for a, b in pairs if a in reached}
    if target in reached:
      return distance
  return 0


@pytest.mark.parametrize(('words', 'entries'), [(1 << 23, 1 << 23), (1, 5)])
def test_distances_equal_a_search(monkeypatch, words, entries):
  monkeypatch.setattr(hops, 'BLOCK_WORDS', words)
  monkeypatch.setattr(hops, 'BLOCK_ENTRIES', entries)
  rng = np.random.default_rng(0)
  # A sparse graph of 150 items, more than the bits of two words: all distances occur.
  train = [rng.integers(0, 150, 4).tolist() for _ in range(60)]
  rows = [[*rng.integers(0, 150, 2).tolist(), int(rng.integers(0, 150))] for _ in range(400)]
  rows[0] = [5]
  log = logs.of_lists(train, [[0, 0, 0]], 150)
  histories, targets = [row[:-1] for row in rows], np.array([row[-1] for row in rows])
  found = hops.distances(onehop.successors(log), Sequences.from_lists(histories), targets)
  assert found.dtype == np.int8
  expected = [by_search(train, *pair) for pair in zip(histories, targets.tolist(), strict=True)]
  assert found.tolist() == expected
  assert set(expected) == {0, 1, 2, 3, 4}


def test_a_target_in_its_history_needs_a_transition_too():
  log = logs.of_lists([[0, 1, 0], [2, 3]], [[0, 0, 0]], 4)
  histories = Sequences.from_lists([[0], [2], [3], []])
  found = hops.distances(onehop.successors(log), histories, np.array([0, 2, 2, 0]))
  assert found.tolist() == [2, 0, 0, 0]


def test_no_rows_and_no_transitions_are_allowed():
  log = logs.of_lists([[], []], [[0, 0, 0]] * 2, 4)
  followers = onehop.successors(log)
  assert hops.distances(followers, Sequences.from_lists([[0], []]), np.array([1, 0])).tolist() == [
    0,
    0,
  ]
  assert not len(hops.distances(followers, Sequences.from_lists([]), np.zeros(0, np.int32)))
