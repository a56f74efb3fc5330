"""JSON files of a checkpoint folder, read with errors that name the file."""

import json
from typing import Any

from etils import epath

REMEDY = 'Correct the file, or set --config.model.pretrained to another folder'


def read_json(file: epath.Path) -> dict[str, Any]:
  """Returns the object in a JSON file; empty if there is no file.

  Raises:
    ValueError: it is not a JSON object, or cannot be read.
  """
  if not file.exists():
    return {}
  try:
    content = json.loads(file.read_text())
  except OSError as error:
    raise ValueError(f'{file} must be a readable file: {error}. {REMEDY}') from error
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{file} must be JSON: {error}. {REMEDY}') from error
  check_kind(file, '', content, dict, 'a JSON object')
  return content


def field(file: epath.Path, content: dict[str, Any], name: str, kind: type, default: Any) -> Any:
  """Returns a field of a file's object; `default` if it is absent or null.

  Args:
    file: for the message.
    content: of the file.
    name: of the field.
    kind: dict, list, int, bool or str.
    default: see above.

  Raises:
    ValueError: the field is of another kind.
  """
  value = content.get(name)
  if value is None:
    return default
  words = {
    dict: 'an object',
    list: 'a list',
    int: 'an integer',
    bool: 'true or false',
    str: 'a string',
  }
  check_kind(file, f'{name} of ', value, kind, words[kind])
  return value


def check_kind(file: epath.Path, what: str, value: Any, kind: type, words: str) -> None:
  """Raises a ValueError unless the value is of a kind; True and False are no integers."""
  if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
    raise ValueError(f'{what}{file} must be {words}; got {str(value)[:80]!r}. {REMEDY}')
