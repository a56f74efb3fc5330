"""Counts unreachable targets: `eval.exclude_seen` excludes a target that occurs in its own history.

Context does not count: a user may buy an item after viewing it.
"""

from collections.abc import Mapping

import numpy as np

from data_prep.log import arrays as arrays_lib
from recjax.data.prepared import SPLITS
from recjax.data.sequences import Sequences
from recjax.metrics.reachable import is_repeated

NAME = 'unreachable_targets'  # in statistics.json: split → count


def count(
  arrays: Mapping[str, np.ndarray], target_events: np.ndarray | None = None
) -> dict[str, int]:
  """Counts the targets that occur in their own history, by split.

  Args:
    arrays: a split, as `data_prep.log.splits` describes it.
    target_events: bool, which kinds of events may be targets; None: all.
  """
  if 'test_users' in arrays:
    return {split: _count(arrays, f'{split}_history', split, target_events) for split in SPLITS}
  # The history of the test target ends with the validation target.
  is_last = arrays['validation_items'] == arrays['test_items']
  counts = dict.fromkeys(SPLITS, 0)
  for users, rows in arrays_lib.runs(arrays['train_offsets']):
    offsets = arrays['train_offsets'][users.start : users.stop + 1] - rows.start
    histories = Sequences(arrays['train_items'][rows], offsets)
    for split in SPLITS:
      found = is_repeated(histories, arrays[f'{split}_items'][users])
      counts[split] += int((found | is_last[users] if split == 'test' else found).sum())
  return counts


def _count(
  arrays: Mapping[str, np.ndarray], prefix: str, split: str, target_events: np.ndarray | None
) -> int:
  """Counts the targets of a split that has histories."""
  total = 0
  for users, rows in arrays_lib.runs(arrays[f'{prefix}_offsets']):
    offsets = arrays[f'{prefix}_offsets'][users.start : users.stop + 1] - rows.start
    histories = Sequences(arrays[f'{prefix}_items'][rows], offsets)
    if target_events is not None:
      histories = histories.keep(target_events[arrays[f'{prefix}_events'][rows]])
    total += int(is_repeated(histories, arrays[f'{split}_items'][users]).sum())
  return total
