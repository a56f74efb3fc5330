"""Reads and writes published SID tables: one JSON object that maps raw item ids to tokens.

The format is that of LETTER's tables and of the index.json of LC-Rec and MiniOneRec, whose raw ids are numbers
as strings: `{"B004756YJA": ["<a_183>", "<b_70>", "<c_232>"], …}`. Integers instead of tokens are read too.
"""

from collections.abc import Sequence
import json
import re
from typing import Any

from etils import epath
import numpy as np

from recjax.runtime.files import replacing
from recjax.sids.token_space import sid_name

FILE = 'table.json'
_TOKEN = re.compile('<([a-z])_([0-9]+)>')
_NAMED = 3  # missing items that a message lists
_BLOCK = 16_384  # items in memory at a time, as text


def read(path: epath.PathLike, item_ids: Sequence[str], codes: tuple[int, ...]) -> np.ndarray:
  """Reads the codes of a catalogue's items; ignores items of the file that are not in the catalogue.

  Args:
    path: the JSON file.
    item_ids: raw ids in item order.
    codes: number of codes of each level.

  Returns:
    int32 `[I, L]`.

  Raises:
    ValueError: the file is not such an object; an item occurs twice or is missing; a SID has the wrong
      number of tokens, a token of another level, or a code out of range.
  """
  table = _parsed(epath.Path(path))
  rows = {item: _codes(path, item, tokens, codes) for item, tokens in table.items()}
  missing = [item for item in item_ids if item not in rows]
  if missing:
    names = ', '.join(map(repr, missing[:_NAMED])) + (', …' if len(missing) > _NAMED else '')
    raise ValueError(
      f'{path} must hold every item of the catalogue; of {len(item_ids)} items it lacks '
      f'{len(missing)}: {names}. Complete the file that --config.sids.table names, or leave these '
      'items out of the log'
    )
  return np.array([rows[item] for item in item_ids], np.int32).reshape(-1, len(codes))


def write(path: epath.PathLike, item_ids: Sequence[str], codes_IL: np.ndarray) -> None:
  """Writes a table in the format of `read`, one item per line, atomically and in blocks of items."""
  with replacing(path) as f:
    f.write('{\n')
    for begin in range(0, len(item_ids), _BLOCK):
      block = slice(begin, begin + _BLOCK)
      rows = (
        f'{json.dumps(item)}: [{", ".join([_quoted(level, code) for level, code in enumerate(row)])}]'
        for item, row in zip(item_ids[block], codes_IL[block].tolist(), strict=True)
      )
      f.write((',\n' if begin else '') + ',\n'.join(rows))
    f.write('\n}\n')


def _quoted(level: int, code: int) -> str:
  return f'"{sid_name(level, code)}"'


def _parsed(path: epath.Path) -> dict[str, Any]:
  repeated = []

  def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) < len(pairs):
      seen = set()
      repeated.extend(name for name, _ in pairs if name in seen or seen.add(name))
    return known

  try:
    table = json.loads(path.read_bytes(), object_pairs_hook=without_repeats)
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} must be JSON: {error}. Set --config.sids.table') from error
  if repeated:
    raise ValueError(
      f'{path} must hold every item once; {repeated[0]!r} occurs more than once. '
      'Correct the file that --config.sids.table names'
    )
  if not isinstance(table, dict):
    raise ValueError(
      f'{path} must hold one object of raw item ids and tokens; it holds a '
      f'{type(table).__name__}. Set --config.sids.table'
    )
  return table


def _codes(path: epath.PathLike, item: str, tokens: Any, codes: tuple[int, ...]) -> list[int]:
  if not isinstance(tokens, list) or len(tokens) != len(codes):
    got = f'{len(tokens)} tokens' if isinstance(tokens, list) else json.dumps(tokens)[:40]
    raise ValueError(
      f'{path}, item {item!r}: a SID must be a list of one token for each of the {len(codes)} '
      f'levels of sids.codes; got {got}. Set --config.sids.codes, or correct the file'
    )
  row = []
  for level, (token, size) in enumerate(zip(tokens, codes, strict=True)):
    code = _code(token, level)
    if code is None:
      raise ValueError(
        f'{path}, item {item!r}: token {level + 1} must be such as {sid_name(level, 12)!r} or a '
        f'number; got {json.dumps(token)[:40]}. Correct the file that --config.sids.table names'
      )
    if not 0 <= code < size:
      raise ValueError(
        f'{path}, item {item!r}: the code of token {level + 1} must be in [0, {size}), the size of '
        f'its level; got {code}. Set --config.sids.codes'
      )
    row.append(code)
  return row


def _code(token: Any, level: int) -> int | None:
  """Returns the code of a token of the given level; None if it is not a token of that level."""
  if type(token) is int:
    return token
  match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
  if match is None or ord(match[1]) - ord('a') != level:
    return None
  return int(match[2])
