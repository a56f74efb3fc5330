"""How many targets directly followed an item of their history in training: what counting of transitions can find."""

import dataclasses
from typing import Any, Self

import numpy as np

from recjax.data.dataset import SPLITS, Log
from recjax.data.sequences import Sequences, blocks
from recjax.report.data.whole import BLOCK

ROWS = 20_000  # rows of a split whose targets are looked up


def shares(log: Log) -> dict[str, dict[str, Any]]:
  """Returns shares of targets that directly followed the newest item, or any item, of their history in training.

  The second share bounds the recall of transition counting. At most `ROWS` evenly spaced rows of a split are counted.

  Returns:
    Split → `rows`, `of_newest_share` and `of_any_share`.
  """
  samples = {name: _Sample.of(log, name) for name in SPLITS}
  asked = np.unique(np.concatenate([sample.pairs for sample in samples.values()]))
  is_found = _occur(log, asked)
  return {name: sample.shares(asked, is_found) for name, sample in samples.items()}


@dataclasses.dataclass(frozen=True)
class _Sample:
  """Rows of a split.

  Attributes:
    count: number of rows.
    owners: int64 `[n]`, the row of every item of the histories.
    pairs: int64 `[n]`, the item and the target of its row, as item · num_items + target.
  """

  count: int
  owners: np.ndarray
  pairs: np.ndarray

  @classmethod
  def of(cls, log: Log, name: str) -> Self:
    targets = log.targets(name)
    count = min(len(targets), ROWS)
    rows = np.arange(count) * len(targets) // count
    histories = _histories(log, name, rows)
    owners = np.repeat(np.arange(count), histories.lengths)
    return cls(
      count, owners, histories.values.astype(np.int64) * log.num_items + targets[rows][owners]
    )

  def shares(self, asked: np.ndarray, is_found: np.ndarray) -> dict[str, Any]:
    found = is_found[np.searchsorted(asked, self.pairs)]
    is_newest = np.append(self.owners[1:] != self.owners[:-1], True)[: len(self.owners)]
    return {
      'rows': self.count,
      'of_newest_share': float(found[is_newest].sum() / self.count),
      'of_any_share': len(np.unique(self.owners[found])) / self.count,
    }


def _histories(log: Log, name: str, rows: np.ndarray) -> Sequences:
  """The histories of some rows; see `Log.histories_and_targets`."""
  if not log.is_leave_one_out:
    columns = (log.column(f'{name}_history_{kind}') for kind in ('items', 'offsets'))
    return Sequences(*columns).take(rows)
  found = log.train.take(rows)
  return found.append(log.targets('validation')[rows]) if name == 'test' else found


def _occur(log: Log, asked: np.ndarray) -> np.ndarray:
  """Returns which pairs of an item and a target directly after it occur in training, bool like `asked`.

  Args:
    log: the log.
    asked: int64, item · num_items + target, ascending.
  """
  found = np.zeros(len(asked), bool)
  is_first, is_second = np.zeros(log.num_items, bool), np.zeros(log.num_items, bool)
  is_first[asked // log.num_items], is_second[asked % log.num_items] = True, True
  offsets = np.asarray(log.train.offsets)
  for users in blocks(np.diff(offsets), BLOCK):
    bounds = offsets[users[0] : users[-1] + 2]
    rows = slice(int(bounds[0]), int(bounds[-1]))
    items = np.asarray(log.train.values[rows])
    is_pair = np.ones(len(items) + 1, bool)
    is_pair[bounds - bounds[0]] = False  # the first item of a user follows none
    is_pair = is_pair[1:-1] & is_first[items[:-1]] & is_second[items[1:]]
    if log.target_events is not None:
      is_pair &= log.target_events[log.train_events[rows][1:]]
    at = np.flatnonzero(is_pair)
    pairs = items[at].astype(np.int64) * log.num_items + items[at + 1]
    places = np.searchsorted(asked, pairs)
    found[places[np.append(asked, -1)[places] == pairs]] = True
  return found
