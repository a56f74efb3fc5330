"""The candidates that rows are ranked over: drawn by a seed, or read from a file."""

from collections.abc import Iterator, Mapping
import json
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recjax.data.corpus import Corpus
from recjax.data.dataset import SPLITS, Dataset
from recjax.runtime.files import existing


def draw(
  corpus: Corpus,
  split: str,
  rows: np.ndarray,
  count: int,
  weighting: str,
  seed: int,
) -> np.ndarray:
  """Returns the target of every row and, after it, drawn items that are neither in its history nor its target.

  The items of a row depend on the seed, the split and the row alone.

  Args:
    corpus: the data set.
    split: 'validation' or 'test'.
    rows: row numbers of the split, `[R]`.
    count: candidates of a row, the target included; see `check_room`.
    weighting: 'popularity' (in proportion to training interactions; none counts as one) or 'uniform'. Items are drawn
      one after the other without replacement.
    seed: of the drawing.

  Returns:
    int32 `[R, count]`.
  """
  histories, targets = corpus.dataset.histories_and_targets(split)
  candidates_RN = np.empty((len(rows), count), np.int32)
  for r, row in enumerate(np.asarray(rows).tolist()):
    rng = np.random.default_rng([seed, SPLITS.index(split), row])
    excluded = np.append(histories[row], targets[row])
    candidates_RN[r, 0] = targets[row]
    candidates_RN[r, 1:] = corpus.negatives(rng, excluded, count - 1, weighting)
  return candidates_RN


def check_room(dataset: Dataset, count: int, field: str) -> None:
  """Raises a ValueError if some row has fewer than `count - 1` items outside its history and its target."""
  most, where = 0, ''
  for split in SPLITS:
    histories, targets = dataset.histories_and_targets(split)
    # Only these histories can be too large, however often they repeat items.
    for row in np.flatnonzero(histories.lengths >= dataset.num_items - count + 1).tolist():
      known = len(np.unique(np.append(histories[row], targets[row])))
      if known > most:
        most, where = known, f'{split} row {row}'
  if count - 1 > dataset.num_items - most:
    raise ValueError(
      f'{field} must be at most {dataset.num_items - most + 1}: the catalogue has {dataset.num_items} items, of which '
      f'{most} are in the history of {where} or its target; got {count}. Set --config.{field}'
    )


def read(path: epath.PathLike, dataset: Dataset, field: str) -> dict[str, dict[int, np.ndarray]]:
  """Reads the candidates of rows.

  A line (JSON lines) or a row (Parquet) has `candidates`, a list of raw item ids, and `user`, a raw user id, or `row`, a
  row number of the split; optionally `split` (by default 'test'). A user's candidates hold for all rows of the user.

  Returns:
    By split and row number: the target, then the other candidates in the order of the file, int32.

  Raises:
    OSError: the path is not a file.
    ValueError: a line is not like that, an id is unknown, a row has two lines, or no candidate but the target.
  """
  path = existing(path, f'--config.{field}', 'file')
  items = {item['id']: i for i, item in enumerate(dataset.items)}
  index = {user: i for i, user in enumerate(dataset.user_ids())}
  targets = {split: np.asarray(dataset.targets(split)) for split in SPLITS}
  by_user = {split: _rows_by_user(dataset.row_users(split)) for split in SPLITS}
  found: dict[str, dict[int, np.ndarray]] = {split: {} for split in SPLITS}
  for place, fields in _lines(path):
    split = fields.get('split') or 'test'
    _check(split in SPLITS, place, f'split must be {" or ".join(SPLITS)}', split)
    unknown = [item for item in fields['candidates'] if str(item) not in items]
    _check(not unknown, place, 'every candidate must be in the catalogue', unknown[:5])
    chosen = [items[str(item)] for item in fields['candidates']]
    if fields.get('row') is not None:
      row = fields['row']
      is_row = isinstance(row, int) and 0 <= row < len(targets[split])
      _check(is_row, place, f'row must be from 0 to {len(targets[split]) - 1}', row)
      rows = [row]
    else:
      user = str(fields.get('user'))
      _check(
        user in index, place, 'user must be a user of the log, or row be given', fields.get('user')
      )
      rows = by_user[split].get(index[user], [])
    for row in rows:
      _check(row not in found[split], place, f'a row of the split {split} must have one line', row)
      target = int(targets[split][row])
      others = dict.fromkeys(item for item in chosen if item != target)
      _check(bool(others), place, 'a row needs a candidate beside its target', fields['candidates'])
      found[split][row] = np.array([target, *others], np.int32)
  if not any(found.values()):
    raise ValueError(
      f'{path} must hold candidates of at least one held-out row. Set --config.{field}'
    )
  return found


def table(found: Mapping[int, np.ndarray], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns those rows that have candidates, and their candidates as int32 `[R, N]`, padded with -1."""
  rows = np.array([row for row in np.asarray(rows).tolist() if row in found], np.int64)
  width = max((len(found[row]) for row in rows.tolist()), default=1)
  candidates_RN = np.full((len(rows), width), -1, np.int32)
  for r, row in enumerate(rows.tolist()):
    candidates_RN[r, : len(found[row])] = found[row]
  return rows, candidates_RN


def _rows_by_user(users: np.ndarray) -> dict[int, list[int]]:
  rows: dict[int, list[int]] = {}
  for row, user in enumerate(np.asarray(users).tolist()):
    rows.setdefault(user, []).append(row)
  return rows


def _lines(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the place and the fields of every line that is not blank."""
  if path.suffix == '.parquet':
    try:
      table = pq.read_table(path)
    except pa.ArrowException as error:
      raise ValueError(
        f'{path} must be a whole Parquet file; {str(error).splitlines()[0]}'
      ) from error
    for number, fields in enumerate(table.to_pylist()):
      yield _checked(f'{path}, row {number}', fields)
    return
  for number, line in enumerate(path.read_bytes().split(b'\n'), 1):
    if line.strip():
      place = f'{path}:{number}'
      try:
        fields = json.loads(line.decode('utf-8-sig'))
      except ValueError as error:
        raise ValueError(f'{place}: a line must be a JSON object; {error}') from error
      yield _checked(place, fields)


def _checked(place: str, fields: Any) -> tuple[str, dict[str, Any]]:
  is_line = isinstance(fields, dict) and isinstance(fields.get('candidates'), list)
  _check(is_line, place, 'a line must be an object with a list "candidates"', str(fields)[:80])
  return place, fields


def _check(condition: bool, place: str, must: str, got: Any) -> None:
  if not condition:
    raise ValueError(f'{place}: {must}; got {got!r}')
