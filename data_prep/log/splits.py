"""Splits a clean log into training, validation and test.

A split is a dict of arrays; the keys are the names of their files in the `interactions` stage. There are three kinds:

  leave_one_out   the last interaction of a user is the test target, the one before the validation target
  global_time     consecutive shares of all (history → target) pairs, sorted by time
  source          the source's own validation and test rows

With context events (`CleanLog.context_events`), interactions of these kinds are never held-out targets: leave-one-out
takes the last two other interactions of a user. Context after them is in no part of the split.

All kinds have train_items (flat), train_offsets `[U + 1]`, train_times, and the targets of validation and test,
`<split>_items`. Ratings and events are stored like times if the log has them. Leave-one-out has one target
per user, in order of users; its history is the user's sequence before the target. The other kinds, and leave-one-out
with context events, store the user and the history of every target: `<split>_users`, and flat
`<split>_history_items` with `<split>_history_offsets`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.log import arrays
from data_prep.log.interactions import CleanLog
from recjax.data.prepared import SPLITS
from recjax.data.sequences import offsets_of
from recjax.schema.checks import check, check_choice

MIN_LENGTH = 3  # leave-one-out: one interaction each for training, validation and test
MAX_HISTORY_ITEMS = 1 << 27  # sum over the rows of a split, which are held in memory
_BINS = 1 << 16


def split(
  log: CleanLog, kind: str, shares: Sequence[float], max_history: int
) -> dict[str, np.ndarray]:
  """Returns the arrays of a split.

  Args:
    log: the clean log.
    kind: leave_one_out, global_time or source.
    shares: global_time: shares of the pairs for training, validation and test.
    max_history: if histories are stored: keep only the last items of a history, up to this number; 0: keep all.

  Raises:
    ValueError: a part would be empty; a user has too few interactions for leave-one-out; or the kind is
      'source' for a source without its own split, or another kind for a source with one.
  """
  check_choice(kind, ('leave_one_out', 'global_time', 'source'), 'data.split')
  check(
    log.held_out is None or kind == 'source',
    "data.split must be 'source' for a source with its own validation and test rows",
    kind,
    "data.split='source'",
  )
  if kind == 'leave_one_out':
    return _leave_one_out(log, max_history)
  if kind == 'global_time':
    return _global_time(log, shares, max_history)
  check(
    log.held_out is not None,
    "data.split may be 'source' only for a source with its own validation and test rows",
    kind,
    "data.split='leave_one_out' or 'global_time'",
  )
  return _source(log, max_history)


def columns(log: CleanLog) -> dict[str, np.ndarray]:
  """Returns the columns of the log; the keys are the suffixes of their file names."""
  known = {'items': log.items, 'times': log.times, 'ratings': log.ratings, 'events': log.events}
  return {name: column for name, column in known.items() if column is not None}


def _leave_one_out(log: CleanLog, max_history: int) -> dict[str, np.ndarray]:
  is_target = log.is_target
  # The number of targets before each user's end.
  ends = log.offsets if is_target is None else arrays.marked_before(is_target, log.offsets)
  lengths = np.diff(ends)
  if lengths.min() < MIN_LENGTH:
    short = int(np.argmax(lengths < MIN_LENGTH))
    kind = 'interactions' if is_target is None else 'interactions that may be targets'
    raise ValueError(
      f'every user must have at least {MIN_LENGTH} {kind}, to be split into training, '
      f'validation and test; user {log.user_ids[short]!r} has {lengths[short]}. '
      f"Set --config.data.k_core to {MIN_LENGTH} or more, or --config.data.split='global_time'"
    )
  held_out = {}
  for split_name, back in zip(SPLITS, (2, 1), strict=True):
    rows = ends[1:] - back
    held_out[split_name] = rows if is_target is None else _places(is_target, rows)
  in_train = log.scratch.empty(len(log.items), bool)
  for users, rows in arrays.runs(log.offsets):
    ends_of_train = np.repeat(held_out['validation'][users], np.diff(_offsets(log, users)))
    in_train[rows] = np.arange(rows.start, rows.stop) < ends_of_train
  found = _train(log, in_train)
  for split_name, rows in held_out.items():
    for name, column in columns(log).items():
      found[f'{split_name}_{name}'] = column[rows]
    if is_target is not None:
      found |= _histories(log, split_name, rows, log.offsets[:-1], max_history)
  return found


def _offsets(log: CleanLog, users: slice) -> np.ndarray:
  return log.offsets[users.start : users.stop + 1]


def _places(is_target: np.ndarray, ranks: np.ndarray) -> np.ndarray:
  """The positions of the targets of these ranks among all targets; the ranks are ascending."""
  found = np.zeros(len(ranks), np.int64)
  total = 0
  for rows in arrays.blocks(len(is_target)):
    places = np.flatnonzero(is_target[rows]) + rows.start
    here = slice(*np.searchsorted(ranks, [total, total + len(places)]))
    found[here] = places[ranks[here] - total]
    total += len(places)
  return found


def _global_time(log: CleanLog, shares: Sequence[float], max_history: int) -> dict[str, np.ndarray]:
  """Sorts by time, then by file order. Every interaction that may be a target and has a history is one.

  Of several interactions with one time, context comes last, as in the sequences of users. All interactions before the
  first validation target are used for training, so a user's training part is a prefix of the sequence. A later first
  interaction of a user is only used as history.
  """
  may_be_target = log.is_target
  is_target = log.scratch.empty(len(log.items), bool)
  is_target[:] = True if may_be_target is None else may_be_target
  is_target[log.offsets[:-1][np.diff(log.offsets) > 0]] = False
  borders = time_borders(arrays.count(is_target), shares)
  keys = [_border(log, is_target, int(rank)) for rank in borders]
  in_train = log.scratch.empty(len(log.items), bool)
  held_out: dict[str, list[np.ndarray]] = {split_name: [] for split_name in SPLITS}
  for rows in arrays.blocks(len(log.items)):
    is_context = None if may_be_target is None else ~may_be_target[rows]
    before = [_is_before(log, rows, is_context, key) for key in keys]
    in_train[rows] = before[0]
    parts = zip(SPLITS, (~before[0] & before[1], ~before[1]), strict=True)
    for split_name, is_part in parts:
      held_out[split_name].append(np.flatnonzero(is_part & is_target[rows]) + rows.start)
  parts = {split_name: np.concatenate(found) for split_name, found in held_out.items()}
  return held_out_by_row(log, in_train, parts, max_history)


def time_borders(num_targets: int, shares: Sequence[float]) -> np.ndarray:
  """Returns the ranks of the first validation and of the first test target: int64 `[2]`.

  Raises:
    ValueError: a part would be empty.
  """
  # 1e-6 corrects the rounding of sums of shares: 0.7 + 0.2 < 0.9 in floating point.
  borders = np.floor(np.cumsum(shares)[:2] * num_targets + 1e-6).astype(np.int64)
  counts = np.diff([0, *borders, num_targets])
  check(
    counts.min() > 0,
    'data.split_shares must give training, validation and test at least one (history, target) pair '
    f'each; of {num_targets:,} they would get {", ".join(map(str, counts))}',
    tuple(shares),
    'data.split_shares',
  )
  return borders


def _border(log: CleanLog, is_target: np.ndarray, rank: int) -> tuple[int, int]:
  """The time and the row in the raw log of the target of a rank in the order of time, then file order."""
  low = min(int(log.times[rows].min()) for rows in arrays.blocks(len(log.times)))
  high = max(int(log.times[rows].max()) for rows in arrays.blocks(len(log.times)))
  while low < high:  # histograms over ever shorter spans of time
    width = (high - low) // _BINS + 1
    counts = np.zeros(_BINS, np.int64)
    for rows in arrays.blocks(len(log.times)):
      times = log.times[rows]
      times = times[is_target[rows] & (times >= low) & (times <= high)]
      bins = (times - low) // width
      counts += np.bincount(bins, minlength=_BINS)
    ends = np.cumsum(counts)
    found = int(np.searchsorted(ends, rank, side='right'))
    rank -= int(ends[found] - counts[found])
    low, high = low + found * width, min(low + found * width + width - 1, high)
  found = [
    log.rows[rows][is_target[rows] & (log.times[rows] == low)]
    for rows in arrays.blocks(len(log.times))
  ]
  return low, int(np.sort(np.concatenate(found))[rank])


def _is_before(
  log: CleanLog, rows: slice, is_context: np.ndarray | None, key: tuple[int, int]
) -> np.ndarray:
  """Marks the interactions of a block before a target, which `_border` returns."""
  time, row = key
  is_equal = (log.times[rows] == time) & (log.rows[rows] < row)
  if is_context is not None:
    is_equal &= ~is_context  # context of the same time comes later
  return (log.times[rows] < time) | is_equal


def held_out_by_row(
  log: CleanLog, in_train: np.ndarray, parts: Mapping[str, np.ndarray], max_history: int
) -> dict[str, np.ndarray]:
  """Returns the arrays of a split whose targets have their own histories.

  Args:
    log: the clean log.
    in_train: bool `[N]`, the interactions of the training part.
    parts: split → positions of its targets in the log, ascending.
    max_history: see `split`.
  """
  found = _train(log, in_train)
  for split_name, rows in parts.items():
    for name, column in columns(log).items():
      found[f'{split_name}_{name}'] = column[rows]
    first = log.offsets[np.searchsorted(log.offsets, rows, side='right') - 1]
    found |= _histories(log, split_name, rows, first, max_history)
  return found


def _histories(
  log: CleanLog, split_name: str, rows: np.ndarray, first: np.ndarray, max_history: int
) -> dict[str, np.ndarray]:
  """The users and the histories of held-out targets: all interactions of the user before the target.

  Args:
    log: the clean log.
    split_name: 'validation' or 'test'.
    rows: positions of the targets in the log, ascending.
    first: position of the first interaction of each target's user.
    max_history: see `split`.
  """
  start = np.maximum(first, rows - max_history) if max_history else first
  check_histories(split_name, int((rows - start).sum()))
  users = np.searchsorted(log.offsets, rows, side='right') - 1
  found = {
    f'{split_name}_users': users.astype(np.int32),
    f'{split_name}_history_offsets': offsets_of(rows - start),
  }
  for name, column in columns(log).items():
    found[f'{split_name}_history_{name}'] = log.scratch.ranges(column, start, rows)
  return found


def _source(log: CleanLog, max_history: int) -> dict[str, np.ndarray]:
  found = _train(log, np.ones(len(log.items), bool))
  for split_name in SPLITS:
    part = log.held_out.get(split_name)
    if part is None or not len(part.targets):
      raise ValueError(
        f"the source's own split must hold {split_name} rows; it holds none. Set --config.data.raw_dir "
        'to a folder with complete files'
      )
    end = part.history_offsets[1:]
    start = part.history_offsets[:-1]
    start = np.maximum(start, end - max_history) if max_history else start
    found[f'{split_name}_users'] = part.users
    found[f'{split_name}_items'] = part.targets
    found[f'{split_name}_history_items'] = log.scratch.ranges(part.history_items, start, end)
    found[f'{split_name}_history_offsets'] = offsets_of(end - start)
  return found


def _train(log: CleanLog, in_train: np.ndarray) -> dict[str, np.ndarray]:
  found = {
    f'train_{name}': log.scratch.select(column, in_train) for name, column in columns(log).items()
  }
  return found | {'train_offsets': arrays.marked_before(in_train, log.offsets)}


def check_histories(split_name: str, total: int) -> None:
  """Raises a ValueError if the histories of a split are too long to be held in memory."""
  check(
    total < MAX_HISTORY_ITEMS,
    f'the histories of the {split_name} rows must hold less than {MAX_HISTORY_ITEMS:,} items in all; '
    f'they hold {total:,}',
    0,
    'data.max_history to a number of items per history',
  )
