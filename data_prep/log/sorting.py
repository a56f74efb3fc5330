"""Sorts a log by user and time, and finds repeated rows, in memory for one part of the users at a time.

The rows are first distributed over parts of the users (a bucket sort); then each part is sorted in memory.
"""

from collections.abc import Iterator, Mapping
import dataclasses

import numpy as np

from data_prep.log import arrays
from data_prep.log.filters import Selection
from data_prep.log.raw_log import RawLog
from recjax.data.sequences import offsets_of

PART = 1 << 23  # rows that are sorted in memory


@dataclasses.dataclass
class Sorted:
  """Chosen rows by user, then time, then targets before context, then file order. The columns are those of `CleanLog`.

  Attributes:
    offsets: int64 `[U + 1]`; user u has the rows from `offsets[u]` to `offsets[u + 1]`.
    columns: 'items', 'times', 'rows', 'ratings' and 'events' → a value per row; without columns that the log lacks.
    repeated: number of rows that were left out because they repeat another row in user, item and time.
    first_repeat: the first such row of the file, and the first row that is equal to it, by their rows in the raw log.
    equal_times: number of the remaining rows with the user and the time of the row before.
  """

  offsets: np.ndarray
  columns: dict[str, np.ndarray]
  repeated: int = 0
  first_repeat: tuple[int, int] | None = None
  equal_times: int = 0


def sort(
  log: RawLog,
  times: np.ndarray,
  numbers: Mapping[str, np.ndarray],
  chosen: Selection,
  scratch: arrays.Scratch,
) -> Sorted:
  """Sorts the chosen rows of a log.

  Args:
    log: the log.
    times: int64 `[N]`.
    numbers: 'users', 'items' and, if the log has them, 'events' → the number of each of the column's distinct ids.
    chosen: the rows.
    scratch: makes the columns.
  """
  count_U = np.zeros(int(numbers['users'].max(initial=-1)) + 1, np.int64)
  for block in _read(log, times, numbers, chosen):
    count_U += np.bincount(block['users'], minlength=len(count_U))
  offsets = offsets_of(count_U)
  columns = _distributed(log, times, numbers, chosen, offsets, scratch)
  users = columns.pop('users')
  found, end = Sorted(offsets, columns), 0
  for part, rows in arrays.runs(offsets, PART):
    values = {name: column[rows] for name, column in columns.items()}
    values['users'] = users[rows]
    keys = [values['times'], values['users']]
    if chosen.is_context is not None:
      keys.insert(0, chosen.is_context[values['events']])
    order = np.lexsort(keys)
    values = {name: column[order] for name, column in values.items()}
    is_tie = ties(values['users'], values['times'])
    is_repeated = repeated_rows(values['items'], is_tie)
    repeats = arrays.count(is_repeated)
    if repeats:
      found.repeated += repeats
      found.first_repeat = min(found.first_repeat or _LAST, _first_repeat(values, is_repeated))
      values = {name: column[~is_repeated] for name, column in values.items()}
    found.equal_times += arrays.count(is_tie) - repeats
    left = values.pop('users')
    count_U[part] = np.bincount(left - part.start, minlength=part.stop - part.start)
    for name, column in columns.items():
      column[end : end + len(left)] = values[name]
    end += len(left)
  if found.repeated:
    found.offsets = offsets_of(count_U)
    found.columns = {name: column[:end] for name, column in columns.items()}
  return found


_LAST = (np.iinfo(np.int64).max, 0)


def _read(
  log: RawLog, times: np.ndarray, numbers: Mapping[str, np.ndarray], chosen: Selection
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the chosen rows of the log in file order, some at a time."""
  columns = {'users': log.users, 'items': log.items, 'events': log.events}
  for rows in arrays.blocks(len(log.users)):
    block = {name: numbers[name][columns[name].codes[rows]] for name in numbers}
    block['times'] = times[rows]
    block['rows'] = np.arange(rows.start, rows.stop)
    if log.ratings is not None:
      block['ratings'] = np.asarray(log.ratings[rows], np.float32)
    keep = chosen.keep(block['items'], block.get('events'))
    if keep is not None:
      block = {name: column[keep] for name, column in block.items()}
    yield block


def _distributed(
  log: RawLog,
  times: np.ndarray,
  numbers: Mapping[str, np.ndarray],
  chosen: Selection,
  offsets: np.ndarray,
  scratch: arrays.Scratch,
) -> dict[str, np.ndarray]:
  """The chosen rows by part of the users, each in file order."""
  total = int(offsets[-1])
  kinds = {'users': np.int32, 'items': np.int32, 'times': np.int64, 'rows': np.int64}
  kinds |= {'ratings': np.float32} if log.ratings is not None else {}
  kinds |= {'events': np.int32} if log.events is not None else {}
  columns = {name: scratch.empty(total, kind) for name, kind in kinds.items()}
  parts = list(arrays.runs(offsets, PART))
  ends = np.array([rows.start for _, rows in parts], np.int64)
  part_of_U = np.zeros(len(offsets) - 1, np.uint16)
  for number, (users, _) in enumerate(parts):
    part_of_U[users] = number
  for block in _read(log, times, numbers, chosen):
    counts = np.bincount(part_of_U[block['users']], minlength=len(parts))
    if len(parts) > 1:
      # 16-bit numbers are sorted by radix, in linear time.
      order = np.argsort(part_of_U[block['users']], kind='stable')
      block = {name: column[order] for name, column in block.items()}
    starts = offsets_of(counts)
    for part in np.flatnonzero(counts).tolist():
      source = slice(starts[part], starts[part + 1])
      place = slice(ends[part], ends[part] + counts[part])
      for name, column in columns.items():
        column[place] = block[name][source]
    ends += counts
  return columns


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


def _first_repeat(values: Mapping[str, np.ndarray], is_repeated: np.ndarray) -> tuple[int, int]:
  """The first repeated row of the file, and the first row that is equal to it."""
  place = np.flatnonzero(is_repeated)[np.argmin(values['rows'][is_repeated])]
  equal = np.ones(len(is_repeated), bool)
  for name in ('users', 'items', 'times'):
    equal &= values[name] == values[name][place]
  return int(values['rows'][place]), int(values['rows'][equal].min())
