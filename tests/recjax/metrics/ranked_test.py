"""Ranked items of the rows of a split."""

import numpy as np

from recjax.metrics.ranked import Ranked


def test_ranks_of_absent_targets_are_beyond_every_cut_off():
  items = np.array([[4, 2], [1, -1], [3, 0]])
  ranked = Ranked.of(items, None, np.array([2, 9, 3]), 10, 6.0)
  assert ranked.ranks_U.tolist() == [1, 10, 0]
  assert ranked.items_UK.dtype == np.int32
  assert Ranked.of(items, None, np.array([9, 9, 9]), 1, 0.0).ranks_U.tolist() == [2, 2, 2]


def test_some_rows_have_their_share_of_the_seconds():
  ranked = Ranked.of(np.eye(3, dtype=int), np.eye(3, dtype=np.float32), np.zeros(3, int), 5, 6.0)
  taken = ranked.take(np.array([0, 2]))
  assert taken.ranks_U.tolist() == [1, 0]
  np.testing.assert_array_equal(taken.scores_UK, [[1, 0, 0], [0, 0, 1]])
  assert taken.seconds == 4.0
