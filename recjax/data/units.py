"""Units of training sequences, computed from a number; no list of all units is stored."""

import numpy as np

from recjax.data.sequences import Sequences, offsets_of


class _PerUser:
  """Units that are numbered user by user."""

  def __init__(self, counts_U: np.ndarray):
    self._ends_U = offsets_of(counts_U)[1:]

  def __len__(self) -> int:
    return int(self._ends_U[-1]) if len(self._ends_U) else 0

  def user_and_rank(self, unit: int) -> tuple[int, int]:
    """Returns the user of a unit, and the unit's number among that user's units."""
    user = int(np.searchsorted(self._ends_U, unit, side='right'))
    return user, unit - (int(self._ends_U[user - 1]) if user else 0)


class Windows(_PerUser):
  """Windows of at most `max_items` items of every user with at least two items.

  A longer sequence becomes overlapping windows, half a window apart. The items before a window's first
  target are context. So every position after a user's first is a target in exactly one window.
  """

  def __init__(self, train: Sequences, max_items: int):
    self._offsets = train.offsets
    self._max_items = max_items
    self._stride = max_items // 2
    lengths_U = train.lengths
    extra_U = np.maximum(lengths_U - max_items, 0)
    super().__init__(np.where(lengths_U >= 2, 1 + -(-extra_U // self._stride), 0))

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns a window's start in the flat training array, its items, and how many are context."""
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
    """Returns places in the flat training array: the user's first, the unit's, the user's end."""
    user, nth = self.user_and_rank(unit)
    first = int(self._offsets[user])
    return first, first + nth + 1, int(self._offsets[user + 1])


class Likes:
  """Liked items of users who also have another item that they did not like.

  A unit is a position after a user's first whose rating is at least `liked_from`. The user has rated at
  least one other item lower than `liked_from`, anywhere in the training sequence.
  """

  def __init__(self, train: Sequences, ratings: np.ndarray, liked_from: float):
    users = np.repeat(np.arange(len(train)), train.lengths)
    keys = users.astype(np.int64) * (int(train.values.max(initial=0)) + 1) + train.values
    _, pair_of = np.unique(keys, return_inverse=True)  # (user, item)
    liked, disliked = ratings >= liked_from, ratings < liked_from
    of_user = np.bincount(users, disliked, len(train))[users]
    of_pair = np.bincount(pair_of, disliked)[pair_of]
    is_first = np.zeros(len(users), bool)
    is_first[train.offsets[:-1][train.lengths > 0]] = True
    self._positions = np.flatnonzero(liked & ~is_first & (of_user > of_pair))
    self._offsets = train.offsets

  def __len__(self) -> int:
    return len(self._positions)

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns places in the flat training array: the user's first, the unit's, the user's end."""
    position = int(self._positions[unit])
    user = int(np.searchsorted(self._offsets, position, side='right')) - 1
    return int(self._offsets[user]), position, int(self._offsets[user + 1])
