"""Units of sequences: each position is a target once, against a walk over all users."""

import collections
import itertools

import numpy as np
import pytest

from recjax.data import units as units_lib
from recjax.data.sequences import Sequences
from recjax.data.units import Likes, Positions, Windows, most_items


@pytest.mark.parametrize('max_items', [2, 3, 5, 8])
def test_each_position_after_the_first_is_a_target_in_one_window(max_items):
  rng = np.random.default_rng(max_items)
  lengths = [0, 1, 2, max_items - 1, max_items, max_items + 1, *rng.integers(0, 40, 30)]
  train = Sequences.from_lists([list(range(n)) for n in lengths])
  windows = Windows(train, max_items)
  seen = collections.Counter()
  for unit in range(len(windows)):
    start, size, context = windows[unit]
    user = int(np.searchsorted(train.offsets, start, side='right')) - 1
    while start >= train.offsets[user + 1]:  # users without items share an offset
      user += 1
    first = start - train.offsets[user]
    assert 1 <= context < size <= max_items
    assert first + size <= lengths[user]
    seen.update((user, first + k) for k in range(context, size))
  assert seen == collections.Counter((u, k) for u, n in enumerate(lengths) for k in range(1, n))


def test_later_windows_have_half_a_window_of_context():
  windows = Windows(Sequences.from_lists([list(range(30))]), 8)
  units = [windows[n] for n in range(len(windows))]
  assert [size for _, size, _ in units] == [8] * 7
  # The last window reaches back to be full.
  assert [context for *_, context in units] == [1, 4, 4, 4, 4, 4, 6]


def test_positions_are_numbered_user_by_user():
  train = Sequences.from_lists([[5], [1, 2, 3], [], [7, 8]])
  positions = Positions(train)
  assert [positions[n] for n in range(len(positions))] == [(1, 2, 4), (1, 3, 4), (4, 5, 6)]


@pytest.mark.parametrize('max_items', [2, 3, 5, 8])
def test_only_marked_positions_are_targets(max_items):
  rng = np.random.default_rng(max_items)
  lengths = [0, 1, 2, max_items + 1, 0, *rng.integers(0, 40, 30)]
  train = Sequences.from_lists([list(range(n)) for n in lengths])
  is_target = rng.random(train.offsets[-1]) < 0.2
  everywhere, windows = Windows(train, max_items), Windows(train, max_items, is_target)
  expected = []  # the same windows, cut after the last marked target; those without one are left out
  for unit in range(len(everywhere)):
    start, size, context = everywhere[unit]
    marked = [at for at in range(start + context, start + size) if is_target[at]]
    if marked:
      expected.append((start, marked[-1] + 1 - start, marked[0] - start))
  assert [windows[unit] for unit in range(len(windows))] == expected
  positions = Positions(train, is_target)
  users = [(train.offsets[u], train.offsets[u + 1]) for u in range(len(lengths))]
  marked = [
    (first, at, end) for first, end in users for at in range(first + 1, end) if is_target[at]
  ]
  assert [positions[unit] for unit in range(len(positions))] == marked
  for kind in (
    lambda *mask: Positions(train, *mask),
    lambda *mask: Windows(train, max_items, *mask),
  ):
    plain, whole = kind(), kind(np.ones(train.offsets[-1], bool))
    assert [plain[n] for n in range(len(plain))] == [whole[n] for n in range(len(whole))]


def _all(units):
  return [units[n] for n in range(len(units))]


@pytest.mark.parametrize('seed', range(3))
def test_counts_of_every_nth_user_give_the_same_units(seed, monkeypatch):
  rng = np.random.default_rng(seed)
  train = Sequences.from_lists([list(range(n)) for n in rng.integers(0, 12, 50)])
  marks = rng.random(train.offsets[-1]) < 0.3
  sizes = rng.integers(1, 9, 12)

  def made():
    kinds = [Positions(train), Positions(train, marks), Windows(train, 4), Windows(train, 4, marks)]
    largest = [Windows(train, 4).largest(train, sizes, 2, context) for context in (True, False)]
    return [_all(units) for units in kinds], largest

  whole = made()
  monkeypatch.setattr(units_lib, '_USERS_AT_ONCE', 7)
  assert made() == whole
  monkeypatch.setattr(units_lib, '_ENDS', 9)  # every sixth user
  assert made() == whole
  # The largest window by a walk over all of them.
  windows = _all(Windows(train, 4))
  totals = [(sizes[train.values[at : at + n]] + 2, context) for at, n, context in windows]
  assert whole[1] == [max(t.sum() for t, _ in totals), max(t[c:].sum() for t, c in totals)]


def test_interactions_without_a_rating_are_neither_liked_nor_disliked():
  train = Sequences.from_lists([[0, 1, 2], [3, 4, 5], [6, 7]])
  ratings = np.array([1, np.nan, 5, np.nan, 5, np.nan, np.nan, np.nan], np.float32)
  likes = Likes(train, ratings, 4.0)
  assert [likes[n] for n in range(len(likes))] == [(0, 2, 3)]


def test_liked_items_do_not_depend_on_blocks_of_users(monkeypatch):
  rng = np.random.default_rng(0)
  train = Sequences.from_lists([rng.integers(0, 6, n).tolist() for n in rng.integers(0, 9, 40)])
  ratings = rng.choice([1, 3, 4, 5, np.nan], len(train.values))
  whole = _all(Likes(train, ratings, 4.0))
  expected = [
    (start, at, end)
    for start, end in itertools.pairwise(train.offsets.tolist())
    for at in range(start + 1, end)
    if ratings[at] >= 4
    and any(ratings[n] < 4 and train.values[n] != train.values[at] for n in range(start, end))
  ]
  assert whole == expected and len(expected) > 20
  monkeypatch.setattr(units_lib, '_ITEMS_AT_ONCE', 10)
  assert _all(Likes(train, ratings, 4.0)) == whole


def test_the_most_items_of_a_user_count_repeats_once():
  assert most_items(Sequences.from_lists([[1, 1, 1, 1], [], [4, 0, 4], [2]])) == 2
  assert most_items(Sequences.from_lists([[], []])) == 0
