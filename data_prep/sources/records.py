"""Reads fields of raw rows: checks ids, times and ratings; passes on descriptive fields of items.

A check raises a ValueError without file and line; the caller adds these. An invalid descriptive field is no error:
sources only split it into its parts, and `data_prep.log.item_text` tidies or drops it.
"""

import ast
from collections.abc import Callable, Iterable, Mapping
import contextlib
import json
import math
import re
from typing import Any

import numpy as np

MAX_ID = 256  # characters; numpy arrays of ids are as wide as the longest id
MAX_LITERAL = 1_000_000  # characters of a Python list in a string
_INT64 = np.iinfo(np.int64)
# Control characters and lone surrogates: JSON can contain them, files and terminals cannot show them.
_UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')

Kind = Callable[[Any], Any]  # converts a raw value of any type to the value in a record
Columns = str | tuple[str, ...]  # the column of a field, or several columns that are joined
# Texts that stand for a missing number, in lower case.
MISSING = frozenset(('', '-', '–', '—', 'nan', 'none', 'null', 'na', 'n/a', '#n/a', '<na>', '\\n'))


def short(value: Any) -> str:
  """Returns the value as text for an error message, at most 80 characters."""
  text = repr(value.item() if isinstance(value, np.generic) else value)
  return text if len(text) <= 80 else f'{text[:77]}…'


def identifier(value: Any, name: str) -> str:
  """Returns the id of a user or an item.

  Raises:
    ValueError: the id is not text, is blank, too long or not printable.
  """
  if not isinstance(value, str) or not value.strip():
    raise ValueError(f'{name} must be a string that is not empty; got {short(value)}')
  if len(value) > MAX_ID or _UNPRINTABLE.search(value):
    raise ValueError(
      f'{name} must have at most {MAX_ID} characters, none of them a control character; '
      f'got {len(value):,}: {short(value)}'
    )
  return value


def integer(value: Any, name: str, unit: str) -> int:
  """Returns a 64-bit integer.

  Raises:
    ValueError: the value is something else.
  """
  is_integer = isinstance(value, int) and not isinstance(value, bool)
  if not is_integer or not _INT64.min <= value <= _INT64.max:
    raise ValueError(f'{name} must be an integer, {unit}; got {short(value)}')
  return value


def rating(value: Any) -> float:
  """Returns a rating as a number that fits into float32; NaN if it is missing, infinity if it is invalid."""
  if value is None or (isinstance(value, str) and value.strip().lower() in MISSING):
    return math.nan
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return float(value) if is_number and not abs(value) >= 1e38 else math.inf


def names(columns: Columns) -> tuple[str, ...]:
  """Returns the column names of a field."""
  return (columns,) if isinstance(columns, str) else columns


def record(row: Mapping[str, Any], fields: Mapping[str, tuple[Columns, Kind]]) -> dict[str, Any]:
  """Returns the record of an item for `RawLog.item_records`.

  Args:
    row: the raw row. The values null, '' and [] count as absent.
    fields: field of a record → its name in the row, and its kind. Of several names, the values become one
      list of texts; for categories, one path.
  """
  result = {}
  for field, (name, kind) in fields.items():
    if not isinstance(name, str):
      if texts := [text for part in name for text in _texts(row.get(part))]:
        result[field] = [texts] if field == 'categories' else texts
      continue
    value = row.get(name)
    if not _is_absent(value) and not _is_absent(value := kind(value)):
      result[field] = value
  return result


def _texts(value: Any) -> list[str]:
  """The texts in a value, which may be a text, a number or a list of them."""
  if isinstance(value, list | tuple):
    return [text for part in value for text in _texts(part)]
  text = '' if value is None or value != value else str(value).strip()
  return [] if text.lower() in MISSING else [text]


def _is_absent(value: Any) -> bool:
  return value is None or value == '' or value == []


def catalogue(
  rows: Iterable[tuple[Any, Mapping[str, Any]]],
  fields: Mapping[str, tuple[Columns, Kind]],
  place: Callable[[int], str],
) -> dict[str, dict[str, Any]]:
  """Returns the records of an item table, by item id.

  Args:
    rows: id and raw row of each item.
    fields: see `record`.
    place: row number, from 0 → file and line, for a message.

  Raises:
    ValueError: an id is invalid or occurs twice.
  """
  result = {}
  for number, (item, row) in enumerate(rows):
    try:
      if identifier(item, "an item's id") in result:
        raise ValueError(f'an item must be listed once; {item!r} is repeated')
    except ValueError as error:
      raise ValueError(f'{place(number)}: {error}') from None
    result[item] = record(row, fields)
  return result


def as_it_is(value: Any) -> Any:
  """Returns the value unchanged: the kind of fields that are only tidied later."""
  return value


def tags(value: list[str]) -> list[list[str]]:
  """Returns category paths for unordered labels such as genres: one path per label."""
  return [[tag] for tag in value if tag.strip()]


def literal_list(value: str) -> list[Any]:
  """Parses a list in Python or JSON notation; never executes it.

  Raises:
    ValueError: the literal is no list, or longer than `MAX_LITERAL`. The message is only the expected format.
  """
  result = None
  for parse in (ast.literal_eval, json.loads) if len(value) <= MAX_LITERAL else ():
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
      result = parse(value.strip())
      break
  if not isinstance(result, list):
    raise ValueError(f'a list such as [1, 2] of at most {MAX_LITERAL:,} characters')
  return result
