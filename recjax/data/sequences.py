"""Ragged int arrays: many sequences as one flat array and offsets, which can be memory-mapped."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sequences:
  """`values[offsets[u]:offsets[u + 1]]` is sequence u.

  Attributes:
    values: int32 `[sum of lengths]`.
    offsets: int64 `[U + 1]`, starting at 0.
  """

  values: np.ndarray
  offsets: np.ndarray

  @classmethod
  def from_lists(cls, lists) -> 'Sequences':
    lengths = np.fromiter((len(row) for row in lists), np.int64, len(lists))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.fromiter((v for row in lists for v in row), np.int32, int(offsets[-1]))
    return cls(values, offsets)

  def __len__(self) -> int:
    return len(self.offsets) - 1

  def __getitem__(self, u: int) -> np.ndarray:
    return self.values[self.offsets[u] : self.offsets[u + 1]]

  @property
  def lengths(self) -> np.ndarray:
    return np.diff(self.offsets)

  def take(self, rows: np.ndarray) -> 'Sequences':
    """The sequences `rows`, in that order."""
    lengths = self.lengths[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Sequences(self.values[np.repeat(self.offsets[rows], lengths) + within], offsets)

  def append(self, column_U: np.ndarray) -> 'Sequences':
    """Every sequence with one more value at its end."""
    values = np.insert(self.values, self.offsets[1:], column_U)
    return Sequences(values.astype(np.int32), self.offsets + np.arange(len(self) + 1))
