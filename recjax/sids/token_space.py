"""The token ids of a model: `[text pieces and specials | level-1 codes | … | level-L codes]`."""

import dataclasses
import functools

import numpy as np

from recjax.sids.catalogue import Catalogue

TABLE_MULTIPLE = (
  512  # tables have a multiple of this many rows, so that shapes do not depend on the mesh
)


def sid_name(level: int, code: int) -> str:
  """Returns the token of a code: <a_0>, <a_1>, … for level 0. Exported tokenizers use these names."""
  return f'<{chr(ord("a") + level)}_{code}>'


def padded(rows: int) -> int:
  return -(-rows // TABLE_MULTIPLE) * TABLE_MULTIPLE


@dataclasses.dataclass(frozen=True)
class TokenSpace:
  """Sizes and offsets of the token ids. Padding rows of the two tables have no id and are never predicted.

  Attributes:
    text_size: number of text pieces and specials.
    level_sizes: number of codes of each SID level, `[L]`.
    catalogue: the items, for models with rows of items. None: unknown.
  """

  text_size: int
  level_sizes: tuple[int, ...]
  catalogue: Catalogue | None = dataclasses.field(default=None, compare=False)

  @property
  def sid_start(self) -> int:
    """The id of the first SID token."""
    return self.text_size

  @property
  def num_levels(self) -> int:
    """Number of SID levels (L)."""
    return len(self.level_sizes)

  @functools.cached_property
  def level_starts(self) -> tuple[int, ...]:
    """The first row of each level in the SID table."""
    return tuple(int(start) for start in np.cumsum((0, *self.level_sizes[:-1])))

  def row_capacity(self, row_length: int) -> int:
    """Returns the largest number of targets of one level in a row of `row_length` targets.

    An item has L tokens, one of every level. Packing also keeps examples of single SID tokens within this number
    (`recjax.data.packing`), so that the loss needs to compute no more logits of a level.
    """
    return -(-row_length // self.num_levels)

  @functools.cached_property
  def level_of_token(self) -> np.ndarray:
    """The level of every token id, counted from 1, int8 `[size]`; 0 for text."""
    levels = np.arange(self.num_levels + 1, dtype=np.int8)
    return np.repeat(levels, (self.text_size, *self.level_sizes))

  @functools.cached_property
  def sid_names(self) -> tuple[str, ...]:
    """The SID tokens in the order of their ids: <a_0>, <a_1>, …, <b_0>, …"""
    return tuple(
      sid_name(level, code) for level, size in enumerate(self.level_sizes) for code in range(size)
    )

  @property
  def sid_size(self) -> int:
    """Number of SID tokens of all levels."""
    return sum(self.level_sizes)

  @property
  def size(self) -> int:
    """Number of token ids."""
    return self.text_size + self.sid_size

  @property
  def text_rows(self) -> int:
    """Number of rows of the text table, padding included."""
    return padded(self.text_size)

  @property
  def sid_rows(self) -> int:
    """Number of rows of the SID table, padding included."""
    return padded(self.sid_size)

  @property
  def item_rows(self) -> int:
    """Number of rows of a table of items, padding included."""
    return padded(self.catalogue.num_items)

  def tokens(self, codes_IL: np.ndarray) -> np.ndarray:
    """Returns token ids int32 `[..., L]` of level-local codes `[..., L]`."""
    starts = np.asarray(self.level_starts).reshape((1,) * (np.ndim(codes_IL) - 1) + (-1,))
    return (codes_IL + starts + self.sid_start).astype(np.int32)
