"""Lists of neighbours, one per item, stored as flat arrays."""

import dataclasses

import numpy as np

from recjax.data.sequences import Sequences, blocks, offsets_of

_ENTRIES_AT_ONCE = 1 << 22


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """A list of neighbours and their strengths for every item.

  Attributes:
    items: I lists of item indices.
    strengths: float32, aligned with `items.values`.
  """

  items: Sequences
  strengths: np.ndarray

  def __len__(self) -> int:
    return len(self.items)

  def take(self, rows: np.ndarray) -> 'Neighbours':
    """Returns the lists `rows`, in that order."""
    places = Sequences(np.arange(len(self.strengths)), self.items.offsets).take(rows)
    return Neighbours(
      Sequences(self.items.values[places.values], places.offsets), self.strengths[places.values]
    )

  def keep(self, mask: np.ndarray) -> 'Neighbours':
    """Returns the entries selected by a mask, bool `[sum of lengths]`."""
    offsets = offsets_of(mask)[self.items.offsets]
    return Neighbours(Sequences(self.items.values[mask], offsets), self.strengths[mask])

  def first(self, k: int) -> 'Neighbours':
    """Returns the first k entries of every list."""
    return self.keep(self.items.places < k)

  def strongest(self, k: int, ranks_I: np.ndarray) -> 'Neighbours':
    """Returns the k strongest entries of every list, strongest first; ties go to the lower rank.

    Args:
      k: maximum length of a list.
      ranks_I: rank of each item, a permutation of 0 … I - 1.
    """
    by_rank_I = np.empty(len(ranks_I), np.int32)
    by_rank_I[ranks_I] = np.arange(len(ranks_I))
    rank_bits = np.uint64((len(ranks_I) - 1).bit_length())
    # One sort of 64-bit keys: row in the block | strength | rank.
    most_rows = 1 << (32 - int(rank_bits))
    kept = []
    for rows in blocks(self.items.lengths, _ENTRIES_AT_ONCE, most_rows):
      offsets = self.items.offsets[rows[0] : rows[-1] + 2]
      entries, lengths = slice(offsets[0], offsets[-1]), np.diff(offsets)
      keys = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths) << np.uint64(32)
      keys = (keys | descending(self.strengths[entries])) << rank_bits
      keys |= ranks_I[self.items.values[entries]].astype(np.uint64)
      keys.sort()
      ranks = keys & ((np.uint64(1) << rank_bits) - np.uint64(1))
      block = Neighbours(
        Sequences(by_rank_I[ranks.astype(np.int64)], offsets - offsets[0]),
        _from_descending((keys >> rank_bits).astype(np.uint32)),
      )
      kept.append(block.first(k))
    return concatenate(kept)


def concatenate(parts: list[Neighbours]) -> Neighbours:
  """Concatenates the lists of all parts."""
  lengths = np.concatenate([np.zeros(0, np.int64), *(part.items.lengths for part in parts)])
  return Neighbours(
    Sequences(
      np.concatenate([np.zeros(0, np.int32), *(part.items.values for part in parts)]),
      offsets_of(lengths),
    ),
    np.concatenate([np.zeros(0, np.float32), *(part.strengths for part in parts)]),
  )


def descending(values: np.ndarray) -> np.ndarray:
  """Maps finite floats to 32-bit keys, as uint64, whose ascending order is the descending order of the floats."""
  bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)  # -0 becomes 0
  # As integers, the bits of positive floats ascend and those of negative floats descend.
  ascending = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
  return (~ascending).astype(np.uint64)


def _from_descending(bits: np.ndarray) -> np.ndarray:
  ascending = ~bits
  return np.where(ascending >> 31, ascending & np.uint32(0x7FFFFFFF), ~ascending).view(np.float32)
