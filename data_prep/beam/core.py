"""The k-core by rounds: every round counts the rows of the items that are left, in all ranges at once.

A round drops the rows of dropped items, then those of users with fewer than k rows, and counts every item. Items with
fewer than k rows are dropped next. The rounds end when no item is. The k-core is unique, so that the order in which
rows are dropped does not change it.
"""

import numpy as np


def kept_rows(
  users: np.ndarray, items: np.ndarray, is_target: np.ndarray | None, left_I: np.ndarray, k: int
) -> np.ndarray:
  """Returns the targets of a range whose item is left and whose user has k such rows: bool `[n]`.

  Args:
    users: int32 `[n]`; all rows of a user are in the range.
    items: int32 `[n]`.
    is_target: bool `[n]`; None: all rows are targets.
    left_I: bool, the items that are left.
    k: the smallest number of rows of a user.
  """
  kept = left_I[items] if is_target is None else left_I[items] & is_target
  return kept & (np.bincount(users[kept], minlength=int(users.max(initial=-1)) + 1) >= k)[users]


def item_counts(items: np.ndarray, kept: np.ndarray, num_items: int) -> np.ndarray:
  """Returns the number of kept rows of every item: int64 `[I]`."""
  return np.bincount(items[kept], minlength=num_items)


def next_items(left_I: np.ndarray, counts_I: np.ndarray, k: int) -> np.ndarray:
  """Returns the items that are left after a round: bool `[I]`."""
  return left_I & (counts_I >= k)


def with_context(
  users: np.ndarray, items: np.ndarray, kept: np.ndarray, is_context: np.ndarray, left_I: np.ndarray
) -> np.ndarray:
  """Adds the context of the users and items that are left to the kept targets: bool `[n]`."""
  is_left = np.zeros(int(users.max(initial=-1)) + 1, bool)
  is_left[users[kept]] = True
  return kept | (is_context & is_left[users] & left_I[items])
