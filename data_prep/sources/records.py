"""Fields of raw rows: strict ids and times; descriptive fields of items as they are.

A check raises a ValueError without a place; the caller puts file and line before it. A descriptive field ends no
run: sources only split it into its parts, and `data_prep.log.item_text` reads, tidies or drops it.
"""

import ast
from collections.abc import Callable, Iterable, Mapping
import contextlib
import json
import math
import re
from typing import Any

import numpy as np

MAX_ID = 256  # characters; arrays of ids are as wide as the longest id
MAX_LITERAL = 1_000_000  # characters of a Python list in a text field
_INT64 = np.iinfo(np.int64)
# Control characters and lone surrogates: JSON can spell them, files and terminals cannot.
_UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')

Kind = Callable[[Any], Any]  # a raw value of any type → the value of a record, read or not


def short(value: Any) -> str:
  """Returns the value as an error message shows it."""
  text = repr(value.item() if isinstance(value, np.generic) else value)
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


def rating(value: Any) -> float:
  """Returns a number that float32 can hold; NaN for anything else, also for a missing rating."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return float(value) if is_number and abs(value) < 1e38 else math.nan


def record(row: Mapping[str, Any], fields: Mapping[str, tuple[str, Kind]]) -> dict[str, Any]:
  """Returns the record of an item, as `RawLog.item_records` holds it.

  Args:
    row: the raw row; null, '' and [] count as absent.
    fields: field of a record → its name in the row, and its kind.
  """
  result = {}
  for field, (name, kind) in fields.items():
    value = row.get(name)
    if not _is_absent(value) and not _is_absent(value := kind(value)):
      result[field] = value
  return result


def _is_absent(value: Any) -> bool:
  return value is None or value == '' or value == []


def catalogue(
  rows: Iterable[tuple[Any, Mapping[str, Any]]],
  fields: Mapping[str, tuple[str, Kind]],
  place: Callable[[int], str],
) -> dict[str, dict[str, Any]]:
  """Returns the records of a table that lists every item once.

  Args:
    rows: id and raw row of each item.
    fields: as of `record`.
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
    result[item] = record(row, fields)
  return result


def as_it_is(value: Any) -> Any:
  """The kind of a field that needs no change before it is tidied."""
  return value


def tags(value: list[str]) -> list[list[str]]:
  """Returns unordered labels, such as genres: each is a path of its own."""
  return [[tag] for tag in value if tag.strip()]


def literal_list(value: str) -> list[Any]:
  """Returns the list that a Python literal or JSON spells; it is parsed, never run.

  Raises:
    ValueError: it is no list, or longer than `MAX_LITERAL`.
  """
  result = None
  for parse in (ast.literal_eval, json.loads) if len(value) <= MAX_LITERAL else ():
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
      result = parse(value.strip())
      break
  if not isinstance(result, list):
    raise ValueError(f'a list such as [1, 2] of at most {MAX_LITERAL:,} characters')
  return result
