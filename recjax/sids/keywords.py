"""Reads and writes the keywords and descriptions of SID tokens in TS-Rec's file format."""

from collections.abc import Sequence
import json
from typing import Any

from etils import epath

from recjax.runtime.files import write_whole

FILE = 'keywords/keywords.json'  # in a prepared folder


def read(path: epath.PathLike, field: str) -> list[dict[str, Any]]:
  """Reads a JSON list of entries `{token, description, keywords}`, one for each token.

  Args:
    path: the file.
    field: the config field that names the file, for messages.

  Returns:
    The entries in file order. `token` and `description` are strings (an absent description is empty),
    `keywords` is a list of strings.

  Raises:
    ValueError: the file is not such a list, or a token occurs twice. The message names file and entry.
  """
  path = epath.Path(path)
  try:
    entries = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:  # of JSON or of UTF-8
    raise ValueError(f'{path} must be JSON: {error}. Set --config.{field}') from error
  if not isinstance(entries, list):
    raise ValueError(f'{path} must hold a list of entries. Set --config.{field}')
  seen: set[str] = set()
  return [_entry(entry, f'{path}, entry {n}', field, seen) for n, entry in enumerate(entries)]


def _entry(entry: Any, place: str, field: str, seen: set[str]) -> dict[str, Any]:
  fields = entry if isinstance(entry, dict) else {}
  token, words = fields.get('token'), fields.get('keywords')
  description = fields.get('description', '')
  texts = [token, description, *(words if isinstance(words, list) else [None])]
  if not all(isinstance(text, str) for text in texts):
    raise ValueError(
      f'{place}, must be an object with a token, a list of keywords and a description, all strings; '
      f'got {json.dumps(entry)[:80]}. Set --config.{field}'
    )
  if token in seen:
    raise ValueError(
      f'{place}, must be the only entry of its token; {token} has an earlier one. '
      f'Set --config.{field}'
    )
  seen.add(token)
  return {'token': token, 'description': description, 'keywords': words}


def write(path: epath.PathLike, entries: Sequence[dict[str, Any]]) -> None:
  """Writes entries in the format of `read`."""
  write_whole(path, json.dumps(entries, indent=2) + '\n')
