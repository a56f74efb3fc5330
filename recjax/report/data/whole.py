"""The whole log of a prepared folder, put together again from the parts of its split."""

import dataclasses

import numpy as np

from recjax.data.dataset import COLUMNS, SPLITS, Log
from recjax.data.sequences import Sequences, offsets_of


@dataclasses.dataclass(frozen=True)
class Whole:
  """All interactions of a log.

  Attributes:
    items: each user's items, oldest first. A user may have none.
    columns: times int64, ratings float32 and events int32, aligned with `items.values`; a column that the log
      lacks is absent.
  """

  items: Sequences
  columns: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Piece:
  """A part of every column, and the users whom its rows belong to."""

  owners: np.ndarray
  columns: dict[str, np.ndarray]


def whole_log(log: Log, split: str, max_history: int = 0) -> Whole:
  """Returns the interactions of training and held-out rows, each once.

  Under `split='source'` these are the training interactions: the held-out rows of a source repeat others and have
  no times. Under `split='global_time'`, a user's only interaction is in no part if it is later than the training
  part; such users are empty.

  Args:
    log: the prepared log.
    split: `data.split`.
    max_history: `data.max_history`. If histories are cut, interactions that are no targets are known only as long
      as they are in training.
  """
  names = ('items', *(name for name in COLUMNS if log.column(f'train_{name}') is not None))
  train = {name: log.column(f'train_{name}') for name in names}
  pieces = [_Piece(np.repeat(np.arange(len(log.train)), log.train.lengths), train)]
  if log.is_leave_one_out:
    users = np.arange(len(log.train))
    pieces += [_Piece(users, _targets(log, part, names)) for part in SPLITS]
  elif split != 'source':
    pieces = _general(log, pieces[0], names, bool(max_history))
  return _joined(pieces, len(log.train), names)


def _targets(log: Log, part: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
  return {name: log.column(f'{part}_{name}') for name in names}


def _general(log: Log, train: _Piece, names: tuple[str, ...], is_cut: bool) -> list[_Piece]:
  """Pieces of a split with any number of rows a user: the newest history of a user holds all earlier interactions."""
  users = {part: np.asarray(log.column(f'{part}_users')) for part in SPLITS}
  wanted = _first_rows(users, log.train.lengths) if is_cut else _last_rows(users, len(log.train))
  is_trained_only = np.ones(len(log.train), bool)
  for column in () if is_cut else users.values():
    is_trained_only[column] = False
  kept = is_trained_only[train.owners]
  pieces = [_Piece(train.owners[kept], {name: train.columns[name][kept] for name in names})]
  for part in SPLITS:
    rows, offsets = wanted[part], log.column(f'{part}_history_offsets')
    columns = {
      name: Sequences(log.column(f'{part}_history_{name}'), offsets).take(rows) for name in names
    }
    owners = np.repeat(users[part][rows], columns['items'].lengths)
    pieces.append(_Piece(owners, {name: column.values for name, column in columns.items()}))
  for part in SPLITS:
    rows = np.arange(len(users[part])) if is_cut else wanted[part]
    targets = {name: column[rows] for name, column in _targets(log, part, names).items()}
    pieces.append(_Piece(users[part][rows], targets))
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


def _joined(pieces: list[_Piece], num_users: int, names: tuple[str, ...]) -> Whole:
  owners = np.concatenate([piece.owners for piece in pieces])
  order = np.argsort(owners, kind='stable')
  columns = {
    name: np.concatenate([piece.columns[name] for piece in pieces])[order] for name in names
  }
  items = columns.pop('items')
  return Whole(Sequences(items, offsets_of(np.bincount(owners, minlength=num_users))), columns)
