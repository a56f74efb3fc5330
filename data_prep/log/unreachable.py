"""Counts unreachable targets: `eval.exclude_seen` excludes a target that occurs in its own history.

Context does not count: a user may buy an item after viewing it.
"""

from collections.abc import Mapping
import json
import logging

import numpy as np

from recjax import config as config_lib
from recjax.data.dataset import SPLITS
from recjax.data.prepared import Prepared
from recjax.data.sequences import Sequences
from recjax.metrics.reachable import count_unreachable

log = logging.getLogger(__name__)

STATISTICS = 'interactions/statistics.json'
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


def warn(config: config_lib.Config, prepared: Prepared) -> None:
  """Logs a warning if `eval.exclude_seen` is set and some targets are therefore unreachable."""
  statistics = json.loads((prepared / STATISTICS).read_text())
  counts = statistics.get(NAME, {})  # absent in folders of earlier versions
  if not config.eval.exclude_seen or not any(counts.values()):
    return
  totals = {split: statistics.get(f'{split}_rows', statistics['users']) for split in SPLITS}
  shares = [
    f'{counts[split]:,} of {totals[split]:,} {split} targets ({counts[split] / totals[split]:.1%})'
    for split in SPLITS
  ]
  log.warning(
    'eval.exclude_seen removes seen items from the recommendations; %s occur in their own history, so they '
    'are never recommended. Set --config.eval.exclude_seen=False to predict repeated interactions',
    ' and '.join(shares),
  )
