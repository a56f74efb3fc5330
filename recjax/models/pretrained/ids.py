"""Maps our token ids to those of an exported folder.

Our ids: `[text pieces of the tokenizer | our specials | SID codes]`. Exported ids: the tokenizer's own, then
SID tokens from `len(tokenizer)` on, then our specials. A published table may have more rows than its tokenizer
has tokens; SID rows replace these unused rows.
"""

import dataclasses
import json
from typing import Any

from etils import epath
import numpy as np

from recjax.models.pretrained import json_file, tokenizer_files
from recjax.sids.token_space import TokenSpace

FILE = 'recjax.json'  # in an exported folder
PADDING, NEW = -1, -2  # sources of rows without a token, and of rows that the folder lacks


@dataclasses.dataclass(frozen=True)
class IdMap:
  """The map for a token space and the tokenizer of its text pieces.

  Raises:
    ValueError: the space has fewer text ids than the tokenizer has tokens.
  """

  space: TokenSpace
  tokenizer_size: int

  def __post_init__(self):
    if self.space.text_size < self.tokenizer_size:
      raise ValueError(
        f'the token space must hold every one of the {self.tokenizer_size} tokens of the tokenizer; its '
        f'text_size is {self.space.text_size}. Set --config.model.pretrained and --config.data to the '
        'same tokenizer'
      )

  @property
  def specials(self) -> int:
    """Number of text ids beyond the tokenizer's own, that is, of our specials."""
    return self.space.text_size - self.tokenizer_size

  def exported(self) -> np.ndarray:
    """Returns the exported ids, int32 `[V]`, for all our ids."""
    ids = np.arange(self.space.size, dtype=np.int32)
    ids[self.tokenizer_size : self.space.text_size] += self.space.sid_size
    ids[self.space.sid_start :] -= self.specials
    return ids

  def sources(self, exported: bool, table_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each of our rows the corresponding row of the folder's table, or PADDING, or NEW.

    Args:
      exported: whether the folder is an export of ours, with our specials and SID rows.
      table_rows: number of rows of the folder's table.

    Returns:
      int64 `[text_rows]` and `[sid_rows]`.
    """
    rows = self.exported().astype(np.int64)
    if not exported:
      rows[self.tokenizer_size :] = NEW
    rows[rows >= table_rows] = NEW  # the tokenizer of Gemma 3 has a token beyond the table
    text = np.full(self.space.text_rows, PADDING, np.int64)
    text[: self.space.text_size] = rows[: self.space.text_size]
    sid = np.full(self.space.sid_rows, PADDING, np.int64)
    sid[: self.space.sid_size] = rows[self.space.sid_start :]
    return text, sid

  def save(self, folder: epath.Path) -> None:
    """Writes the sizes into an exported folder, for `id_map`."""
    fields = {
      'tokenizer_size': self.tokenizer_size,
      'text_size': self.space.text_size,
      'level_sizes': list(self.space.level_sizes),
    }
    (folder / FILE).write_text(json.dumps(fields, indent=2) + '\n')


def _saved(folder: epath.Path) -> dict[str, Any]:
  """Returns the sizes that `IdMap.save` wrote.

  Raises:
    ValueError: the file is damaged.
  """
  file = folder / FILE
  fields = json_file.read_json(file)
  kinds = {'tokenizer_size': int, 'text_size': int, 'level_sizes': list}
  return {name: json_file.field(file, fields, name, kind, None) for name, kind in kinds.items()}


def text_pieces(folder: epath.Path, table_rows: int) -> int | None:
  """Returns the size of a folder's tokenizer; for an export of ours, without the tokens that it added.

  Args:
    folder: a checkpoint folder.
    table_rows: rows of its table.

  Returns:
    The number of tokens. None: the folder has no tokenizer.

  Raises:
    ValueError: see `tokenizer_files.tokenizer_size`.
  """
  if (folder / FILE).exists():
    return _saved(folder)['tokenizer_size']
  return tokenizer_files.tokenizer_size(folder, table_rows)


def id_map(
  folder: epath.Path, space: TokenSpace, tokenizer_size: int | None, table_rows: int
) -> tuple[IdMap, bool]:
  """Returns the map of a folder, and whether the folder is an export of ours that holds the SID rows.

  Args:
    folder: a checkpoint.
    space: our token ids.
    tokenizer_size: None: the size of the folder's tokenizer or, if it has none, the rows of its table. If it is
      set, an export of ours is read like any other folder.
    table_rows: rows of the folder's table.

  Raises:
    ValueError: the tokenizer does not fit the table or the space, or the folder holds SID rows of another
      code space.
  """
  file = folder / FILE
  if tokenizer_size is None and file.exists():
    fields = _saved(folder)
    held = (fields['text_size'], tuple(fields['level_sizes']))
    if held != (space.text_size, space.level_sizes):
      raise ValueError(
        f'{folder} was exported with {held[0]} text ids and SID levels of {held[1]} codes; this run has '
        f'{space.text_size} and {space.level_sizes}. Set --config.model.pretrained to a folder of this '
        'code space, or to one without SID rows'
      )
    return IdMap(space, fields['tokenizer_size']), True
  if tokenizer_size is None:
    tokenizer_size = tokenizer_files.tokenizer_size(folder, table_rows) or table_rows
  return IdMap(space, tokenizer_size), False
