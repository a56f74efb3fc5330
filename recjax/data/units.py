"""Units of training sequences. A unit is computed from its number; no list of units is stored."""

import numpy as np

from recjax.data.sequences import Sequences, offsets_of


class _PerUser:
  """Base class of units that are numbered user by user."""

  def __init__(self, counts_U: np.ndarray):
    self._ends_U = offsets_of(counts_U)[1:]

  def __len__(self) -> int:
    return int(self._ends_U[-1]) if len(self._ends_U) else 0

  def user_and_rank(self, unit: int) -> tuple[int, int]:
    """Returns the user of a unit, and the unit's index among the units of that user."""
    user = int(np.searchsorted(self._ends_U, unit, side='right'))
    return user, unit - (int(self._ends_U[user - 1]) if user else 0)


class Windows(_PerUser):
  """Windows of at most `max_items` items of every user with at least two items.

  A longer sequence is cut into overlapping windows, half a window apart. The items before a window's first
  target are context. Every position after a user's first item is a target in exactly one window.
  """

  def __init__(self, train: Sequences, max_items: int):
    self._offsets = train.offsets
    self._max_items = max_items
    self._stride = max_items // 2
    lengths_U = train.lengths
    extra_U = np.maximum(lengths_U - max_items, 0)
    super().__init__(np.where(lengths_U >= 2, 1 + -(-extra_U // self._stride), 0))

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns the window's start in the flat training array, its length, and its number of context items."""
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
    """Returns indices into the flat training array: the user's start, the unit, the user's end."""
    user, nth = self.user_and_rank(unit)
    first = int(self._offsets[user])
    return first, first + nth + 1, int(self._offsets[user + 1])


class Likes:
  """Liked items of users who disliked at least one other item.

  A unit is a position after a user's first with a rating of at least `liked_from`. The user rated at least one
  other item of the training sequence lower than `liked_from`.
  """

  def __init__(self, train: Sequences, ratings: np.ndarray, liked_from: float):
    users = np.repeat(np.arange(len(train)), train.lengths)
    keys = users.astype(np.int64) * (int(train.values.max(initial=0)) + 1) + train.values
    _, pair_of = np.unique(keys, return_inverse=True)  # (user, item)
    liked, disliked = ratings >= liked_from, ratings < liked_from
    user_dislikes = np.bincount(users, disliked, len(train))[users]
    pair_dislikes = np.bincount(pair_of, disliked)[pair_of]
    is_first = np.zeros(len(users), bool)
    is_first[train.offsets[:-1][train.lengths > 0]] = True
    self._positions = np.flatnonzero(liked & ~is_first & (user_dislikes > pair_dislikes))
    self._offsets = train.offsets

  def __len__(self) -> int:
    return len(self._positions)

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns indices into the flat training array: the user's start, the unit, the user's end."""
    position = int(self._positions[unit])
    user = int(np.searchsorted(self._offsets, position, side='right')) - 1
    return int(self._offsets[user]), position, int(self._offsets[user + 1])
