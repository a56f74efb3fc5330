"""Counts of training as scores: by brute force over the sequences, and by hand."""

import math

import numpy as np
import pytest

from recjax.data.sequences import Sequences
from recjax.decode.memory import Memory
from recjax.schema import blend

TRAIN = Sequences.from_lists([[0, 1, 2, 1], [1, 2, 3], [4, 1], [5], [0, 1, 2]])
ITEMS = 7


def memory(train=TRAIN, items=ITEMS, is_target=None, **changes):
  return Memory(blend.Memory(counts='transitions', **changes), train, items, is_target)


def test_counts_of_successors_decay_with_age():
  counts = memory().read([np.array([1]), np.array([0, 1]), np.array([], int), np.array([1, 1])])
  followed = {1: {2: 3}, 0: {1: 2}}  # 2 → 1 and 2 → 3 and 4 → 1 have other sources
  assert counts.toarray()[0].tolist() == [0, 0, followed[1][2], 0, 0, 0, 0]
  assert counts.toarray()[1] == pytest.approx([0, 0.8 * followed[0][1], 3, 0, 0, 0, 0])
  assert not counts.toarray()[2].any()
  assert counts.toarray()[3] == pytest.approx([0, 0, 3 + 0.8 * 3, 0, 0, 0, 0])


@pytest.mark.parametrize('counts', ['transitions', 'neighbours'])
@pytest.mark.parametrize('has_context', [False, True])
def test_scores_and_best_items_equal_brute_force(counts, has_context):
  rng = np.random.default_rng(1)
  lists = [rng.integers(0, 12, rng.integers(1, 12)).tolist() for _ in range(60)]
  marks = [
    rng.random(len(items)) < 0.6 if has_context else np.ones(len(items), bool) for items in lists
  ]
  table = np.zeros((12, 12))
  for items, is_target in zip(lists, marks, strict=True):
    for p, q in np.ndindex(len(items), len(items)):
      if not is_target[q]:
        continue
      if counts == 'transitions':
        table[items[p], items[q]] += q == p + 1
      elif 1 <= abs(p - q) <= 5 and items[p] != items[q]:
        table[items[p], items[q]] += 1 / abs(p - q)
  settings = blend.Memory(counts=counts, decay=0.7, smoothing=0.5, candidates=4)
  is_target = np.concatenate(marks) if has_context else None
  made = Memory(settings, Sequences.from_lists(lists), 12, is_target)
  popularity = np.bincount(np.concatenate(lists)[np.concatenate(marks)], minlength=12)
  histories = [rng.integers(0, 12, n) for n in (0, 1, 3, 8)]
  excluded = [history[:2] for history in histories]
  found = made.read(histories)
  best = made.best(found, excluded)
  asked = np.array([[0, 5, -1], [11, 2, 3], [4, 4, 1], [-1, -1, 7]])
  scores = made.scores(found, asked)
  for u, history in enumerate(histories):
    total = sum((0.7**age * table[item] for age, item in enumerate(history[::-1])), np.zeros(12))
    order = sorted(range(12), key=lambda i: (-round(total[i], 9), -popularity[i], i))
    expected = [i for i in order if total[i] > 1e-9 and i not in excluded[u]][:4]
    assert best[u].tolist() == expected + [-1] * (4 - len(expected))
    for item, score in zip(asked[u], scores[u], strict=True):
      assert score == pytest.approx(-math.inf if item < 0 else math.log(total[item] + 0.5))


def test_settings_are_checked():
  with pytest.raises(ValueError, match='counts must be one of none, transitions, neighbours; got'):
    blend.Memory(counts='bigrams')
  with pytest.raises(ValueError, match=r'eval.memory.decay must be in \(0, 1\]; got 1.5'):
    blend.Memory(decay=1.5)
  with pytest.raises(ValueError, match=r'eval.memory.smoothing must be in \(0, 1e\+06\]; got 0'):
    blend.Memory(smoothing=0)
  with pytest.raises(ValueError, match=r'eval.memory.candidates must not be negative; got -1'):
    blend.Memory(candidates=-1)


def test_more_candidates_than_items_are_all_items():
  made = memory(candidates=10**9)
  assert made.candidates == ITEMS
  assert made.best(made.read([np.array([1])]), [np.array([], int)]).shape == (1, ITEMS)


def test_counts_move_to_another_catalogue_by_item():
  table = memory().read([np.array([i]) for i in range(ITEMS)]).toarray()
  place = np.array([3, 99, 1, 2, 7, 0])  # of new items; 99 and 7 are not counted, 4, 5, 6 are gone
  moved = memory().moved(place)
  found = moved.read([np.array([i]) for i in range(len(place))]).toarray()
  for new, old in np.ndindex(6, 6):
    is_known = place[new] < ITEMS and place[old] < ITEMS
    assert found[new, old] == (table[place[new], place[old]] if is_known else 0)
  counts = moved.read([np.array([2])])
  best = moved.best(counts, [np.array([], int)])[0]
  expected = [int(i) for i in np.argsort(-found[2], kind='stable') if found[2, i]]
  assert best[: len(expected)].tolist() == expected
