"""What changed between the logs of two preparations: users, items, dates."""

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
from typing import Any

import numpy as np

from recjax.data.dataset import SPLITS, Dataset, Log

_DAY_S = 86400.0
_RECENT_DAYS = 28  # last days of the old log, whose rate is compared with that of the new days


@dataclasses.dataclass(frozen=True)
class Summary:
  """The parts of a prepared log that a comparison of two logs needs.

  Attributes:
    items: raw ids of the items, in item order.
    users: raw ids of the users.
    times: float64, seconds, of all interactions that are training items or targets. None: times give only an
      order.
    interactions: number of interactions.
  """

  items: Sequence[str]
  users: Sequence[str]
  times: np.ndarray | None
  interactions: int

  @classmethod
  def of(cls, log: Log) -> 'Summary':
    """Reads the parts of a prepared log."""
    times = [times_of(log, part) for part in ('train', *SPLITS)]
    known = [each for each in times if each is not None]
    return cls(
      items=[item['id'] for item in log.items],
      users=log.user_ids(),
      times=np.concatenate(known) if known else None,
      interactions=log.statistics['interactions'],
    )

  @property
  def newest(self) -> float | None:
    """Seconds since 1970 of the newest interaction; None: not known."""
    return None if self.times is None else float(self.times.max())


def times_of(log: Log, part: str) -> np.ndarray | None:
  """Returns the times of the interactions of `train`, or of the targets of a split, float64 seconds.

  None: times give only an order, or the source gave none for this part.
  """
  ticks = log.ticks_per_second
  times = log.column(f'{part}_times') if ticks else None
  return None if times is None else np.asarray(times) / ticks


def compare(old: Summary, new: Summary) -> dict[str, Any]:
  """Returns counts of both logs and of their differences, which can be written as JSON.

  Returns:
    `interactions`, `users`, `items`: [old, new]; `new_items`, `removed_items`, `new_users`, `removed_users`.
    If times are known also `newest`: [old, new] in ISO 8601; `new_interactions`: later than the old log; and
    `events_per_day`: [rate of the last 28 days of the old log, rate after it].
  """
  change = {
    'interactions': [old.interactions, new.interactions],
    'users': [len(old.users), len(new.users)],
    'items': [len(old.items), len(new.items)],
  }
  for name in ('items', 'users'):
    before, after = set(getattr(old, name)), set(getattr(new, name))
    change |= {f'new_{name}': len(after - before), f'removed_{name}': len(before - after)}
  if old.times is None or new.times is None:
    return change
  recent = old.times[old.times > old.newest - _RECENT_DAYS * _DAY_S]
  later = new.times[new.times > old.newest]
  return change | {
    'newest': [_iso(old.newest), _iso(new.newest)],
    'new_interactions': len(later),
    'events_per_day': [
      _rate(len(recent), old.newest - float(recent.min())),
      _rate(len(later), new.newest - old.newest),
    ],
  }


def _rate(events: int, seconds: float) -> float:
  """Returns events per day; a period shorter than a day counts as a day."""
  return round(events / max(seconds / _DAY_S, 1.0), 2)


def _iso(seconds: float) -> str:
  moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
  return moment.isoformat(timespec='seconds').removesuffix('+00:00')


def new_item_rows(old: Summary, dataset: Dataset, split: str) -> dict[str, np.ndarray]:
  """Returns whether the target of every row of a split is a new item, bool `[rows]`.

  Returns:
    `all`: any new item. `trained`: a new item that is among the training interactions.
  """
  known = set(old.items)
  is_new_I = np.array([item['id'] not in known for item in dataset.items], bool)
  is_trained_I = dataset.train.counts(len(is_new_I)) > 0
  targets = np.asarray(dataset.targets(split))
  return {'all': is_new_I[targets], 'trained': (is_new_I & is_trained_I)[targets]}


def reasons(old: Summary, change: Mapping[str, Any], most_removed: float) -> list[str]:
  """Returns the reasons against a training on the new log; empty if there are none.

  Args:
    old: the old log.
    change: result of `compare`.
    most_removed: largest share of the old items that may be missing.
  """
  found = []
  removed, items = change['removed_items'], len(old.items)
  if removed > most_removed * items:
    found.append(
      f'the new log lacks {removed:,} of the {items:,} old items, more than {most_removed:.0%}'
    )
  if 'newest' in change:
    before, after = change['newest']
    if after < before:
      found.append(
        f'dates go back: the newest interaction is of {after}, that of the old log of {before}'
      )
    elif not change['new_interactions']:
      found.append(
        f'nothing is new: no interaction is later than {before}, the newest of the old log'
      )
  return found
