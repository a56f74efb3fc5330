"""Cleans a raw log: numbers ids, rejects or drops duplicates, filters to the k-core, sorts by time."""

import dataclasses
from typing import Any

import numpy as np

from data_prep.log.numbering import factorise, renumber
from recjax.data.sequences import offsets_of
from recjax.schema.checks import check


@dataclasses.dataclass(frozen=True)
class HeldOutRows:
  """The rows of a source's own validation or test part.

  Attributes:
    users: str `[n]`, raw ids.
    histories: for each target the items before it: raw ids, oldest first.
    targets: str `[n]`, raw item ids.
  """

  users: np.ndarray
  histories: list[list[str]]
  targets: np.ndarray


@dataclasses.dataclass(frozen=True)
class RawLog:
  """The output of a source: one row per interaction, in file order.

  Attributes:
    users: str `[N]`, raw ids.
    items: str `[N]`, raw ids.
    times: int64 `[N]`; later times are larger numbers.
    item_records: catalogue records by raw item id, with any of title, brand, categories, price and
      description (see `data_prep.log.item_text.tidy`). An item may lack a record. Items without interactions
      are ignored unless `data.catalogue` is 'all'.
    ratings: float32 `[N]`, or None.
    events: str `[N]`, kinds of interactions, or None.
    ticks_per_second: unit of the times; 0: the times only define an order.
    held_out: the rows of a source's own `validation` and `test` parts; the other columns are then its
      training part. None: the source has no split.
    unreadable_ratings: number of ratings that cannot be read. If it is not 0, `ratings` is None.
  """

  users: np.ndarray
  items: np.ndarray
  times: np.ndarray
  item_records: dict[str, dict[str, Any]]
  ratings: np.ndarray | None = None
  events: np.ndarray | None = None
  held_out: dict[str, HeldOutRows] | None = None
  ticks_per_second: int = 1
  unreadable_ratings: int = 0


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """`HeldOutRows` with indices in place of raw ids.

  Attributes:
    users: int32 `[n]`.
    history_items: int32, flat.
    history_offsets: int64 `[n + 1]`.
    targets: int32 `[n]`, item indices.
  """

  users: np.ndarray
  history_items: np.ndarray
  history_offsets: np.ndarray
  targets: np.ndarray


@dataclasses.dataclass(frozen=True)
class CleanLog:
  """Sequences of a log, with users and items numbered in the order of their sorted raw ids.

  Attributes:
    user_ids: U raw ids.
    item_ids: I raw ids.
    items: int32 `[N]`, item indices. User u has `items[offsets[u]:offsets[u + 1]]`, oldest first.
    times: int64 `[N]`.
    rows: int64 `[N]`, row numbers in the raw log, which order interactions of equal times.
    offsets: int64 `[U + 1]`. Users that only occur in a source's held-out rows have empty sequences.
    ratings: float32 `[N]` or None.
    events: int32 `[N]`, indices of `event_names`, or None.
    event_names: kinds of interactions, sorted; empty without events.
    held_out: a source's own validation and test rows, or None.
    duplicates: number of rows that were dropped because they repeat another row.
    below_k_core: number of users, of items and of interactions outside the k-core.
    ticks_per_second: unit of the times; 0: the times only define an order.
    unreadable_ratings: see `RawLog`.
  """

  user_ids: list[str]
  item_ids: list[str]
  items: np.ndarray
  times: np.ndarray
  rows: np.ndarray
  offsets: np.ndarray
  ratings: np.ndarray | None = None
  events: np.ndarray | None = None
  event_names: tuple[str, ...] = ()
  held_out: dict[str, HeldOut] | None = None
  duplicates: int = 0
  below_k_core: tuple[int, int, int] = (0, 0, 0)
  ticks_per_second: int = 1
  unreadable_ratings: int = 0


def clean(
  log: RawLog, k: int, duplicates: str = 'refuse', catalogue: str = 'interacted'
) -> CleanLog:
  """Filters a raw log to its k-core and sorts each user's rows by time.

  The sort is stable: rows of one user with equal times stay in file order. Duplicates are dropped before
  the k-core filter counts interactions.

  Args:
    log: the log of a source.
    k: see `k_core`.
    duplicates: 'refuse' or 'drop' rows that repeat an earlier one in user, item and time.
    catalogue: 'interacted': items of the remaining interactions and of held-out rows. 'all': also every other
      item with a record, even if it has no interactions or is outside the k-core.

  Raises:
    ValueError: the columns differ in length; an id is not valid text; a time is not a whole number; a rating
      is not finite; there are duplicates and `duplicates` is 'refuse'; the k-core is empty; or `k` is not 0
      for a source with its own held-out rows.
  """
  _check_columns(log)
  check(
    log.held_out is None or k == 0,
    'data.k_core must be 0 for a source with its own split, because its rows are not filtered',
    k,
    'data.k_core=0',
  )
  times = _int64_times(log)
  held_out_users, held_out_items = _held_out_columns(log)
  user_ids, (users, *held_out_users) = factorise(log.users, *held_out_users)
  item_ids, (items, *held_out_items) = factorise(log.items, *held_out_items)
  order = np.lexsort((times, users))
  repeated = _repeated(users[order], items[order], times[order])
  if repeated.any():
    if duplicates == 'refuse':
      raise _duplicates_error(log, times, order[repeated])
    order = order[~repeated]
  rows = order[k_core(users[order], items[order], k)]
  if not len(rows):
    raise ValueError(
      f'the {k}-core must keep at least one interaction; it keeps none of {len(log.users)}. '
      'Set --config.data.k_core to a smaller number'
    )
  below = tuple(
    len(np.unique(column[order])) - len(np.unique(column[rows])) for column in (users, items)
  )
  records = log.item_records if catalogue == 'all' else ()
  user_ids, (users, *held_out_users) = renumber(user_ids, (users[rows], *held_out_users))
  item_ids, (items, *held_out_items) = renumber(item_ids, (items[rows], *held_out_items), records)
  events, event_names = None, []
  if log.events is not None:
    event_names, (events,) = factorise(log.events[rows])
  return CleanLog(
    user_ids,
    item_ids,
    items,
    times[rows],
    rows,
    offsets_of(np.bincount(users, minlength=len(user_ids))),
    None if log.ratings is None else np.asarray(log.ratings, np.float32)[rows],
    events,
    tuple(event_names),
    _held_out(log, held_out_users, held_out_items),
    int(repeated.sum()),
    (*below, len(order) - len(rows)),
    log.ticks_per_second,
    log.unreadable_ratings,
  )


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
  """Finds the largest part of a log in which every user and every item has at least k rows.

  The k-core of the bipartite multigraph of users and items (Seidman, "Network structure and minimum
  degree", 1983): repeated interactions of a user with an item count each time.

  Args:
    users: int `[N]`, user indices from 0.
    items: int `[N]`, item indices from 0.
    k: minimum number of rows; 0 keeps all rows.

  Returns:
    bool `[N]`, the rows to keep.
  """
  keep = np.zeros(len(users), bool)
  rows = np.arange(len(users))
  while True:
    is_kept = (np.bincount(users)[users] >= k) & (np.bincount(items)[items] >= k)
    if is_kept.all():
      keep[rows] = True
      return keep
    users, items, rows = users[is_kept], items[is_kept], rows[is_kept]


def _held_out_columns(log: RawLog) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """The user columns and the item columns (history, target) of every part of a source's own split."""
  parts = (log.held_out or {}).values()
  histories = [np.array([item for row in part.histories for item in row], str) for part in parts]
  pairs = zip(histories, (part.targets for part in parts), strict=True)
  return [part.users for part in parts], [column for pair in pairs for column in pair]


def _held_out(
  log: RawLog, users: list[np.ndarray], items: list[np.ndarray]
) -> dict[str, HeldOut] | None:
  """The inverse of `_held_out_columns`, with indices for raw ids."""
  if log.held_out is None:
    return None
  held_out = {}
  for n, (name, part) in enumerate(log.held_out.items()):
    if not len(part.users) == len(part.histories) == len(part.targets):
      raise ValueError(
        f'held-out rows must have as many users as histories and targets; the {name} rows have '
        f'{len(part.users)}, {len(part.histories)} and {len(part.targets)}'
      )
    lengths = [len(history) for history in part.histories]
    held_out[name] = HeldOut(users[n], items[2 * n], offsets_of(lengths), items[2 * n + 1])
  return held_out


def _check_columns(log: RawLog) -> None:
  if not len(log.users) == len(log.items) == len(log.times):
    raise ValueError(
      'a raw log must have as many users as items and times; '
      f'got {len(log.users)}, {len(log.items)} and {len(log.times)}'
    )
  for name, column in (('ratings', log.ratings), ('events', log.events)):
    if column is not None and len(column) != len(log.users):
      raise ValueError(
        f'a raw log must have as many {name} as users; got {len(column)} and {len(log.users)}'
      )
  if log.ratings is not None:
    is_finite = np.isfinite(log.ratings)
    if not is_finite.all():
      row = int(np.argmin(is_finite))
      raise ValueError(
        f'ratings must be finite numbers; got {log.ratings[row]} from user {str(log.users[row])!r} '
        f'for item {str(log.items[row])!r}. Set --config.data.rating_column to a column of numbers'
      )


def _int64_times(log: RawLog) -> np.ndarray:
  """The times as int64 `[N]`."""
  times = np.asarray(log.times)
  if times.dtype.kind in 'iu':
    return times.astype(np.int64, copy=False)
  if times.dtype.kind != 'f':
    raise ValueError(f'times must be whole numbers; got an array of {times.dtype}')
  is_whole = (np.abs(times) < 2.0**63) & (np.trunc(times) == times)  # False for NaN
  if not is_whole.all():
    row = int(np.argmin(is_whole))
    raise ValueError(
      f'times must be whole numbers; got {times[row]} of user {str(log.users[row])!r} and item '
      f'{str(log.items[row])!r}. Set --config.data.time_column to a column of such numbers'
    )
  return times.astype(np.int64)


def _repeated(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
  """Marks rows that repeat an earlier row. The rows must be sorted by user and time."""
  repeated = np.zeros(len(users), bool)
  is_tie = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
  run = offsets_of(~is_tie)
  # Only rows with the user and time of a neighbouring row are sorted by item; these are few.
  tied = np.flatnonzero(np.append(is_tie, False) | np.append(False, is_tie))
  tied = tied[np.lexsort((items[tied], run[tied]))]
  first, second = tied[:-1], tied[1:]
  repeated[second] = (run[first] == run[second]) & (items[first] == items[second])
  return repeated


def _duplicates_error(log: RawLog, times: np.ndarray, repeats: np.ndarray) -> ValueError:
  """The error about duplicates; `repeats` are the rows of the raw log that repeat an earlier row."""
  row = int(repeats.min())
  return ValueError(
    'no two interactions may be equal in user, item and time; '
    f'got {len(repeats):,} repeats; the first one has user {str(log.users[row])!r}, '
    f'item {str(log.items[row])!r}, time {times[row]} (interaction {row + 1:,} of the log). '
    "Set --config.data.duplicates='drop' to keep the first of each"
  )
