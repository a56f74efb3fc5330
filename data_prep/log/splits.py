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

from data_prep.log.interactions import CleanLog
from recjax.data.prepared import SPLITS
from recjax.data.sequences import offsets_of
from recjax.schema.checks import check, check_choice

MIN_LENGTH = 3  # leave-one-out: one interaction each for training, validation and test
MAX_HISTORY_ITEMS = 1 << 27  # sum over the rows of a split, which are held in memory


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
  if is_target is None:
    targets, ends = np.arange(len(log.items)), log.offsets[1:]
  else:
    targets = np.flatnonzero(is_target)  # positions of the interactions that may be targets
    ends = offsets_of(is_target)[log.offsets[1:]]  # targets up to each user's end
  lengths = np.diff(ends, prepend=0)
  if lengths.min() < MIN_LENGTH:
    short = int(np.argmax(lengths < MIN_LENGTH))
    kind = 'interactions' if is_target is None else 'interactions that may be targets'
    raise ValueError(
      f'every user must have at least {MIN_LENGTH} {kind}, to be split into training, '
      f'validation and test; user {log.user_ids[short]!r} has {lengths[short]}. '
      f"Set --config.data.k_core to {MIN_LENGTH} or more, or --config.data.split='global_time'"
    )
  held_out = dict(zip(SPLITS, (targets[ends - 2], targets[ends - 1]), strict=True))
  owners = np.repeat(np.arange(len(log.user_ids)), np.diff(log.offsets))
  arrays = _train(log, np.arange(len(log.items)) < held_out['validation'][owners])
  for split_name, rows in held_out.items():
    for name, column in columns(log).items():
      arrays[f'{split_name}_{name}'] = column[rows]
    if is_target is not None:
      arrays |= _histories(log, split_name, rows, log.offsets[:-1], max_history)
  return arrays


def _global_time(log: CleanLog, shares: Sequence[float], max_history: int) -> dict[str, np.ndarray]:
  """Sorts by time, then by file order. Every interaction that may be a target and has a history is one.

  Of several interactions with one time, context comes last, as in the sequences of users. All interactions before the
  first validation target are used for training, so a user's training part is a prefix of the sequence. A later first
  interaction of a user is only used as history.
  """
  may_be_target = log.is_target
  if may_be_target is None:
    order = np.lexsort((log.rows, log.times))
    is_target = np.ones(len(log.items), bool)
  else:
    order = np.lexsort((log.rows, ~may_be_target, log.times))
    is_target = may_be_target.copy()
  is_target[log.offsets[:-1]] = False
  ranks = np.flatnonzero(is_target[order])  # of the targets, in `order`
  borders = time_borders(len(ranks), shares)
  in_train = np.zeros(len(log.items), bool)
  in_train[order[: ranks[borders[0]]]] = True
  parts = np.split(order[ranks], borders)[1:]
  return held_out_by_row(log, in_train, dict(zip(SPLITS, parts, strict=True)), max_history)


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


def held_out_by_row(
  log: CleanLog, in_train: np.ndarray, parts: Mapping[str, np.ndarray], max_history: int
) -> dict[str, np.ndarray]:
  """Returns the arrays of a split whose targets have their own histories.

  Args:
    log: the clean log.
    in_train: bool `[N]`, the interactions of the training part.
    parts: split → positions of its targets in the log.
    max_history: see `split`.
  """
  arrays = _train(log, in_train)
  owners = np.repeat(np.arange(len(log.user_ids)), np.diff(log.offsets))
  for split_name, part in parts.items():
    rows = np.sort(part)
    for name, column in columns(log).items():
      arrays[f'{split_name}_{name}'] = column[rows]
    arrays |= _histories(log, split_name, rows, log.offsets[owners[rows]], max_history)
  return arrays


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
  positions, offsets = _ranges(start, rows)
  users = np.searchsorted(log.offsets, rows, side='right') - 1
  arrays = {
    f'{split_name}_users': users.astype(np.int32),
    f'{split_name}_history_offsets': offsets,
  }
  for name, column in columns(log).items():
    arrays[f'{split_name}_history_{name}'] = column[positions]
  return arrays


def _source(log: CleanLog, max_history: int) -> dict[str, np.ndarray]:
  arrays = _train(log, np.ones(len(log.items), bool))
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
    positions, offsets = _ranges(start, end)
    arrays[f'{split_name}_users'] = part.users
    arrays[f'{split_name}_items'] = part.targets
    arrays[f'{split_name}_history_items'] = part.history_items[positions]
    arrays[f'{split_name}_history_offsets'] = offsets
  return arrays


def _train(log: CleanLog, in_train: np.ndarray) -> dict[str, np.ndarray]:
  before = offsets_of(in_train)  # training interactions before each position
  arrays = {f'train_{name}': column[in_train] for name, column in columns(log).items()}
  return arrays | {'train_offsets': before[log.offsets]}


def _ranges(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The numbers of all ranges [start, end), concatenated, and the offsets of the ranges."""
  lengths = end - start
  offsets = offsets_of(lengths)
  return np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths), offsets


def check_histories(split_name: str, total: int) -> None:
  check(
    total < MAX_HISTORY_ITEMS,
    f'the histories of the {split_name} rows must hold less than {MAX_HISTORY_ITEMS:,} items in all; '
    f'they hold {total:,}',
    0,
    'data.max_history to a number of items per history',
  )
