"""Ragged integer arrays: sequences as a flat array and offsets, both of which can be memory-mapped."""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

_COUNTED_AT_ONCE = 1 << 24


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
  """Returns the start of each sequence in a flat array, and the end of the array: int64 `[n + 1]`."""
  offsets = np.zeros(len(lengths) + 1, np.int64)
  np.cumsum(np.asarray(lengths, np.int64), out=offsets[1:])
  return offsets


def blocks(sizes: np.ndarray, limit: int, most_rows: int | None = None) -> Iterator[np.ndarray]:
  """Yields consecutive rows, in order, so that the sizes of a block sum to at most `limit`, or it is one row.

  Args:
    sizes: ints `[U]`, not negative.
    limit: the largest sum of a block.
    most_rows: the largest number of rows of a block, at least 1. None: any.
  """
  ends = offsets_of(sizes)
  start = 0
  while start < len(sizes):
    end = int(np.searchsorted(ends, ends[start] + limit, side='right')) - 1
    end = min(max(end, start + 1), start + (most_rows or len(sizes)), len(sizes))
    yield np.arange(start, end)
    start = end


@dataclasses.dataclass(frozen=True)
class Sequences:
  """Sequences of integers; sequence u is `values[offsets[u]:offsets[u + 1]]`.

  Attributes:
    values: int32 `[sum of lengths]`.
    offsets: int64 `[U + 1]`, starting at 0.
  """

  values: np.ndarray
  offsets: np.ndarray

  @classmethod
  def from_lists(cls, lists: Sequence[Sequence[int]]) -> 'Sequences':
    """Copies lists of integers into one flat array."""
    offsets = offsets_of([len(row) for row in lists])
    values = np.fromiter((v for row in lists for v in row), np.int32, int(offsets[-1]))
    return cls(values, offsets)

  def __len__(self) -> int:
    return len(self.offsets) - 1

  def __getitem__(self, u: int) -> np.ndarray:
    return self.values[self.offsets[u] : self.offsets[u + 1]]

  @property
  def lengths(self) -> np.ndarray:
    """The length of every sequence, int64 `[U]`."""
    return np.diff(self.offsets)

  def whole(self) -> 'Sequences':
    """Returns the sequences with arrays of numpy: those of a bucket that are read by range are read whole."""
    return Sequences(np.asarray(self.values), np.asarray(self.offsets))

  def counts(self, size: int) -> np.ndarray:
    """Returns how often each of the numbers 0 … `size` - 1 occurs, int64, reading the values block by block."""
    counts = np.zeros(size, np.int64)
    for first in range(0, int(self.offsets[-1]), _COUNTED_AT_ONCE):
      counts += np.bincount(self.values[first : first + _COUNTED_AT_ONCE], minlength=size)
    return counts

  @property
  def places(self) -> np.ndarray:
    """The index of every value in its own sequence, int64 `[sum of lengths]`."""
    return np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.lengths)

  def take(self, rows: np.ndarray) -> 'Sequences':
    """Returns the sequences `rows`, in that order."""
    starts = self.offsets[rows]
    return self._slices(starts, self.offsets[np.asarray(rows) + 1] - starts)

  def cut(self, length: int) -> 'Sequences':
    """Returns the first `length` values of every sequence."""
    return self._slices(self.offsets[:-1], np.minimum(self.lengths, length))

  def keep(self, is_kept: np.ndarray) -> 'Sequences':
    """Returns the values that are marked in a bool array, aligned with `values`."""
    return Sequences(self.values[is_kept], offsets_of(is_kept)[self.offsets])

  def append(self, column_U: np.ndarray) -> 'Sequences':
    """Appends one value to every sequence."""
    values = np.insert(self.values, self.offsets[1:], column_U)
    return Sequences(values.astype(np.int32, copy=False), self.offsets + np.arange(len(self) + 1))

  def _slices(self, starts: np.ndarray, lengths: np.ndarray) -> 'Sequences':
    """Copies `values[starts[n]:starts[n] + lengths[n]]` for every n."""
    offsets = offsets_of(lengths)
    at = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Sequences(self.values[at], offsets)
