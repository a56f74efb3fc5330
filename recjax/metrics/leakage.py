"""The leakage test before an evaluation: no held-out interaction is trained on, no history reaches its target.

An interaction is a user, an item and a time; no two of a prepared log are equal. So an item that a user has again, at
another time, is no leak. The test reads the prepared arrays alone; `RULES` says what it tests.
"""

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from recjax.data.dataset import SPLITS, Log
from recjax.data.sequences import Sequences, blocks
from recjax.runtime.files import sha256

BLOCK_ITEMS = 1 << 23  # interactions per block, which bounds the memory
# Share of a source's rows from which on the order of its rows is that of the log.
_CHRONOLOGICAL = 0.9

RULES = {
  'files': 'the arrays have the sizes and hashes that the preparation recorded',
  'training': 'no held-out interaction (user, item, time) is in the training part; with global_time, no training '
  'interaction is later than a held-out one; with leave_one_out, none is later than one of its user',
  'histories': 'no history holds the interaction of its target or a later one',
  'order': 'rows without times: no training part begins with the whole history of a row and goes on with its target',
}

_COLUMNS = ('items', 'times', 'users', 'history_items', 'history_offsets', 'history_times')
_FILES = tuple(
  f'{part}_{column}.npy' for part in ('train', *SPLITS) for column in ('offsets', *_COLUMNS)
)


def check(log: Log, kind: str) -> dict[str, Any]:
  """Tests the held-out rows of a prepared log.

  Args:
    log: the prepared data.
    kind: `data.split`: leave_one_out, global_time or source.

  Returns:
    The record for evaluation.json: `rules`, the rules that were tested by name, and `rows`, the rows of each split.

  Raises:
    ValueError: a rule is broken; the message names the first row and says what to do.
  """
  _check_files(log)
  tested = ['files']
  if log.column('test_times') is None:
    _check_order(log)
    tested += ['order']
  else:
    _check_border(log) if kind == 'global_time' else _check_users(log)
    _check_histories(log)
    tested += ['training', 'histories']
  return {
    'rules': {name: RULES[name] for name in tested},
    'rows': {split: log.num_rows(split) for split in SPLITS},
  }


def _check_files(log: Log) -> None:
  folder = log.folder / 'interactions'
  recorded = (log.manifest('interactions') or {}).get('files', {})
  for name in _FILES:
    path = folder / name
    if name in recorded and path.exists() and sha256(path) != recorded[name]['sha256']:
      raise ValueError(
        f'leakage test: {path} must be the file that the preparation wrote; its hash is not that of '
        f'{folder / "manifest.json"}. {_again(log)}'
      )
  # An array that is shorter than the others would shift the rows of all later users.
  lengths = {'train_items': (len(log.train.values), log.train.offsets[-1])}
  if (times := log.column('train_times')) is not None:
    lengths['train_times'] = (len(times), log.train.offsets[-1])
  for split in SPLITS:
    rows = log.num_users if log.is_leave_one_out else log.num_rows(split)
    for name in ('items', 'times', 'users'):
      if (column := log.column(f'{split}_{name}')) is not None:
        lengths[f'{split}_{name}'] = (len(column), rows)
  for name, (got, expected) in lengths.items():
    if got != expected:
      raise ValueError(
        f'leakage test: {folder / name}.npy must have {expected} values; got {got}. {_again(log)}'
      )


def _check_users(log: Log) -> None:
  """Leave-one-out: every user has one row in each split, and all of the training part is before both."""
  held_out = [(split, np.asarray(log.column(f'{split}_times'))) for split in SPLITS]
  for users in blocks(log.train.lengths + 1, BLOCK_ITEMS):
    part = log.train.take(users)
    owners = np.repeat(users, part.lengths)
    times = Sequences(log.train_times, log.train.offsets).take(users).values
    for split, times_U in held_out:
      is_same = (times == times_U[owners]) & (part.values == np.asarray(log.targets(split))[owners])
      if is_same.any():
        message = 'must not be in the training part; train_items.npy holds it'
        _fail(log, split, owners[is_same][0], message)
    for split, times_U in held_out:
      if (is_late := times > times_U[owners]).any():
        message = 'must be later than the training part of its user; it is not'
        _fail(log, split, owners[is_late][0], message)


def _check_border(log: Log) -> None:
  """global_time: the training part ends before the first held-out target, or at the same time."""
  last = max(int(times.max()) for _, times in _time_blocks(log))
  trained = np.concatenate([at + np.flatnonzero(times == last) for at, times in _time_blocks(log)])
  owners = np.searchsorted(np.asarray(log.train.offsets), trained, side='right') - 1
  for split in SPLITS:
    times = np.asarray(log.column(f'{split}_times'))
    if len(early := np.flatnonzero(times < last)):
      _fail(
        log, split, early[0], f'must not be before the end of the training part ({last}); it is'
      )
    rows = np.flatnonzero(times == last)
    users = log.row_users(split)[rows].astype(np.int64)
    keys = users * log.num_items + log.targets(split)[rows]
    known = owners * log.num_items + log.train.values[trained]
    if (found := np.isin(keys, known)).any():
      message = 'must not be in the training part; train_items.npy holds it'
      _fail(log, split, rows[found][0], message)


def _time_blocks(log: Log) -> Iterator[tuple[int, np.ndarray]]:
  """Yields the first place and the times of consecutive interactions of the training part."""
  for at in range(0, len(log.train.values), BLOCK_ITEMS):
    yield at, np.asarray(log.train_times[at : at + BLOCK_ITEMS])


def _check_histories(log: Log) -> None:
  """Compares every history with its target by item and time."""
  held_out = {split: np.asarray(log.column(f'{split}_times')) for split in SPLITS}
  if log.is_leave_one_out:
    # `_check_users` has compared the training parts. Beside its own, a test history has the validation item.
    users = np.arange(log.num_users)
    _check_shown(
      log, 'test', held_out['test'], users, log.targets('validation'), held_out['validation']
    )
    return
  for split, times_U in held_out.items():
    histories, _ = log.histories_and_targets(split)
    times = Sequences(log.history_column(split, 'times'), histories.offsets)
    for rows in blocks(histories.lengths + 1, BLOCK_ITEMS):
      shown, at = histories.take(rows), times.take(rows).values
      _check_shown(log, split, times_U, np.repeat(rows, shown.lengths), shown.values, at)


def _check_shown(
  log: Log, split: str, times_U: np.ndarray, owners: np.ndarray, items: np.ndarray, at: np.ndarray
) -> None:
  """Compares items of histories, and their times, with the targets of the rows that own them."""
  is_same = (at == times_U[owners]) & (items == log.targets(split)[owners])
  for wrong, rule in (
    (at > times_U[owners], 'must not be before an item of its history; it is'),
    (is_same, 'must not be in its own history; it is'),
  ):
    if wrong.any():
      _fail(log, split, owners[wrong][0], rule)


def _check_order(log: Log) -> None:
  """Compares histories with the training part of their user, for rows without times.

  Histories of the largest length may be cut and are left out. If too few of the others agree with a training part,
  the rows are no continuation of it (as sessions are not), and the same items may follow each other again.
  """
  longest = max(log.histories_and_targets(split)[0].lengths.max(initial=0) for split in SPLITS)
  for split in SPLITS:
    histories, targets = log.histories_and_targets(split)
    users = log.row_users(split)
    trained = log.train.lengths[users] > 0
    rows = np.flatnonzero(trained & (histories.lengths < longest))
    if not len(rows):
      continue
    whole, train = histories.take(rows).append(targets[rows]), log.train.take(users[rows])
    agree = np.minimum(whole.lengths, train.lengths)
    owners = np.repeat(np.arange(len(rows)), agree)
    equal = _heads(whole, agree) == _heads(train, agree)
    is_equal = np.bincount(owners, ~equal, len(rows)) == 0
    is_leaked = is_equal & (train.lengths >= whole.lengths)
    if is_leaked.any() and is_equal.mean() >= _CHRONOLOGICAL:
      _fail(
        log, split, rows[is_leaked][0],
        f'must not be in the training part, which holds its history and then the target ({int(is_leaked.sum())} '
        'such rows)',
      )  # fmt: skip


def _heads(sequences: Sequences, lengths: np.ndarray) -> np.ndarray:
  """The first values of every sequence, flat."""
  return sequences.values[sequences.places < np.repeat(lengths, sequences.lengths)]


def _fail(log: Log, split: str, row: int, rule: str) -> NoReturn:
  user = int(log.row_users(split)[row])
  item = log.items[int(log.targets(split)[row])]['id']
  raise ValueError(
    f'leakage test: the {split} target of row {row} (user {log.user_ids()[user]!r}, item {item!r}) {rule}. {_again(log)}'
  )


def _again(log: Log) -> str:
  return (
    f'Prepare the data again: remove {log.folder / "interactions"} and run --mode=prepare, or set another '
    '--config.data.prepared_dir'
  )
