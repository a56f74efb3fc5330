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

  Args:
    train: the training sequences.
    max_items: length of a window.
    is_target: bool, aligned with `train.values`: only marked positions are targets. A window then ends with its
      last target, and windows without a target are left out. None: all positions.
  """

  def __init__(self, train: Sequences, max_items: int, is_target: np.ndarray | None = None):
    self._offsets = train.offsets
    self._max_items = max_items
    self._stride = max_items // 2
    self._is_target = is_target
    self._kept = None
    lengths_U = train.lengths
    extra_U = np.maximum(lengths_U - max_items, 0)
    super().__init__(np.where(lengths_U >= 2, 1 + -(-extra_U // self._stride), 0))
    if is_target is not None:
      self._kept = np.unique(self._window_of(np.flatnonzero(later(train, is_target))))

  def _window_of(self, positions: np.ndarray) -> np.ndarray:
    """Returns the number of the window, among all windows, in which each position is a target."""
    users = np.searchsorted(self._offsets, positions, side='right') - 1
    places = positions - self._offsets[users]
    # The last place of window n is max_items + n stride - 1.
    nth = np.maximum(-(-(places + 1 - self._max_items) // self._stride), 0)
    starts_U = self._ends_U - np.diff(self._ends_U, prepend=0)
    return starts_U[users] + nth

  def largest(self, sizes: np.ndarray, with_context: bool = False) -> int:
    """Returns the largest sum of sizes of a window's items after its context.

    Args:
      sizes: ints, aligned with `train.values`, not negative. Marks of targets are ignored, so the sum is a bound.
      with_context: whether the sum includes the items of context.
    """
    counts_U = np.diff(self._ends_U, prepend=0)
    lengths, firsts = (np.repeat(x, counts_U) for x in (np.diff(self._offsets), self._offsets[:-1]))
    nth = np.arange(len(lengths)) - np.repeat(self._ends_U - counts_U, counts_U)
    ends = np.minimum(self._max_items + nth * self._stride, lengths)
    if with_context:
      starts = np.maximum(ends - self._max_items, 0)
    else:
      starts = np.where(nth == 0, 1, self._max_items + (nth - 1) * self._stride)
    totals = offsets_of(sizes)
    return int((totals[firsts + ends] - totals[firsts + starts]).max(initial=0))

  def __len__(self) -> int:
    return super().__len__() if self._kept is None else len(self._kept)

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns the window's start in the flat training array, its length, and its number of context items."""
    if self._kept is not None:
      unit = int(self._kept[unit])
    user, nth = self.user_and_rank(unit)
    first = int(self._offsets[user])
    length = int(self._offsets[user + 1]) - first
    end = min(self._max_items + nth * self._stride, length)
    start = max(end - self._max_items, 0)
    first_target = 1 if nth == 0 else self._max_items + (nth - 1) * self._stride
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

  def __init__(self, train: Sequences, is_target: np.ndarray | None = None):
    self._offsets = train.offsets
    if is_target is None:
      self._positions = None
      super().__init__(np.maximum(train.lengths - 1, 0))
    else:
      marked = later(train, is_target)
      self._positions = np.flatnonzero(marked)
      super().__init__(np.diff(offsets_of(marked)[train.offsets]))

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns indices into the flat training array: the user's start, the unit, the user's end."""
    user, nth = self.user_and_rank(unit)
    first, end = int(self._offsets[user]), int(self._offsets[user + 1])
    position = first + nth + 1 if self._positions is None else int(self._positions[unit])
    return first, position, end


def most_items(train: Sequences) -> int:
  """Returns the largest number of different items of a user."""
  users = np.repeat(np.arange(len(train)), train.lengths)
  width = int(train.values.max(initial=0)) + 1
  pairs = np.unique(users * width + train.values)
  return int(np.bincount(pairs // width, minlength=1).max())


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
    users = np.repeat(np.arange(len(train)), train.lengths)
    keys = users.astype(np.int64) * (int(train.values.max(initial=0)) + 1) + train.values
    _, pair_of = np.unique(keys, return_inverse=True)  # (user, item)
    liked, disliked = ratings >= liked_from, ratings < liked_from
    user_dislikes = np.bincount(users, disliked, len(train))[users]
    pair_dislikes = np.bincount(pair_of, disliked)[pair_of]
    self._positions = np.flatnonzero(later(train, liked & (user_dislikes > pair_dislikes)))
    self._offsets = train.offsets

  def __len__(self) -> int:
    return len(self._positions)

  def __getitem__(self, unit: int) -> tuple[int, int, int]:
    """Returns indices into the flat training array: the user's start, the unit, the user's end."""
    position = int(self._positions[unit])
    user = int(np.searchsorted(self._offsets, position, side='right')) - 1
    return int(self._offsets[user]), position, int(self._offsets[user + 1])
