"""Reads `C.item.json` of LC-Rec and MiniOneRec: item index → title, description, brand, categories.

A description may be a Python list in a string. Categories are one path, whose parts are separated by commas.
"""

import contextlib
import json
from typing import Any

from etils import epath

from data_prep.sources import raw_files, records


def read_object(path: epath.Path) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Raises:
    ValueError: it holds something else, or a key occurs twice. The message names the file, and the line if it is
      known.
  """
  with raw_files.opened(path) as stream:
    content = stream.read()
  try:
    value = json.loads(content.decode('utf-8-sig'), object_pairs_hook=_unique)
  except json.JSONDecodeError as error:
    raise ValueError(f'{path}:{error.lineno}: must be complete JSON; {error.msg}') from None
  except UnicodeDecodeError as error:
    line = content.count(b'\n', 0, error.start) + 1
    raise ValueError(f'{path}:{line}: must be text in UTF-8; {error.reason}') from None
  except (RecursionError, _TwiceError) as error:
    raise ValueError(f'{path}: must be JSON; {error}') from None
  if not isinstance(value, dict):
    raise ValueError(f'{path}: must hold one JSON object; got {records.short(value)}')
  return value


class _TwiceError(Exception):
  """A key occurs twice in an object. Python would silently keep the last value."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  result = dict(pairs)
  if len(result) < len(pairs):
    seen = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))
    raise _TwiceError(f'the key {twice!r} occurs twice in one object')
  return result


def item_records(path: epath.Path) -> dict[str, dict[str, Any]]:
  """Returns the records of all items, by item index (as text).

  Raises:
    ValueError: the file is not a JSON object of objects; the message names file and item.
  """
  rows = read_object(path)
  if not rows:
    raise ValueError(f'{path}: must hold items; it holds none')
  for item, row in rows.items():
    if not isinstance(row, dict):
      raise ValueError(f'{path}: item {item}: must be a JSON object; got {records.short(row)}')
  items = list(rows)
  return records.catalogue(rows.items(), _FIELDS, lambda row: f'{path}: item {items[row]}')


def index(value: Any) -> str:
  """Returns an item's index as text.

  Raises:
    ValueError: it is neither an integer nor a text.
  """
  if isinstance(value, bool) or not isinstance(value, int | str):
    raise ValueError(f'an item must be an index; got {records.short(value)}')
  return str(value)


def _description(value: Any) -> Any:
  if isinstance(value, str) and value.startswith('['):
    with contextlib.suppress(ValueError):  # a plain text may also begin with [
      return records.literal_list(value)
  return value


def _categories(value: Any) -> Any:
  return [part.strip() for part in value.split(',')] if isinstance(value, str) else value


_FIELDS = {
  'title': ('title', records.as_it_is),
  'brand': ('brand', records.as_it_is),
  'description': ('description', _description),
  'categories': ('categories', _categories),
}
