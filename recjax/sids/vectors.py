"""Item vectors that may be larger than the memory: read block by block, also from several files side by side."""

from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 65_536  # rows that are read at a time


class Vectors:
  """The vectors of items, which are read only where they are indexed.

  `vectors[rows]` is an array `[n, D]` for a slice or int rows; `len` and `shape` are those of the whole.

  Args:
    parts: floats `[I, D]` each, in memory or memory-mapped; their columns stand side by side.
    rows: int `[n]`, the rows that this object shows, in this order. None: all of them.
  """

  ndim = 2

  def __init__(self, parts: Sequence[np.ndarray], rows: np.ndarray | None = None):
    self._parts, self._rows = tuple(parts), rows

  @classmethod
  def of(cls, vectors_ID: 'np.ndarray | Vectors') -> 'Vectors':
    """Returns the vectors of an array, or the object itself."""
    return vectors_ID if isinstance(vectors_ID, cls) else cls((vectors_ID,))

  def __len__(self) -> int:
    return len(self._parts[0]) if self._rows is None else len(self._rows)

  @property
  def shape(self) -> tuple[int, int]:
    """I and D."""
    return len(self), sum(part.shape[1] for part in self._parts)

  def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
    if self._rows is not None:
      rows = self._rows[rows]
    read = [np.asarray(part[rows]) for part in self._parts]
    return np.concatenate(read, axis=1) if len(read) > 1 else read[0]

  def take(self, rows: np.ndarray) -> 'Vectors':
    """Returns the vectors of these rows, still unread."""
    return Vectors(self._parts, rows if self._rows is None else self._rows[rows])

  def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
    """Yields the rows in order, at most `size` at a time."""
    for begin in range(0, len(self), size):
      yield self[begin : begin + size]

  def is_finite(self) -> bool:
    """Returns whether every number is finite."""
    return all(np.isfinite(block_BD).all() for block_BD in self.blocks())

  def mean(self) -> np.ndarray:
    """Returns the mean vector, float64 `[D]`, with the bits of `np.mean` over the whole array.

    NumPy adds rows in order; the sum of the rows before a block is put in front of it.
    """
    sum_D = None
    for block_BD in self.blocks():
      if sum_D is not None:
        block_BD = np.concatenate([sum_D[None], block_BD])
      sum_D = block_BD.sum(axis=0, dtype=np.float64)
    return sum_D / len(self)
