"""Cleans a raw log: numbers ids, chooses rows, rejects or drops duplicates, filters to the k-core, sorts by time."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from data_prep.log import arrays, core, sorting
from data_prep.log import filters as filters_lib
from data_prep.log.filters import Filters
from data_prep.log.ids import Ids, Names
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
    scratch: makes arrays with a value per interaction.
  """

  user_ids: Names
  item_ids: Names
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
  scratch: arrays.Scratch = dataclasses.field(default_factory=arrays.Scratch, compare=False)

  @property
  def is_target(self) -> np.ndarray | None:
    """bool `[N]`, the interactions that may be targets; None: all of them."""
    if self.target_events is None:
      return None
    found = self.scratch.empty(len(self.events), bool)
    for rows in arrays.blocks(len(found)):
      found[rows] = self.target_events[self.events[rows]]
    return found

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
  scratch: arrays.Scratch | None = None,
) -> CleanLog:
  """Chooses rows of a raw log, filters it to its k-core and sorts each user's rows by time.

  The sort is stable: rows of one user with equal times stay in file order, except that context follows rows that
  may be targets. So a history never shows context of the time of its target. Duplicates are dropped before the
  k-core filter counts interactions.

  Args:
    log: the log of a source.
    k: see `core.k_core`. Only rows that may be targets count; for k > 0, context of the remaining users with the
      remaining items is kept.
    duplicates: 'refuse' or 'drop' rows that repeat an earlier one in user, item and time.
    catalogue: 'interacted': items of the remaining interactions and of held-out rows. 'all': also every other
      item with a record, even if it has no interactions or is outside the k-core.
    filters: the events and the items to keep; None: all.
    scratch: makes the arrays with a value per interaction.

  Raises:
    ValueError: the columns differ in length; an id is not valid text; a time is not a whole number; a rating
      is infinite; the filters leave nothing; there are duplicates and `duplicates` is 'refuse'; the k-core is
      empty or holds one user; or `k` is not 0 for a source with its own held-out rows.
  """
  _check_columns(log)
  _check_core(log, k)
  times, filters, scratch = _int64_times(log), filters or Filters(), scratch or arrays.Scratch()
  held_out = _HeldOutIds.of(log)
  user_ids, (user_numbers, *held_out_users) = factorise(log.users, *held_out.users)
  item_ids, (item_numbers, *held_out_items) = factorise(log.items, *held_out.items)
  ids_alike = _ids_alike(user_ids, item_ids)
  numbers = {'users': user_numbers, 'items': item_numbers}
  event_names, event_numbers = _events(log)
  numbers |= {} if event_numbers is None else {'events': event_numbers}
  chosen = filters_lib.select(
    filters_lib.Columns(log, item_ids, item_numbers, event_names, event_numbers), filters
  )
  found = sorting.sort(log, times, numbers, chosen, scratch)
  if found.repeated and duplicates == 'refuse':
    raise _duplicates_error(log, found)
  columns = found.columns
  is_context = _is_context(columns, chosen, scratch)
  keep = core.k_core(found.offsets, columns['items'], k, is_context, scratch)
  left = arrays.count(keep)
  if not left:
    raise _empty_core_error(found, is_context, k)
  kept_U = np.diff(arrays.marked_before(keep, found.offsets))
  kept_I = arrays.counts(columns['items'], len(item_ids), lambda rows: keep[rows])
  below = _below(found, left, kept_U, kept_I)
  users_in = held_out.is_used(held_out.users, held_out_users, len(user_ids))
  users_in[: len(kept_U)] |= kept_U > 0
  items_in = held_out.is_used(held_out.items, held_out_items, len(item_ids)) | (kept_I > 0)
  user_ids, new_users = renumber(user_ids, users_in)
  item_ids, new_items = renumber(item_ids, items_in, log.item_records if catalogue == 'all' else ())
  check_several(user_ids, item_ids, left, k)
  changes = {'items': new_items}
  if log.events is not None:
    kept_E = arrays.counts(columns['events'], len(event_names), lambda rows: keep[rows])
    event_names, changes['events'] = renumber(event_names, kept_E > 0)
  columns = _compact(columns, keep, changes)
  lengths = np.zeros(len(users_in), np.int64)
  lengths[: len(kept_U)] = kept_U
  return CleanLog(
    user_ids,
    item_ids,
    columns['items'],
    columns['times'],
    columns['rows'],
    offsets_of(lengths[users_in]),
    columns.get('ratings'),
    columns.get('events'),
    tuple(event_names),
    None if is_context is None else tuple(sorted(filters.context_events)),
    held_out.numbered(log, held_out_users, held_out_items, new_users, new_items),
    found.repeated,
    below,
    log.ticks_per_second,
    log.unreadable_ratings,
    found.equal_times,
    chosen.dropped,
    log.ignored_columns,
    ids_alike,
    scratch,
  )


def _events(log: RawLog) -> tuple[Names, np.ndarray | None]:
  """The kinds of events, and the number of each distinct id of `log.events`; none and None without events."""
  if log.events is None:
    return Names.of(()), None
  names, (numbers,) = factorise(log.events)
  return names, numbers


def _below(
  found: sorting.Sorted, left: int, kept_U: np.ndarray, kept_I: np.ndarray
) -> tuple[int, int, int]:
  """The numbers of users, items and rows outside the k-core, which holds `left` rows: kept_U of each user, kept_I."""
  items = found.columns['items']
  before = np.diff(found.offsets), arrays.counts(items, len(kept_I))
  users_and_items = (
    arrays.count(rows) - arrays.count(kept)
    for rows, kept in zip(before, (kept_U, kept_I), strict=True)
  )
  return *users_and_items, len(items) - left


def _is_context(
  columns: Mapping[str, np.ndarray], chosen: filters_lib.Selection, scratch: arrays.Scratch
) -> np.ndarray | None:
  """Marks the rows that are never targets; None: every row may be one."""
  if chosen.is_context is None:
    return None
  is_context = scratch.empty(len(columns['events']), bool)
  for rows in arrays.blocks(len(is_context)):
    is_context[rows] = chosen.is_context[columns['events'][rows]]
  return is_context


def _compact(
  columns: Mapping[str, np.ndarray], keep: np.ndarray, changes: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Moves the kept rows to the front of the columns, and renumbers the columns of `changes`; returns the fronts."""
  end = 0
  for rows in arrays.blocks(len(keep)):
    kept = keep[rows]
    count = arrays.count(kept)
    for name, column in columns.items():
      values = column[rows][kept]
      column[end : end + count] = changes[name][values] if name in changes else values
    end += count
  return {name: column[:end] for name, column in columns.items()}


def _ids_alike(user_ids: Names, item_ids: Names) -> dict[str, dict[str, Any]]:
  groups = {'users': alike(user_ids), 'items': alike(item_ids)}
  return {
    name: {'count': sum(map(len, found)), 'example': found[0][:2]}
    for name, found in groups.items()
    if found
  }


def _empty_core_error(found: sorting.Sorted, is_context: np.ndarray | None, k: int) -> ValueError:
  items = found.columns['items']
  targets = (
    np.ones(len(items), bool) if is_context is None else ~is_context
  )  # of the smaller cores, context keeps no row alone

  def has_some(n: int) -> bool:
    return bool((core.k_core(found.offsets, items, n, is_context) & targets).any())

  left = next((n for n in range(k - 1, 0, -1) if has_some(n)), 0)
  return empty_core_error(arrays.count(targets), k, left, is_context is not None)


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


def check_several(user_ids: Sequence[str], item_ids: Sequence[str], count: int, k: int) -> None:
  """Raises a ValueError if all interactions are of one user or one item."""
  for kind, ids in (('user', user_ids), ('item', item_ids)):
    if len(ids) == 1:
      core_text = f' in the {k}-core' if k else ''
      raise ValueError(
        f'the log must have at least two {kind}s; all {count:,} interactions{core_text} are of {kind} {ids[0]!r}. '
        f'Set --config.data.{kind}_column to the column of {kind}s'
        f'{", or --config.data.k_core to a smaller number" if k else ""}'
      )


class _HeldOutIds(NamedTuple):
  """The ids of a source's own split: the users and the items (history, target) of every part."""

  users: list[Ids]
  items: list[Ids]

  @classmethod
  def of(cls, log: RawLog) -> '_HeldOutIds':
    parts = (log.held_out or {}).values()
    histories = [np.array([item for row in part.histories for item in row], str) for part in parts]
    pairs = zip(histories, (part.targets for part in parts), strict=True)
    users = [Ids.of(part.users) for part in parts]
    return cls(users, [Ids.of(column) for pair in pairs for column in pair])

  @staticmethod
  def is_used(columns: Sequence[Ids], numbers: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Marks the numbers of all rows of the columns: bool `[length]`."""
    found = np.zeros(length, bool)
    for column, numbers_of_texts in zip(columns, numbers, strict=True):
      found[numbers_of_texts[column.codes]] = True
    return found

  def numbered(
    self,
    log: RawLog,
    user_numbers: Sequence[np.ndarray],
    item_numbers: Sequence[np.ndarray],
    new_users: np.ndarray,
    new_items: np.ndarray,
  ) -> dict[str, HeldOut] | None:
    """Returns the split with indices for raw ids.

    Args:
      log: the raw log.
      user_numbers, item_numbers: the numbers of the distinct ids of each column.
      new_users, new_items: number → index.
    """
    if log.held_out is None:
      return None
    users = [
      new_users[numbers[column.codes]]
      for column, numbers in zip(self.users, user_numbers, strict=True)
    ]
    items = [
      new_items[numbers[column.codes]]
      for column, numbers in zip(self.items, item_numbers, strict=True)
    ]
    found = {}
    for n, (name, part) in enumerate(log.held_out.items()):
      if not len(part.users) == len(part.histories) == len(part.targets):
        raise ValueError(
          f'held-out rows must have as many users as histories and targets; the {name} rows have '
          f'{len(part.users)}, {len(part.histories)} and {len(part.targets)}'
        )
      lengths = [len(history) for history in part.histories]
      found[name] = HeldOut(users[n], items[2 * n], offsets_of(lengths), items[2 * n + 1])
    return found


def _check_core(log: RawLog, k: int) -> None:
  check(
    log.held_out is None or k == 0,
    'data.k_core must be 0 for a source with its own split, because its rows are not filtered',
    k,
    'data.k_core=0',
  )


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
  for rows in arrays.blocks(0 if log.ratings is None else len(log.ratings)):
    is_infinite = np.isinf(log.ratings[rows])
    if is_infinite.any():
      row = rows.start + int(np.argmax(is_infinite))
      raise ValueError(
        f'{log.place(row)}: ratings must be finite numbers; got {log.ratings[row]} from user '
        f'{log.users[row]!r} for item {log.items[row]!r}. Set --config.data.rating_column to a column '
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
      f'{log.place(row)}: times must be whole numbers; got {times[row]} of user {log.users[row]!r} and item '
      f'{log.items[row]!r}. Set --config.data.time_column to a column of such numbers'
    )
  return times.astype(np.int64)


def _duplicates_error(log: RawLog, found: sorting.Sorted) -> ValueError:
  """The error about duplicates, which names the first in the file."""
  first, row = sorted(found.first_repeat)
  kinds = () if log.events is None else (log.events[first], log.events[row])
  places = log.place(first), log.place(row)
  return duplicates_error(places, log.users[row], log.items[row], kinds, found.repeated)


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
