"""One map from our token ids to those of an exported folder.

Ours: `[text pieces of the tokenizer | further specials | SID codes]`. Exported: the tokenizer's own ids
first, SID tokens from `len(tokenizer)` on, then our further specials. A published table has more rows than
its tokenizer has tokens; those rows belong to no token, and the rows of SID tokens take their place.
"""

import dataclasses
import json

from etils import epath
import numpy as np

from recjax.models.pretrained import tokenizer_files
from recjax.sids.token_space import TokenSpace

FILE = 'recjax.json'  # in an exported folder
PADDING, NEW = -1, -2  # rows without a token, and rows that a folder does not hold yet


@dataclasses.dataclass(frozen=True)
class IdMap:
  """The map, for a token space and the tokenizer that its text pieces come from.

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
    """The text ids that the tokenizer does not know."""
    return self.space.text_size - self.tokenizer_size

  def exported(self) -> np.ndarray:
    """Exported ids, int32 `[V]`, of all our ids."""
    ids = np.arange(self.space.size, dtype=np.int32)
    ids[self.tokenizer_size : self.space.text_size] += self.space.sid_size
    ids[self.space.sid_start :] -= self.specials
    return ids

  def sources(self, exported: bool, table_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which row of a folder's table each row of ours comes from; PADDING or NEW where none.

    Args:
      exported: whether the folder holds our specials and SID rows already.
      table_rows: of the folder's table.

    Returns:
      int64 `[text_rows]` and `[sid_rows]`.
    """
    rows = self.exported().astype(np.int64)
    if not exported:
      rows[self.tokenizer_size :] = NEW
    rows[rows >= table_rows] = NEW  # a tokenizer may know a token that its table does not (Gemma 3)
    text = np.full(self.space.text_rows, PADDING, np.int64)
    text[: self.space.text_size] = rows[: self.space.text_size]
    sid = np.full(self.space.sid_rows, PADDING, np.int64)
    sid[: self.space.sid_size] = rows[self.space.sid_start :]
    return text, sid

  def save(self, folder: epath.Path) -> None:
    fields = {
      'tokenizer_size': self.tokenizer_size,
      'text_size': self.space.text_size,
      'level_sizes': list(self.space.level_sizes),
    }
    (folder / FILE).write_text(json.dumps(fields, indent=2) + '\n')


def text_pieces(folder: epath.Path, table_rows: int) -> int | None:
  """How many tokens of a folder's tokenizer are not of ours: in an export all before its SID tokens.

  Args:
    folder: a checkpoint.
    table_rows: of its table.

  Returns:
    None where it has no tokenizer.

  Raises:
    ValueError: see `tokenizer_files.tokenizer_size`.
  """
  if (folder / FILE).exists():
    return json.loads((folder / FILE).read_text())['tokenizer_size']
  return tokenizer_files.tokenizer_size(folder, table_rows)


def id_map(
  folder: epath.Path, space: TokenSpace, tokenizer_size: int | None, table_rows: int
) -> tuple[IdMap, bool]:
  """The map of a folder, and whether the folder is an export of ours that holds the SID rows.

  Args:
    folder: a checkpoint.
    space: our token ids.
    tokenizer_size: None: of the folder's tokenizer, or all rows where it has none. A number is taken as
      it is, and an export of ours is read like any other folder.
    table_rows: of the folder's table.

  Raises:
    ValueError: the tokenizer disagrees with the table or with the space; the folder holds SID rows of
      another code space.
  """
  file = folder / FILE
  if tokenizer_size is None and file.exists():
    fields = json.loads(file.read_text())
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
