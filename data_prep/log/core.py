"""The k-core of a log: the largest part in which every user and every item has at least k interactions."""

import numpy as np

from data_prep.log import arrays


def k_core(
  offsets: np.ndarray,
  items: np.ndarray,
  k: int,
  is_context: np.ndarray | None = None,
  scratch: arrays.Scratch | None = None,
) -> np.ndarray:
  """Finds the largest part of a log in which every user and every item has at least k rows.

  The k-core of the bipartite multigraph of users and items (Seidman, "Network structure and minimum
  degree", 1983): repeated interactions of a user with an item count each time.

  Args:
    offsets: int64 `[U + 1]`; user u has the rows from `offsets[u]` to `offsets[u + 1]`.
    items: int32 `[N]`, item indices from 0.
    k: minimum number of rows; 0 keeps all rows.
    is_context: bool `[N]`, rows that do not count. For k > 0 they are kept if their user and their item are. None:
      all rows count.
    scratch: makes the result.

  Returns:
    bool `[N]`, the rows to keep.
  """
  scratch = scratch or arrays.Scratch()
  keep = scratch.empty(len(items), bool)
  keep[:] = True
  if k == 0 or not len(items):
    return keep
  if is_context is not None:
    for rows in arrays.blocks(len(items)):
      keep[rows] = ~is_context[rows]
  num_items = 1 + max(int(items[rows].max()) for rows in arrays.blocks(len(items)))
  count_U = np.diff(arrays.marked_before(keep, offsets))
  count_I = arrays.counts(items, num_items, lambda rows: keep[rows])
  while True:
    stays_U, stays_I = count_U >= k, count_I >= k
    num_removed = 0
    for users, rows in arrays.runs(offsets):
      values, kept = items[rows], keep[rows]
      stays = stays_I[values]
      lengths = np.diff(offsets[users.start : users.stop + 1])
      stays &= np.repeat(stays_U[users], lengths)
      removed = np.flatnonzero(kept & ~stays)
      if len(removed):
        num_removed += len(removed)
        count_I -= np.bincount(values[removed], minlength=num_items)
        owners = np.searchsorted(offsets, rows.start + removed, side='right') - 1
        first = users.start
        count_U[users] -= np.bincount(owners - first, minlength=users.stop - first)
        kept[removed] = False
        keep[rows] = kept
    if not num_removed:
      break
  if is_context is not None:
    for users, rows in arrays.runs(offsets):
      lengths = np.diff(offsets[users.start : users.stop + 1])
      with_both = stays_I[items[rows]] & np.repeat(stays_U[users], lengths)
      keep[rows] |= is_context[rows] & with_both
  return keep
