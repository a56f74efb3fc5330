"""Fields of raw rows: strict ids, times and ratings; descriptive fields of items, read as far as possible.

A check raises a ValueError without a place; the caller puts file and line before it. A descriptive value that
cannot be read is dropped and counted: it ends no run. Texts are tidied later, by `data_prep.log.item_text`.
"""

import ast
import collections
from collections.abc import Callable, Iterable, Mapping
import decimal
import re
from typing import Any

import numpy as np

from data_prep.sources import prices

MAX_ID = 256  # characters; arrays of ids are as wide as the longest id
MAX_LITERAL = 1_000_000  # characters of a Python list in a text field
_INT64 = np.iinfo(np.int64)
# Control characters and lone surrogates: JSON can spell them, files and terminals cannot.
_UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')
_MARKUP = re.compile('</?[a-z]', re.IGNORECASE)

# A raw value → the record's value, or None if it says nothing; ValueError if it cannot be read.
Kind = Callable[[Any], Any]


def short(value: Any) -> str:
  """Returns the value as an error message shows it."""
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:77]}…'


def identifier(value: Any, name: str) -> str:
  """Returns a user's or item's id.

  Raises:
    ValueError: it is not text, is blank, too long or not printable.
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
  """Returns an integer of 64 bits.

  Raises:
    ValueError: the value is something else.
  """
  is_integer = isinstance(value, int) and not isinstance(value, bool)
  if not is_integer or not _INT64.min <= value <= _INT64.max:
    raise ValueError(f'{name} must be an integer, {unit}; got {short(value)}')
  return value


class Reader:
  """Reads the descriptive fields of items, and counts the values that cannot be read.

  Attributes:
    unreadable: field of a record → number of dropped values.
  """

  def __init__(self, fields: Mapping[str, tuple[str, Kind]]):
    """Takes the record's field → its name in the raw row, and its kind."""
    self._fields = fields
    self.unreadable: collections.Counter[str] = collections.Counter()

  def record(self, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record of an item, as `RawLog.item_records` holds it.

    Null, '' and [] count as absent.
    """
    result = {}
    for field, (name, kind) in self._fields.items():
      value = row.get(name)
      if value is None or value == '' or value == []:
        continue
      try:
        value = kind(value)
      except ValueError:
        self.unreadable[field] += 1
        continue
      if value is not None:
        result[field] = value
    return result

  def catalogue(
    self, rows: Iterable[tuple[Any, Mapping[str, Any]]], place: Callable[[int], str]
  ) -> dict[str, dict[str, Any]]:
    """Returns the records of a table that lists every item once.

    Args:
      rows: id and raw row of each item.
      place: row number from 0 → file and line, for a message.

    Raises:
      ValueError: an id is invalid or occurs twice.
    """
    result = {}
    for number, (item, row) in enumerate(rows):
      try:
        if identifier(item, "an item's id") in result:
          raise ValueError(f'an item must be listed once; {item!r} is here again')
      except ValueError as error:
        raise ValueError(f'{place(number)}: {error}') from None
      result[item] = self.record(row)
    return result


def text(value: Any) -> str | None:
  """Returns a text, such as a title; a number is spelled out and a list of texts is joined."""
  if isinstance(value, list):
    parts = [part for part in map(_scalar, value) if part]
    return ' '.join(parts) or None
  return _scalar(value)


def _scalar(value: Any) -> str | None:
  """Returns one text; None if it says nothing.

  Raises:
    ValueError: the value is neither text nor a number.
  """
  if value is None:
    return None
  if isinstance(value, str):
    return value
  if isinstance(value, bytes):
    return value.decode('utf-8', 'replace')
  if isinstance(value, bool) or not isinstance(value, int | float | decimal.Decimal):
    raise ValueError('a text')
  number = prices.number(value)
  return str(int(number)) if number == int(number) else str(value)


def paths(value: Any) -> list[list[str]] | None:
  """Returns a list of paths of categories. A list of texts is one path.

  A path ends before its first part with markup: the crawls of 2018 hold scraps of the page behind it.
  """
  if isinstance(value, str):
    value = [value]
  if not isinstance(value, list):
    raise ValueError('a list of texts, or a list of such lists')
  lists = value if any(isinstance(part, list) for part in value) else [value]
  found = []
  for path in lists:
    parts = [_scalar(part) or '' for part in (path if isinstance(path, list) else [path])]
    end = next((n for n, part in enumerate(parts) if _MARKUP.search(part)), len(parts))
    if parts := [part for part in parts[:end] if part.strip()]:
      found.append(parts)
  return found or None


def tags(value: list[str]) -> list[list[str]] | None:
  """Returns unordered labels, such as genres: each is a path of its own."""
  return [[tag] for tag in value if tag.strip()] or None


def literal_list(value: str) -> list[Any]:
  """Returns the list that a Python literal spells; the literal is parsed, never run.

  Raises:
    ValueError: it is no list, or longer than `MAX_LITERAL`.
  """
  result = None
  if len(value) <= MAX_LITERAL:
    try:
      result = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
      result = None
  if not isinstance(result, list):
    raise ValueError(f'a list such as [1, 2] of at most {MAX_LITERAL:,} characters')
  return result
