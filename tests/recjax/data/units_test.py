"""Units of sequences: each position is a target once, against a walk over all users."""

import collections

import numpy as np
import pytest

from recjax.data.sequences import Sequences
from recjax.data.units import Positions, Windows


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
