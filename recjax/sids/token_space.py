"""The integer space of tokens: `[text pieces and specials | level-1 codes | … | level-L codes]`."""

import dataclasses
import functools

import numpy as np

TABLE_MULTIPLE = 512  # rows of a table are padded to this, never to the mesh: one shape everywhere


def sid_name(level: int, code: int) -> str:
  """How a code is spelled: level 0's are <a_0>, <a_1>, …; exported tokenizers know these names."""
  return f'<{chr(ord("a") + level)}_{code}>'


def _padded(rows: int) -> int:
  return -(-rows // TABLE_MULTIPLE) * TABLE_MULTIPLE


@dataclasses.dataclass(frozen=True)
class TokenSpace:
  """Which token ids exist; padding rows of the two tables have no id, so they can never be predicted.

  Attributes:
    text_size: text pieces and specials.
    level_sizes: codes of each SID level, `[L]`.
  """

  text_size: int
  level_sizes: tuple[int, ...]

  @property
  def sid_start(self) -> int:
    return self.text_size

  @property
  def num_levels(self) -> int:
    return len(self.level_sizes)

  @functools.cached_property
  def level_starts(self) -> tuple[int, ...]:
    """The first row of each level in the SID table."""
    return tuple(int(start) for start in np.cumsum((0, *self.level_sizes[:-1])))

  @functools.cached_property
  def sid_names(self) -> tuple[str, ...]:
    """The SID tokens in the order of their ids: <a_0>, <a_1>, …, <b_0>, …"""
    return tuple(
      sid_name(level, code) for level, size in enumerate(self.level_sizes) for code in range(size)
    )

  @property
  def sid_size(self) -> int:
    return sum(self.level_sizes)

  @property
  def size(self) -> int:
    return self.text_size + self.sid_size

  @property
  def text_rows(self) -> int:
    return _padded(self.text_size)

  @property
  def sid_rows(self) -> int:
    return _padded(self.sid_size)

  def tokens(self, codes_IL: np.ndarray) -> np.ndarray:
    """Token ids int32 `[..., L]` of level-local codes `[..., L]`."""
    return (codes_IL + np.asarray(self.level_starts) + self.sid_start).astype(np.int32)
