"""Histories of raw item ids, oldest first, as item indices."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recjax.data.dataset import Dataset

_NAMED = 20  # unknown items that a message lists


class Row(NamedTuple):
  """One history.

  Attributes:
    fields: the object that was read, without unknown items of its history.
    items: item indices of the history, int32.
    known: other columns of the history by name, aligned with `items`.
    is_known: whether each item of the history was in the catalogue; None: all were. The others are under the key
      `unknown` of `fields`.
  """

  fields: dict[str, Any]
  items: np.ndarray
  known: dict[str, np.ndarray]
  is_known: list[bool] | None = None

  @property
  def unknown(self) -> list[Any]:
    """The items of the history that are not in the catalogue."""
    return [] if self.is_known is None else self.fields['unknown']


class Reader:
  """Turns raw histories into item indices. Ids may be numbers if those of the log are.

  Attributes:
    index: item id → its index.
  """

  def __init__(self, dataset: Dataset, columns: Sequence[str] = ()):
    """Prepares the look-up of ids.

    Args:
      dataset: gives the catalogue and the names of events.
      columns: optional columns to read if a history has them: `times` (seconds since 1970) and `events` (names).
    """
    self._columns = columns
    self._events = {name: i for i, name in enumerate(dataset.event_names)}
    self.index = {item['id']: i for i, item in enumerate(dataset.items)}

  def known(self, items: Iterable[Any]) -> np.ndarray:
    """Returns the indices of the items that are in the catalogue, int32."""
    ids = map(_id, items)
    found = (self.index.get(item) for item in ids if isinstance(item, str))
    return np.array([i for i in found if i is not None], np.int32)

  def indices(self, items: Iterable[Any], place: str, kind: str = 'item') -> np.ndarray:
    """Returns the indices of items, int32.

    Raises:
      ValueError: items are not in the catalogue; the message lists them.
    """
    return _indices(list(map(_id, items)), self.index, kind, 'in the catalogue', place)

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
    is_known = None
    if skip_unknown:
      fields, is_known = _without_unknown(fields, self.index, self._columns)
    items = _indices(fields['history'], self.index, 'item', 'in the catalogue', place, remedy)
    known = {
      name: _column(fields[name], name, len(items), self._events, place)
      for name in self._columns
      if name in fields
    }
    return Row(fields, items, known, is_known)


def _id(item: Any) -> Any:
  return str(item) if isinstance(item, int | np.integer) and not isinstance(item, bool) else item


def _column(
  values: Any, name: str, length: int, events: Mapping[str, int], place: str
) -> np.ndarray:
  """Returns the `times` or the `events` of a history."""
  if not isinstance(values, list) or len(values) != length:
    got = f'{len(values)} values' if isinstance(values, list) else repr(values)[:80]
    raise ValueError(
      f'{place}: {name} must be a list with one value per item of the history ({length}); got {got}'
    )
  if name == 'events':
    return _indices(values, events, 'event', 'in the log', place)
  if not all(isinstance(value, int | float) and abs(value) < 2**63 for value in values):
    raise ValueError(f'{place}: times must be numbers of seconds; got {str(values)[:80]}')
  return np.array(values, np.int64)


def _without_unknown(
  row: dict[str, Any], index: Mapping[str, int], columns: Sequence[str]
) -> tuple[dict[str, Any], list[bool] | None]:
  """Moves items that are not in the index to the key `unknown`; also returns which are in it, None: all."""
  history = row['history']
  is_known = [isinstance(item, str) and item in index for item in history]
  if all(is_known):
    return row, None
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
  return row | kept | {'unknown': unknown}, is_known


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
