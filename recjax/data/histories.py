"""Reads histories of raw item ids, oldest first, also from files of JSON lines with `history`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
import math
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from recjax.data.dataset import Dataset
from recjax.runtime.files import existing

_NAMED = 5  # unknown items that a message lists


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


class Reader:
  """Turns raw histories into item indices. Ids may be numbers if those of the log are."""

  def __init__(self, dataset: Dataset, columns: Sequence[str] = ()):
    """Prepares the look-up of ids.

    Args:
      dataset: gives the catalogue and the names of events.
      columns: optional columns to read if a history has them: `times` (seconds since 1970) and `events` (names).
    """
    self._columns = columns
    self._events = {name: i for i, name in enumerate(dataset.event_names)}
    self._index = {item['id']: i for i, item in enumerate(dataset.items)}

  def known(self, items: Iterable[Any]) -> np.ndarray:
    """Returns the indices of the items that are in the catalogue, int32."""
    ids = map(_id, items)
    found = (self._index.get(item) for item in ids if isinstance(item, str))
    return np.array([i for i in found if i is not None], np.int32)

  def row(
    self, fields: Mapping[str, Any], place: str, skip_unknown: bool = False, remedy: str = ''
  ) -> Row:
    """Reads one history.

    Args:
      fields: `history`, a list of item ids, and further keys.
      place: names the history in messages.
      skip_unknown: whether items that are not in the catalogue are moved to the key `unknown`; otherwise they are
        an error.
      remedy: of unknown items, for the message.

    Raises:
      ValueError: an item or event is not in the data, or a column does not fit the history.
    """
    fields = {**fields, 'history': [_id(item) for item in fields['history']]}
    if skip_unknown:
      fields = _without_unknown(fields, self._index, self._columns)
    items = _indices(fields['history'], self._index, 'item', 'in the catalogue', place, remedy)
    known = {
      name: _column(fields[name], name, len(items), self._events, place)
      for name in self._columns
      if name in fields
    }
    return Row(fields, items, known)


def check_histories(path: epath.PathLike) -> None:
  """Checks the format of a file without the data set; call it before preparing data.

  Raises:
    OSError: the path is not a file.
    ValueError: a line is not an object with a list `history`, or there is no line.
  """
  if not sum(1 for _ in _lines(path)):
    raise ValueError(f'{path} must hold at least one history; it is empty. Set --histories')


def read_histories(path: epath.PathLike, reader: Reader, skip_unknown: bool = False) -> list[Row]:
  """Reads a file of histories; see `Reader.row`. Other keys of a line are kept.

  Raises:
    OSError: the path is not a file.
    ValueError: a line is not such an object, or the file is empty; see also `Reader.row`.
  """
  check_histories(path)
  remedy = 'Set --skip_unknown to leave such items out'
  return [reader.row(fields, place, skip_unknown, remedy) for place, fields in _lines(path)]


def _lines(path: epath.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields file:line and the object of every line that is not blank."""
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
    yield place, row


def _id(item: Any) -> Any:
  return str(item) if isinstance(item, int | np.integer) and not isinstance(item, bool) else item


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
  values: Sequence[Any],
  index: Mapping[str, int],
  kind: str,
  rule: str,
  place: str,
  remedy: str = '',
) -> np.ndarray:
  unknown = [value for value in values if not isinstance(value, str) or value not in index]
  if unknown:
    named = ', '.join(map(repr, dict.fromkeys(map(str, unknown[:_NAMED]))))
    more = f' and {len(unknown) - _NAMED} more' if len(unknown) > _NAMED else ''
    verb = 'is' if len(unknown) == 1 else 'are'
    raise ValueError(
      f'{place}: every {kind} must be {rule}; {named}{more} {verb} not{remedy and f". {remedy}"}'
    )
  return np.array([index[value] for value in values], np.int32)
