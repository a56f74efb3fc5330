"""The interactions of a prepared folder, put together again from the parts of its split, some users at a time."""

from collections.abc import Iterator
import dataclasses
import functools

import numpy as np

from recjax.data.dataset import COLUMNS, SPLITS, Log
from recjax.data.sequences import Sequences, blocks, offsets_of

BLOCK = 1 << 22  # interactions in memory at a time


@dataclasses.dataclass(frozen=True)
class Whole:
  """All interactions of consecutive users of a log.

  Attributes:
    users: the users.
    items: each user's items, oldest first. A user may have none.
    columns: times int64, ratings float32 and events int32, aligned with `items.values`; a column that the log
      lacks is absent.
  """

  users: slice
  items: Sequences
  columns: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Piece:
  """A part of every column, and the users whom its rows belong to."""

  owners: np.ndarray
  columns: dict[str, np.ndarray]


class _Columns:
  """The columns of a log, each opened once.

  Attributes:
    names: the columns of an interaction.
    offsets: int64 `[U + 1]`, those of the training part.
    row_users: split → the user of every held-out row, ascending; empty if the rows are the users.
  """

  def __init__(self, log: Log, split: str):
    self.read = functools.cache(log.column)
    self.names = ('items', *(name for name in COLUMNS if self.read(f'train_{name}') is not None))
    self.offsets = np.asarray(log.train.offsets)
    self.is_leave_one_out, self.has_parts = log.is_leave_one_out, split != 'source'
    self.row_users: dict[str, np.ndarray] = {}
    if self.has_parts and not self.is_leave_one_out:
      self.row_users = {part: np.asarray(self.read(f'{part}_users')) for part in SPLITS}

  def blocks(self) -> Iterator[slice]:
    """Yields consecutive users. All of them, if the rows of a part are not in the order of users."""
    num_users = len(self.offsets) - 1
    if any((column[1:] < column[:-1]).any() for column in self.row_users.values()):
      yield slice(0, num_users)
      return
    for users in blocks(np.diff(self.offsets) + len(SPLITS), BLOCK):
      yield slice(int(users[0]), int(users[-1]) + 1)


def whole_blocks(log: Log, split: str, max_history: int = 0) -> Iterator[Whole]:
  """Yields the interactions of training and held-out rows, each once, of consecutive users.

  Under `split='source'` these are the training interactions: the held-out rows of a source repeat others and have
  no times. Under `split='global_time'`, a user's only interaction is in no part if it is later than the training
  part; such users are empty.

  Args:
    log: the prepared log.
    split: `data.split`.
    max_history: `data.max_history`. If histories are cut, interactions that are no targets are known only as long
      as they are in training.
  """
  columns = _Columns(log, split)
  for users in columns.blocks():
    offsets = columns.offsets[users.start : users.stop + 1]
    rows = slice(int(offsets[0]), int(offsets[-1]))
    train = {name: np.asarray(columns.read(f'train_{name}')[rows]) for name in columns.names}
    lengths = np.diff(offsets)
    pieces = [_Piece(np.repeat(np.arange(len(lengths)), lengths), train)]
    if columns.row_users:
      pieces = _general(columns, users, pieces[0], lengths, bool(max_history))
    elif columns.has_parts:
      everyone = np.arange(len(lengths))
      pieces += [_Piece(everyone, _targets(columns, part, users)) for part in SPLITS]
    yield _joined(users, pieces, columns.names)


def _targets(columns: _Columns, part: str, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
  return {name: np.asarray(columns.read(f'{part}_{name}')[rows]) for name in columns.names}


def _general(
  columns: _Columns, block: slice, train: _Piece, lengths: np.ndarray, is_cut: bool
) -> list[_Piece]:
  """Pieces of a split with any number of rows a user: the newest history of a user holds all earlier interactions."""
  bounds = {
    part: slice(*map(int, np.searchsorted(column, [block.start, block.stop])))
    for part, column in columns.row_users.items()
  }
  if block == slice(0, len(columns.offsets) - 1):  # the rows may be in another order
    bounds = {part: slice(0, len(column)) for part, column in columns.row_users.items()}
  users = {part: columns.row_users[part][bounds[part]] - block.start for part in SPLITS}
  wanted = _first_rows(users, lengths) if is_cut else _last_rows(users, len(lengths))
  is_trained_only = np.ones(len(lengths), bool)
  for column in () if is_cut else users.values():
    is_trained_only[column] = False
  kept = is_trained_only[train.owners]
  pieces = [_Piece(train.owners[kept], {name: train.columns[name][kept] for name in columns.names})]
  for part in SPLITS:
    first, rows = bounds[part].start, wanted[part]
    histories = {
      name: Sequences(
        columns.read(f'{part}_history_{name}'), columns.read(f'{part}_history_offsets')
      ).take(rows + first)
      for name in columns.names
    }
    owners = np.repeat(users[part][rows], histories['items'].lengths)
    pieces.append(_Piece(owners, {name: column.values for name, column in histories.items()}))
  for part in SPLITS:
    first = bounds[part].start
    rows = np.arange(len(users[part])) if is_cut else wanted[part]
    pieces.append(_Piece(users[part][rows], _targets(columns, part, rows + first)))
  return pieces


def _last_rows(users: dict[str, np.ndarray], num_users: int) -> dict[str, np.ndarray]:
  """The newest held-out row of every user, by part; rows of a part are in order of time for each user."""
  start, last = 0, np.full(num_users, -1)
  for column in users.values():
    last[column] = start + np.arange(len(column))
    start += len(column)
  rows, found, start = np.sort(last[last >= 0]), {}, 0
  for part, column in users.items():
    inside = rows[(rows >= start) & (rows < start + len(column))]
    found[part] = inside - start
    start += len(column)
  return found


def _first_rows(users: dict[str, np.ndarray], train_lengths: np.ndarray) -> dict[str, np.ndarray]:
  """The oldest held-out row of every user without training interactions: its history is the first interaction."""
  seen, found = train_lengths > 0, {}
  for part, column in users.items():
    _, rows = np.unique(column, return_index=True)
    found[part] = rows[~seen[column[rows]]]
    seen[column] = True
  return found


def _joined(users: slice, pieces: list[_Piece], names: tuple[str, ...]) -> Whole:
  num_users = users.stop - users.start
  owners = np.concatenate([piece.owners for piece in pieces])
  order = np.argsort(owners, kind='stable')
  columns = {
    name: np.concatenate([piece.columns[name] for piece in pieces])[order] for name in names
  }
  items = columns.pop('items')
  offsets = offsets_of(np.bincount(owners, minlength=num_users))
  return Whole(users, Sequences(items, offsets), columns)
