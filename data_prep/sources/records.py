"""Fields of raw rows, checked one by one: ids, numbers, and what a catalogue knows of an item.

The checks raise a ValueError without a place; who reads the file puts file and line before it.
"""

import ast
from collections.abc import Callable, Iterable, Mapping
import math
import re
from typing import Any

import numpy as np

from data_prep.log import interactions

MAX_ID = 256  # characters; arrays of ids are as wide as the longest one
MAX_LITERAL = 1_000_000  # characters of a Python list in a text field
_INT64 = np.iinfo(np.int64)
# Control characters and halves of characters: JSON can spell them, files and terminals cannot.
_UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')
_MARKUP = re.compile('</?[a-z]', re.IGNORECASE)
_AMOUNT = re.compile(r'(?:from\s+)?\$?\s*(\d[\d,]*(?:\.\d+)?)(?:\s*-.*)?')

Kind = Callable[[Any], Any]  # a raw value → the record's value, None if absent; ValueError if wrong


def short(value: Any) -> str:
  """The value as an error shows it."""
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:77]}…'


def identifier(value: Any, name: str) -> str:
  """A user's or item's id.

  Raises:
    ValueError: it is no string, is blank, is too long or cannot be printed.
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
  """An integer of 64 bits."""
  is_integer = isinstance(value, int) and not isinstance(value, bool)
  if not is_integer or not _INT64.min <= value <= _INT64.max:
    raise ValueError(f'{name} must be an integer, {unit}; got {short(value)}')
  return value


def finite(value: Any, name: str) -> float:
  """A number that float32 can hold."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if not is_number or not abs(value) < 1e38:
    raise ValueError(f'{name} must be a finite number; got {short(value)}')
  return float(value)


def record(row: Mapping[str, Any], fields: Mapping[str, tuple[str, Kind]]) -> dict[str, Any]:
  """What a raw row says of an item, as `RawLog.item_records` wants it.

  Args:
    row: the raw row; null, '' and [] count as absent.
    fields: the record's field → its name in the row, and its kind.

  Raises:
    ValueError: a field is of a wrong kind, or the title is too long to be one.
  """
  result = {}
  for field, (name, kind) in fields.items():
    value = row.get(name)
    if value is None or value == '' or value == []:
      continue
    try:
      value = kind(value)
    except ValueError as error:
      raise ValueError(f'{name} must be {error}; got {short(value)}') from None
    if value is not None:
      result[field] = value
  if len(result.get('title', '')) > interactions.MAX_TITLE:
    raise ValueError(
      f'a title must have at most {interactions.MAX_TITLE:,} characters; '
      f'got {len(result["title"]):,}'
    )
  return result


def catalogue(
  rows: Iterable[tuple[Any, Mapping[str, Any]]],
  fields: Mapping[str, tuple[str, Kind]],
  place: Callable[[int], str],
) -> dict[str, dict[str, Any]]:
  """The records of a table that lists every item once.

  Args:
    rows: id and raw row of each item.
    fields: as of `record`.
    place: a row, from 0 → where it is, for a message.

  Raises:
    ValueError: an id is none or occurs twice, or a field is of a wrong kind; after its place.
  """
  result = {}
  for number, (item, row) in enumerate(rows):
    try:
      if identifier(item, "an item's id") in result:
        raise ValueError(f'an item must be listed once; {item!r} is here again')
      result[item] = record(row, fields)
    except ValueError as error:
      raise ValueError(f'{place(number)}: {error}') from None
  return result


def text(value: Any) -> str:
  if not isinstance(value, str):
    raise ValueError('a string')
  return value


def texts(value: Any) -> str:
  """A string, or a list of them, which are joined."""
  if isinstance(value, list) and all(isinstance(part, str) for part in value):
    return ' '.join(part for part in value if part)
  if not isinstance(value, str):
    raise ValueError('a string or a list of strings')
  return value


def number(value: Any) -> float:
  if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e15:
    raise ValueError('a number')
  return value


def number_or_text(value: Any) -> float:
  """A number, or one spelled as text, with or without the sign of the dollar."""
  if isinstance(value, str):
    spelled = value.strip().removeprefix('$').replace(',', '')
    try:
      value = float(spelled)
    except ValueError:
      value = math.nan
  return number(value)


def price_on_a_page(value: Any) -> float | None:
  """A number, or the lowest amount that a text states; absent where a text states none.

  Pages give '$12.99', 'from 12.99', '$5.99 - $12.99', and where the crawl failed, scraps of style sheets.
  """
  if isinstance(value, str):
    amount = _AMOUNT.fullmatch(value.strip())
    value = float(amount[1].replace(',', '')) if amount else None
    return value if value is not None and value < 1e15 else None
  return number(value)


def path(value: Any) -> list[list[str]] | None:
  """A list of strings as the one path of categories.

  It ends before the first part with markup: behind that the crawls of 2018 hold scraps of the page.
  """
  if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
    raise ValueError('a list of strings')
  end = next((n for n, part in enumerate(value) if _MARKUP.search(part)), len(value))
  parts = [part for part in value[:end] if part.strip()]
  return [parts] if parts else None


def paths(value: Any) -> list[list[str]]:
  """A list of paths of categories."""
  if not isinstance(value, list) or not all(
    isinstance(part, list) and all(isinstance(name, str) for name in part) for part in value
  ):
    raise ValueError('a list of lists of strings')
  return value


def tags(value: list[str]) -> list[list[str]] | None:
  """Each of some labels without an order, such as genres, as a path of its own."""
  return [[tag] for tag in value if tag.strip()] or None


def literal_list(value: str) -> list[Any]:
  """The list that a Python literal spells; it is parsed and never run.

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
