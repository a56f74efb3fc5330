"""Reads files of histories: JSON lines with `history`, a list of raw item ids, oldest first."""

from collections.abc import Iterator, Mapping, Sequence
import json
import math
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from recjax.data.dataset import Dataset
from recjax.runtime.files import existing


class Row(NamedTuple):
  """One line of a file of histories.

  Attributes:
    fields: the JSON object of the line.
    items: item indices of the history, int32.
    known: other columns of the history by name, aligned with `items`.
  """

  fields: dict[str, Any]
  items: np.ndarray
  known: dict[str, np.ndarray]


def check_histories(path: epath.PathLike) -> None:
  """Checks the format of a file without the data set; call it before preparing data.

  Raises:
    OSError: the path is not a file.
    ValueError: a line is not an object with a list `history`, or there is no line.
  """
  if not sum(1 for _ in _lines(path)):
    raise ValueError(f'{path} must hold at least one history; it is empty. Set --histories')


def read_histories(
  path: epath.PathLike,
  dataset: Dataset,
  columns: Sequence[str] = (),
  skip_unknown: bool = False,
) -> list[Row]:
  """Reads a file of histories. Ids may be numbers if those of the log are. Other keys are kept.

  Args:
    path: the file.
    dataset: gives the catalogue and the names of events.
    columns: optional columns to read if a line has them: `times` (seconds since 1970) and `events` (names).
    skip_unknown: whether items that are not in the catalogue are moved to the key `unknown`; otherwise they
      are an error.

  Raises:
    OSError: the path is not a file.
    ValueError: a line is not such an object, or names an item or event that is not in the data; or the file
      is empty.
  """
  check_histories(path)
  events = {name: i for i, name in enumerate(dataset.event_names)}
  index = {item['id']: i for i, item in enumerate(dataset.items)}
  rows = []
  for place, row in _lines(path):
    if skip_unknown:
      row = _without_unknown(row, index, columns)
    items = _indices(row['history'], index, 'item', 'in the catalogue', place)
    known = {
      name: _column(row[name], name, len(items), events, place) for name in columns if name in row
    }
    rows.append(Row(row, items, known))
  return rows


def _lines(path: epath.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields file:line and the object of every line that is not blank; converts numeric ids to text."""
  path = existing(path, '--histories', 'file')
  # Not splitlines, which also splits at characters that JSON strings may contain.
  for number, line in enumerate(path.read_bytes().split(b'\n'), 1):
    if not line.strip():
      continue
    place = f'{path}:{number}'
    try:
      row = json.loads(line.decode('utf-8-sig'))
    except ValueError as error:
      raise ValueError(f'{place}: a line must be a JSON object; {error}') from error
    if not isinstance(row, dict) or not isinstance(row.get('history'), list):
      raise ValueError(
        f'{place}: a line must be an object with a list "history"; got {line[:80]!r}'
      )
    row['history'] = [str(i) if type(i) is int else i for i in row['history']]
    yield place, row


def _column(
  values: Any, name: str, length: int, events: Mapping[str, int], place: str
) -> np.ndarray:
  """Returns the `times` or the `events` of a history."""
  if not isinstance(values, list) or len(values) != length:
    raise ValueError(f'{place}: {name} must be a list with one value per item of the history')
  if name == 'events':
    return _indices(values, events, 'event', 'in the log', place)
  if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
    raise ValueError(f'{place}: times must be numbers of seconds; got {str(values)[:80]}')
  return np.array(values, np.int64)


def _without_unknown(
  row: dict[str, Any], index: Mapping[str, int], columns: Sequence[str]
) -> dict[str, Any]:
  """Moves items that are not in the index to the key `unknown`."""
  history = row['history']
  is_known = [isinstance(item, str) and item in index for item in history]
  if all(is_known):
    return row
  aligned = [
    name
    for name in ('history', *columns)
    if isinstance(row.get(name), list) and len(row[name]) == len(history)
  ]
  kept = {
    name: [value for value, known in zip(row[name], is_known, strict=True) if known]
    for name in aligned
  }
  unknown = [item for item, known in zip(history, is_known, strict=True) if not known]
  return row | kept | {'unknown': unknown}


def _indices(
  values: Sequence[Any], index: Mapping[str, int], kind: str, rule: str, place: str
) -> np.ndarray:
  for value in values:
    if not isinstance(value, str) or value not in index:
      raise ValueError(f'{place}: every {kind} must be {rule}; {value!r} is not')
  return np.array([index[value] for value in values], np.int32)
