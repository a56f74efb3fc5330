"""Arrays with a value per interaction: they are nameless files once they are large, and are processed in blocks.

The kernel may write such an array to the disk and drop it from memory, so the memory of the stage does not grow with
the number of interactions. A nameless file ends with its process: a killed preparation leaves none behind.
"""

from collections.abc import Callable, Iterator
import os
import tempfile
from typing import IO

from etils import epath
import numpy as np

from recjax.data.sequences import offsets_of
from recjax.runtime.files import is_local

BLOCK = 1 << 22  # interactions that are processed at a time
LEAST = 1 << 26  # bytes from which an array is a file


class Scratch:
  """Makes arrays; the large ones are files in `folder`, whose file system must have room for them.

  Attributes:
    folder: a local folder; None: that of temporary files.
  """

  def __init__(self, folder: epath.PathLike | None = None):
    self.folder = os.fspath(folder) if folder is not None and is_local(folder) else None

  def file(self) -> IO[bytes]:
    """Opens a nameless file, which is removed when nothing refers to it."""
    return tempfile.TemporaryFile(dir=self.folder)

  def empty(self, length: int, kind: np.dtype | type) -> np.ndarray:
    """Returns an array that is not initialised."""
    kind = np.dtype(kind)
    if length * kind.itemsize < LEAST:
      return np.empty(length, kind)
    with self.file() as file:  # the map keeps it alive
      self._reserve(file, length * kind.itemsize)
      return np.memmap(file, kind, 'r+', shape=(length,))

  def _reserve(self, file: IO[bytes], size: int) -> None:
    """Gives a file its size. Without room, a later write to its map would end the process without a message."""
    if not hasattr(os, 'posix_fallocate'):  # macOS
      file.truncate(size)
      return
    try:
      os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
      raise OSError(
        error.errno,
        f'{self.folder or tempfile.gettempdir()} must have room for {size / 1e9:.1f} GB of temporary arrays; '
        f'{error.strerror}',
      ) from None

  def select(self, column: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """Returns `column[is_kept]`."""
    found = self.empty(count(is_kept), column.dtype)
    end = 0
    for rows in blocks(len(column)):
      values = column[rows][is_kept[rows]]
      found[end : end + len(values)] = values
      end += len(values)
    return found

  def ranges(self, column: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the values of all ranges `column[start:end]`, concatenated."""
    offsets = offsets_of(ends - starts)
    found = self.empty(int(offsets[-1]), column.dtype)
    for first, last in _pieces(offsets, BLOCK):
      lengths = ends[first:last] - starts[first:last]
      before = offsets[first:last] - offsets[first]
      places = np.arange(lengths.sum()) + np.repeat(starts[first:last] - before, lengths)
      found[offsets[first] : offsets[last]] = column[places]
    return found


class Column:
  """A column whose rows come in batches.

  Attributes:
    kind: type of the values.
  """

  def __init__(self, scratch: Scratch, kind: np.dtype | type):
    self.kind = np.dtype(kind)
    self._scratch = scratch
    self._batches: list[np.ndarray] = []
    self._waiting = 0  # bytes
    self._file: IO[bytes] | None = None

  def append(self, values: np.ndarray) -> None:
    """Adds rows."""
    self._batches.append(np.ascontiguousarray(values, self.kind))
    self._waiting += values.nbytes
    if self._waiting >= LEAST:
      self._file = self._file or self._scratch.file()
      for batch in self._batches:
        self._file.write(batch.data)
      self._batches, self._waiting = [], 0

  def array(self) -> np.ndarray:
    """Returns all rows; no more may be added."""
    if self._file is None:
      return np.concatenate([np.zeros(0, self.kind), *self._batches])
    with self._file as file:
      for batch in self._batches:
        file.write(batch.data)
      file.flush()
      return np.memmap(file, self.kind, 'r+')


def blocks(length: int, size: int | None = None) -> Iterator[slice]:
  """Yields consecutive slices of at most `size` (`BLOCK`) rows."""
  size = size or BLOCK
  for start in range(0, length, size):
    yield slice(start, min(start + size, length))


def runs(offsets: np.ndarray, size: int | None = None) -> Iterator[tuple[slice, slice]]:
  """Yields consecutive sequences of at most `size` rows, or one: a slice of sequences and one of their rows.

  Args:
    offsets: int64 `[U + 1]`, as of `Sequences`.
    size: None: `BLOCK`.
  """
  for first, last in _pieces(offsets, size or BLOCK):
    yield slice(first, last), slice(int(offsets[first]), int(offsets[last]))


def _pieces(offsets: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
  start, last = 0, len(offsets) - 1
  while start < last:
    end = int(np.searchsorted(offsets, offsets[start] + size, side='right')) - 1
    end = min(max(end, start + 1), start + size, last)
    yield start, end
    start = end


def count(is_marked: np.ndarray) -> int:
  """Returns the number of marked rows."""
  return int(np.count_nonzero(is_marked))


def counts(codes: np.ndarray, length: int, choose: Callable[[slice], np.ndarray] | None = None):
  """Counts codes from 0 to `length` - 1: int64 `[length]`.

  Args:
    codes: ints `[N]`.
    length: number of codes.
    choose: returns which rows of a block count; None: all.
  """
  found = np.zeros(length, np.int64)
  for rows in blocks(len(codes)):
    values = codes[rows]
    found += np.bincount(values if choose is None else values[choose(rows)], minlength=length)
  return found


def marked_before(is_marked: np.ndarray, places: np.ndarray) -> np.ndarray:
  """Returns the number of marked rows before each place: int64, like the places.

  Args:
    is_marked: bool `[N]`.
    places: ints from 0 to N, ascending.
  """
  found = np.zeros(len(places), np.int64)
  total = 0
  for rows in blocks(len(is_marked)):
    here = slice(*np.searchsorted(places, [rows.start, rows.stop]))
    before = offsets_of(is_marked[rows])
    found[here] = total + before[places[here] - rows.start]
    total += int(before[-1])
  found[np.searchsorted(places, len(is_marked)) :] = total
  return found


def positions(is_marked: np.ndarray) -> np.ndarray:
  """Returns the marked rows, int64, ascending."""
  found = [np.flatnonzero(is_marked[rows]) + rows.start for rows in blocks(len(is_marked))]
  return np.concatenate([np.zeros(0, np.int64), *found])
