"""Counts unreachable targets: `eval.exclude_seen` excludes a target that occurs in its own history.

Context does not count: a user may buy an item after viewing it.
"""

from collections.abc import Mapping

import numpy as np

from recjax.data.prepared import SPLITS
from recjax.data.sequences import Sequences
from recjax.metrics.reachable import count_unreachable

NAME = 'unreachable_targets'  # in statistics.json: split → count


def count(
  arrays: Mapping[str, np.ndarray], target_events: np.ndarray | None = None
) -> dict[str, int]:
  """Counts the targets that occur in their own history, by split.

  Args:
    arrays: a split, as `data_prep.log.splits` describes it.
    target_events: bool, which kinds of events may be targets; None: all.
  """
  counts = {}
  histories = Sequences(arrays['train_items'], arrays['train_offsets'])
  for split in SPLITS:
    if 'test_users' in arrays:
      parts = (arrays[f'{split}_history_{part}'] for part in ('items', 'offsets'))
      histories = Sequences(*parts)
      if target_events is not None:
        histories = histories.keep(target_events[arrays[f'{split}_history_events']])
    elif split == 'test':
      histories = histories.append(arrays['validation_items'])
    counts[split] = count_unreachable(histories, arrays[f'{split}_items'])
  return counts
