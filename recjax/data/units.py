"""Units of training sequences. A unit is computed from its number; no list of units is stored."""

import abc
from collections.abc import Iterator
from typing import Any

import numpy as np

from recjax.data.arrays import Mapped
from recjax.data.sequences import Sequences, blocks, offsets_of

_ENDS = 1 << 20  # users whose units are counted in memory; of more users, every 2nd, 3rd, …
_USERS_AT_ONCE = 1 << 18
_ITEMS_AT_ONCE = 1 << 22


class _PerUser(abc.ABC):
  """Base class of units that are numbered user by user.

  Memory holds the number of units before every user, for more than 2^20 users before every 2nd, 3rd, … user. The users
  between are counted again where a unit is computed.

  Args:
    train: the training sequences. Their offsets and marks may be read by range.
  """

  def __init__(self, train: Sequences):
    self._offsets = train.offsets
    self._num_users = len(train)
    self._stride = max(1, -(-self._num_users // _ENDS))
    ends = []
    for first, end in self._user_blocks():
      counts_U = self._counts(first, end)
      if self._stride > 1:
        counts_U = np.add.reduceat(counts_U, np.arange(0, len(counts_U), self._stride))
      ends.append(counts_U)
    self._ends = offsets_of(np.concatenate([*ends, np.zeros(0, np.int64)]))[1:]

  @abc.abstractmethod
  def _counts(self, first: int, end: int) -> np.ndarray:
    """Returns the number of units of the users from `first` to `end` - 1, int64."""

  def _user_blocks(self) -> Iterator[tuple[int, int]]:
    """Yields first and end of consecutive blocks of users."""
    size = max(_USERS_AT_ONCE // self._stride, 1) * self._stride
    for first in range(0, self._num_users, size):
      yield first, min(first + size, self._num_users)

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def user_and_rank(self, unit: int) -> tuple[int, int]:
    """Returns the user of a unit, and the unit's index among the units of that user."""
    group = int(np.searchsorted(self._ends, unit, side='right'))
    rest = unit - (int(self._ends[group - 1]) if group else 0)
    if self._stride == 1:
      return group, rest
    first = group * self._stride
    ends_U = np.cumsum(self._counts(first, min(first + self._stride, self._num_users)))
    user = int(np.searchsorted(ends_U, rest, side='right'))
    return first + user, rest - (int(ends_U[user - 1]) if user else 0)

  def _lengths(self, first: int, end: int) -> np.ndarray:
    return np.diff(self._offsets[first : end + 1])


class Windows(_PerUser):
  """Windows of at most `max_items` items of every user with at least two items.

  A longer sequence is cut into overlapping windows, half a window apart. The items before a window's first
  target are context. Every position after a user's first item is a target in exactly one window.

  Args:
    train: the training sequences.
    max_items: length of a window.
    is_target: bool, aligned with `train.values`: only marked positions are targets. A window then ends with its
      last target, and windows without a target are left out. None: all positions.
  """

  def __init__(self, train: Sequences, max_items: int, is_target: Any | None = None):
    self._max_items = max_items
    self._half = max_items // 2
    self._is_target = is_target
    super().__init__(train)

  def _counts(self, first: int, end: int) -> np.ndarray:
    if self._is_target is None:
      return self._all_counts(self._lengths(first, end))
    return np.bincount(self._kept(first, end)[0], minlength=end - first)

  def _all_counts(self, lengths_U: np.ndarray) -> np.ndarray:
    """The number of windows of every user, if all positions are targets."""
    extra_U = np.maximum(lengths_U - self._max_items, 0)
    return np.where(lengths_U >= 2, 1 + -(-extra_U // self._half), 0)

  def _kept(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the windows with a target of some users: the user, counted from `first`, and its window's number."""
    offsets = np.asarray(self._offsets[first : end + 1])
    at, user_of = _marked(offsets, self._is_target)
    places = at - (offsets[user_of] - offsets[0])
    # The last place of window n is max_items + n half windows - 1.
    nth = np.maximum(-(-(places + 1 - self._max_items) // self._half), 0)
    most = int(nth.max(initial=0)) + 1
    users, windows = np.divmod(np.unique(user_of * most + nth), most)
    return users, windows

  def largest(
    self, train: Sequences, sizes_I: np.ndarray, extra: int = 0, with_context: bool = False
  ) -> int:
    """Returns the largest sum of sizes of a window's items after its context.

    Args:
      train: the training sequences.
      sizes_I: ints, not negative, one for every item. Marks of targets are ignored, so the sum is a bound.
      extra: what is added for every item of a window.
      with_context: whether the sum includes the items of context.
    """
    most = 0
    for first_user, end_user in self._user_blocks():
      offsets = np.asarray(self._offsets[first_user : end_user + 1])
      lengths_U = np.diff(offsets)
      counts_U = self._all_counts(lengths_U)
      lengths, firsts = (np.repeat(x, counts_U) for x in (lengths_U, offsets[:-1] - offsets[0]))
      nth = np.arange(len(lengths)) - np.repeat(offsets_of(counts_U)[:-1], counts_U)
      ends = np.minimum(self._max_items + nth * self._half, lengths)
      if with_context:
        starts = np.maximum(ends - self._max_items, 0)
      else:
        starts = np.where(nth == 0, 1, self._max_items + (nth - 1) * self._half)
      totals = offsets_of(sizes_I[train.values[offsets[0] : offsets[-1]]] + extra)
      most = max(most, int((totals[firsts + ends] - totals[firsts + starts]).max(initial=0)))
    return most

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns the window's start in the flat training array, its length, and its number of context items."""
    user, nth = self.user_and_rank(unit)
    if self._is_target is not None:
      nth = int(self._kept(user, user + 1)[1][nth])
    first = int(self._offsets[user])
    length = int(self._offsets[user + 1]) - first
    end = min(self._max_items + nth * self._half, length)
    start = max(end - self._max_items, 0)
    first_target = 1 if nth == 0 else self._max_items + (nth - 1) * self._half
    if self._is_target is not None:
      targets = np.flatnonzero(self._is_target[first + first_target : first + end])
      first_target, end = first_target + int(targets[0]), first_target + int(targets[-1]) + 1
    return first + start, end - start, first_target - start


class Positions(_PerUser):
  """Every position of every user after the first.

  Args:
    train: the training sequences.
    is_target: bool, aligned with `train.values`: only marked positions are units. None: all positions.
  """

  def __init__(self, train: Sequences, is_target: Any | None = None):
    self._is_target = is_target
    super().__init__(train)

  def _counts(self, first: int, end: int) -> np.ndarray:
    if self._is_target is None:
      return np.maximum(self._lengths(first, end) - 1, 0)
    _, user_of = _marked(np.asarray(self._offsets[first : end + 1]), self._is_target)
    return np.bincount(user_of, minlength=end - first)

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns indices into the flat training array: the user's start, the unit, the user's end."""
    user, nth = self.user_and_rank(unit)
    first, end = int(self._offsets[user]), int(self._offsets[user + 1])
    if self._is_target is not None:
      at, _ = _marked(np.array([first, end]), self._is_target)
      return first, first + int(at[nth]), end
    return first, first + nth + 1, end


def target_marks(log: Any) -> Mapped | None:
  """Returns which interactions of a `recjax.data.dataset.Log` may be targets, unread. None: all of them."""
  if log.target_events is None:
    return None
  return Mapped(log.target_events.__getitem__, log.train_events)


def rated_marks(log: Any) -> Mapped:
  """Returns which interactions of a `recjax.data.dataset.Log` have a rating, unread."""
  return Mapped(lambda ratings: ~np.isnan(ratings), log.train_ratings)


def _marked(offsets: np.ndarray, is_target: Any) -> tuple[np.ndarray, np.ndarray]:
  """Returns the marked positions of consecutive users after their first ones.

  Args:
    offsets: int64 `[n + 1]`, a part of the offsets of all users.
    is_target: bool, aligned with the values of all users.

  Returns:
    The places of the positions, counted from the first user's start, and their users, counted from the first one.
  """
  local = offsets - offsets[0]
  marks = later(Sequences(np.empty(0, np.int32), local), is_target[offsets[0] : offsets[-1]])
  at = np.flatnonzero(marks)
  return at, np.searchsorted(local, at, side='right') - 1


def most_items(train: Sequences) -> int:
  """Returns the largest number of different items of a user."""
  most = 0
  for rows in blocks(train.lengths, _ITEMS_AT_ONCE):
    part = train.take(rows)
    users = np.repeat(np.arange(len(part)), part.lengths)
    width = int(part.values.max(initial=0)) + 1
    pairs = np.unique(users * width + part.values)
    most = max(most, int(np.bincount(pairs // width).max(initial=0)))
  return most


def later(train: Sequences, is_marked: np.ndarray) -> np.ndarray:
  """Returns the marks without those of users' first positions, which have no history: bool."""
  is_marked = is_marked.copy()
  is_marked[train.offsets[:-1][train.lengths > 0]] = False
  return is_marked


class Likes:
  """Liked items of users who disliked at least one other item.

  A unit is a position after a user's first with a rating of at least `liked_from`. The user rated at least one
  other item of the training sequence lower than `liked_from`. Interactions without a rating (NaN) are neither.
  """

  def __init__(self, train: Sequences, ratings: np.ndarray, liked_from: float):
    self._offsets = np.asarray(train.offsets)
    found = [np.zeros(0, np.int64)]
    for users in blocks(np.diff(self._offsets), _ITEMS_AT_ONCE):
      bounds = self._offsets[users[0] : users[-1] + 2]
      rows = slice(int(bounds[0]), int(bounds[-1]))
      part = Sequences(np.asarray(train.values[rows]), bounds - bounds[0])
      found.append(rows.start + _liked(part, np.asarray(ratings[rows]), liked_from))
    self._positions = np.concatenate(found)

  def __len__(self) -> int:
    return len(self._positions)

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns indices into the flat training array: the user's start, the unit, the user's end."""
    position = int(self._positions[unit])
    user = int(np.searchsorted(self._offsets, position, side='right')) - 1
    return int(self._offsets[user]), position, int(self._offsets[user + 1])


def _liked(train: Sequences, ratings: np.ndarray, liked_from: float) -> np.ndarray:
  """The positions of `Likes` among the interactions of some users."""
  users = np.repeat(np.arange(len(train)), train.lengths)
  keys = users.astype(np.int64) * (int(train.values.max(initial=0)) + 1) + train.values
  _, pair_of = np.unique(keys, return_inverse=True)  # (user, item)
  liked, disliked = ratings >= liked_from, ratings < liked_from
  user_dislikes = np.bincount(users, disliked, len(train))[users]
  pair_dislikes = np.bincount(pair_of, disliked)[pair_of]
  return np.flatnonzero(later(train, liked & (user_dislikes > pair_dislikes)))
