"""Cleans a raw log: numbers ids, chooses rows, rejects or drops duplicates, filters to the k-core, sorts by time."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from data_prep.log import filters as filters_lib
from data_prep.log.filters import Filters
from data_prep.log.numbering import alike, factorise, renumber
from data_prep.log.raw_log import RawLog
from recjax.data.sequences import offsets_of
from recjax.schema.checks import check


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
    ratings: float32 `[N]`, NaN for rows without a rating; or None.
    events: int32 `[N]`, indices of `event_names`, or None.
    event_names: kinds of interactions, sorted; empty without events.
    context_events: the kinds that are never targets, sorted. None: every interaction may be a target.
    held_out: a source's own validation and test rows, or None.
    duplicates: number of rows that were dropped because they repeat another row.
    below_k_core: number of users, of items and of interactions outside the k-core.
    ticks_per_second: unit of the times; 0: the times only define an order.
    unreadable_ratings: see `RawLog`.
    equal_times: number of rows with the time of the same user's row before; their order is that of the file.
    dropped: statistics of the rows that `data_prep.log.filters` dropped, by name.
    ignored_columns: see `RawLog`.
    ids_alike: 'users' and 'items' → number and an example of raw ids that differ from others only by case or white
      space; without kinds that have none.
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
  context_events: tuple[str, ...] | None = None
  held_out: dict[str, HeldOut] | None = None
  duplicates: int = 0
  below_k_core: tuple[int, int, int] = (0, 0, 0)
  ticks_per_second: int = 1
  unreadable_ratings: int = 0
  equal_times: int = 0
  dropped: dict[str, Any] = dataclasses.field(default_factory=dict)
  ignored_columns: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  ids_alike: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

  @property
  def is_target(self) -> np.ndarray | None:
    """bool `[N]`, the interactions that may be targets; None: all of them."""
    return None if self.target_events is None else self.target_events[self.events]

  @property
  def target_events(self) -> np.ndarray | None:
    """bool, which of `event_names` may be targets; None: all of them."""
    if self.context_events is None:
      return None
    return np.array([name not in self.context_events for name in self.event_names], bool)


def clean(
  log: RawLog,
  k: int,
  duplicates: str = 'refuse',
  catalogue: str = 'interacted',
  filters: Filters | None = None,
) -> CleanLog:
  """Chooses rows of a raw log, filters it to its k-core and sorts each user's rows by time.

  The sort is stable: rows of one user with equal times stay in file order, except that context follows rows that
  may be targets. So a history never shows context of the time of its target. Duplicates are dropped before the
  k-core filter counts interactions.

  Args:
    log: the log of a source.
    k: see `k_core`. Only rows that may be targets count; for k > 0, context of the remaining users with the
      remaining items is kept.
    duplicates: 'refuse' or 'drop' rows that repeat an earlier one in user, item and time.
    catalogue: 'interacted': items of the remaining interactions and of held-out rows. 'all': also every other
      item with a record, even if it has no interactions or is outside the k-core.
    filters: the events and the items to keep; None: all.

  Raises:
    ValueError: the columns differ in length; an id is not valid text; a time is not a whole number; a rating
      is infinite; the filters leave nothing; there are duplicates and `duplicates` is 'refuse'; the k-core is
      empty or holds one user; or `k` is not 0 for a source with its own held-out rows.
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
  ids_alike = _ids_alike(user_ids, item_ids)
  filters = filters or Filters()
  event_names, (events,) = ([], [None]) if log.events is None else factorise(log.events)
  chosen = filters_lib.select(log, filters, item_ids, items, event_names, events)
  order = _order(users, times, chosen.is_context)
  if chosen.keep is not None:
    order = order[chosen.keep[order]]
  is_tie = ties(users[order], times[order])
  repeated = repeated_rows(items[order], is_tie)
  if repeated.any():
    if duplicates == 'refuse':
      raise _duplicates_error(log, users, items, times, order, repeated)
    order = order[~repeated]
  is_context = None if chosen.is_context is None else chosen.is_context[order]
  rows = order[_core(users[order], items[order], is_context, k)]
  if not len(rows):
    raise _empty_core_error(users[order], items[order], is_context, k)
  below = tuple(
    len(np.unique(column[order])) - len(np.unique(column[rows])) for column in (users, items)
  )
  records = log.item_records if catalogue == 'all' else ()
  user_ids, (users, *held_out_users) = renumber(user_ids, (users[rows], *held_out_users))
  item_ids, (items, *held_out_items) = renumber(item_ids, (items[rows], *held_out_items), records)
  check_several(user_ids, item_ids, len(rows), k)
  context_events = None
  if events is not None:
    event_names, (events,) = renumber(event_names, (events[rows],))
    if chosen.is_context is not None:
      context_events = tuple(sorted(filters.context_events))
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
    context_events,
    _held_out(log, held_out_users, held_out_items),
    int(repeated.sum()),
    (*below, len(order) - len(rows)),
    log.ticks_per_second,
    log.unreadable_ratings,
    int(is_tie.sum()) - int(repeated.sum()),
    chosen.dropped,
    log.ignored_columns,
    ids_alike,
  )


def _ids_alike(user_ids: list[str], item_ids: list[str]) -> dict[str, dict[str, Any]]:
  groups = {'users': alike(user_ids), 'items': alike(item_ids)}
  return {
    name: {'count': sum(map(len, found)), 'example': found[0][:2]}
    for name, found in groups.items()
    if found
  }


def _order(users: np.ndarray, times: np.ndarray, is_context: np.ndarray | None) -> np.ndarray:
  """The rows by user, then time, then targets before context, then file order."""
  keys = (times, users) if is_context is None else (is_context, times, users)
  return np.lexsort(keys)


def _core(
  users: np.ndarray, items: np.ndarray, is_context: np.ndarray | None, k: int
) -> np.ndarray:
  """The rows of the k-core of all targets, with the context of its users and items: bool `[N]`."""
  if is_context is None or k == 0:
    return k_core(users, items, k)
  is_target = ~is_context
  keep = is_target.copy()
  keep[is_target] = k_core(users[is_target], items[is_target], k)
  for column in (users, items):
    is_left = np.zeros(int(column.max(initial=-1)) + 1, bool)
    is_left[column[keep & is_target]] = True
    is_context = is_context & is_left[column]
  return keep | is_context


def _empty_core_error(
  users: np.ndarray, items: np.ndarray, is_context: np.ndarray | None, k: int
) -> ValueError:
  chosen = slice(None) if is_context is None else ~is_context
  users, items = users[chosen], items[chosen]
  left = next((n for n in range(k - 1, 0, -1) if k_core(users, items, n).any()), 0)
  return empty_core_error(len(users), k, left, is_context is not None)


def empty_core_error(count: int, k: int, largest: int, has_context: bool) -> ValueError:
  """Returns the error about a k-core without rows.

  Args:
    count: number of rows that may be targets.
    k: of the core.
    largest: of the largest core that keeps some rows.
    has_context: whether the log also has rows that are never targets.
  """
  kind = ' that may be targets' if has_context else ''
  return ValueError(
    f'the {k}-core must keep at least one interaction; it keeps none of {count}{kind}. '
    f'Set --config.data.k_core to a smaller number; the {largest}-core is the largest that keeps some'
  )


def check_several(user_ids: list[str], item_ids: list[str], count: int, k: int) -> None:
  """Raises a ValueError if all interactions are of one user or one item."""
  for kind, ids in (('user', user_ids), ('item', item_ids)):
    if len(ids) == 1:
      core = f' in the {k}-core' if k else ''
      raise ValueError(
        f'the log must have at least two {kind}s; all {count:,} interactions{core} are of {kind} {ids[0]!r}. '
        f'Set --config.data.{kind}_column to the column of {kind}s'
        f'{", or --config.data.k_core to a smaller number" if k else ""}'
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
    is_infinite = np.isinf(log.ratings)
    if is_infinite.any():
      row = int(np.argmax(is_infinite))
      raise ValueError(
        f'{log.place(row)}: ratings must be finite numbers; got {log.ratings[row]} from user '
        f'{str(log.users[row])!r} for item {str(log.items[row])!r}. Set --config.data.rating_column to a column '
        'of numbers'
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
      f'{log.place(row)}: times must be whole numbers; got {times[row]} of user {str(log.users[row])!r} and item '
      f'{str(log.items[row])!r}. Set --config.data.time_column to a column of such numbers'
    )
  return times.astype(np.int64)


def ties(users: np.ndarray, times: np.ndarray) -> np.ndarray:
  """Marks rows with the user and the time of the row before. The rows must be sorted by user and time."""
  is_tie = np.zeros(len(users), bool)
  is_tie[1:] = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
  return is_tie


def repeated_rows(items: np.ndarray, is_tie: np.ndarray) -> np.ndarray:
  """Marks rows that repeat the item of an earlier row of the same user and time; see `ties`."""
  repeated = np.zeros(len(items), bool)
  run = np.cumsum(~is_tie)
  # Only rows with the user and time of a neighbouring row are sorted by item; these are few.
  tied = np.flatnonzero(is_tie | np.append(is_tie[1:], False))
  tied = tied[np.lexsort((items[tied], run[tied]))]
  first, second = tied[:-1], tied[1:]
  repeated[second] = (run[first] == run[second]) & (items[first] == items[second])
  return repeated


def _duplicates_error(
  log: RawLog,
  users: np.ndarray,
  items: np.ndarray,
  times: np.ndarray,
  order: np.ndarray,
  repeated: np.ndarray,
) -> ValueError:
  """The error about duplicates: rows of `order` that repeat an earlier one; names the first in the file."""
  repeats = order[repeated]
  row = int(repeats.min())
  equal = (users == users[row]) & (items == items[row]) & (times == times[row])
  first = int(order[equal[order]].min())
  first, row = sorted((first, row))
  events = () if log.events is None else [str(log.events[n]) for n in (first, row)]
  names = str(log.users[row]), str(log.items[row])
  return duplicates_error((log.place(first), log.place(row)), *names, events, len(repeats))


def duplicates_error(
  places: tuple[str, str], user: str, item: str, events: Sequence[str], count: int
) -> ValueError:
  """Returns the error about rows of equal user, item and time.

  Args:
    places: file and line of the first such row, and of the first that repeats it.
    user: raw id.
    item: raw id.
    events: their kinds; empty without.
    count: number of rows that repeat an earlier one.
  """
  has_kinds = len(set(events)) > 1
  kinds = f' ({events[0]} there, {events[1]} here)' if has_kinds else ''
  return ValueError(
    f'{places[1]}: no two interactions may be equal in user, item and time; this one repeats '
    f'{places[0]}{kinds}: user {user!r}, item {item!r}. '
    f'{count:,} rows repeat an earlier one. '
    "Set --config.data.duplicates='drop' to keep the first of each"
  )
