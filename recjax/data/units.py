"""Units of training sequences: number → place in the log, without a list of all places."""

import numpy as np

from recjax.data.sequences import Sequences


class _PerUser:
  """Units that are numbered user by user."""

  def __init__(self, counts_U: np.ndarray):
    self._ends_U = np.cumsum(counts_U, dtype=np.int64)

  def __len__(self) -> int:
    return int(self._ends_U[-1]) if len(self._ends_U) else 0

  def user_and_rank(self, unit: int) -> tuple[int, int]:
    """The user of a unit, and its number among the user's units."""
    user = int(np.searchsorted(self._ends_U, unit, side='right'))
    return user, unit - (int(self._ends_U[user - 1]) if user else 0)


class Windows(_PerUser):
  """Windows of at most `max_items` items of every user with at least two.

  A longer user becomes overlapping windows, half a window apart; the items before a window's first target
  are context, so that every position after a user's first is a target in exactly one window.
  """

  def __init__(self, train: Sequences, max_items: int):
    self._offsets = train.offsets
    self._max_items = max_items
    self._stride = max_items // 2
    lengths_U = train.lengths
    extra_U = np.maximum(lengths_U - max_items, 0)
    super().__init__(np.where(lengths_U >= 2, 1 + -(-extra_U // self._stride), 0))

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Where a window begins in the flat training array, its items, and how many of them are context."""
    user, nth = self.user_and_rank(unit)
    first = int(self._offsets[user])
    length = int(self._offsets[user + 1]) - first
    end = min(self._max_items + nth * self._stride, length)
    start = max(end - self._max_items, 0)
    first_target = 1 if nth == 0 else self._max_items + (nth - 1) * self._stride
    return first + start, end - start, first_target - start


class Positions(_PerUser):
  """Every position of every user after the first."""

  def __init__(self, train: Sequences):
    self._offsets = train.offsets
    super().__init__(np.maximum(train.lengths - 1, 0))

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """In the flat training array: where the user's sequence begins, the position, and where it ends."""
    user, nth = self.user_and_rank(unit)
    first = int(self._offsets[user])
    return first, first + nth + 1, int(self._offsets[user + 1])
