"""Arrays of a prepared folder: mapped from a disk, or read by range from a bucket."""

import collections
from collections.abc import Callable
from concurrent import futures
import functools
import io
import os
import threading
from typing import Any

from etils import epath
import numpy as np

from recjax.runtime.files import is_local

WHOLE = 1 << 26  # bytes up to which a file of a bucket is read whole
_BLOCK = 1 << 16  # bytes of a request
_BLOCKS = 4  # blocks up to which a range is read block by block
_CACHE = 1 << 28  # bytes of blocks that an array keeps
_HEADER = 4096  # bytes that hold the header of a .npy file
_THREADS = 64  # requests at a time


def load(path: epath.PathLike) -> np.ndarray:
  """Returns an array of the catalogue: mapped from a disk, or read whole from a bucket."""
  return np.load(path, mmap_mode='r') if is_local(path) else _whole(path)


def load_log(path: epath.PathLike) -> 'np.ndarray | Ranged':
  """Returns an array with an entry for every interaction or user, which no process should hold.

  A file on a disk is mapped; the system reads the pages that are used. Of a large file in a bucket only the blocks that
  are used are read.
  """
  path = epath.Path(path)
  if is_local(path) or path.stat().length <= WHOLE:
    return load(path)
  return Ranged(path)


def _whole(path: epath.PathLike) -> np.ndarray:
  return np.load(io.BytesIO(epath.Path(path).read_bytes()))


def plain(array: Any) -> Any:
  """Returns a plain view of a mapped array, whose slices cost less than those of `np.memmap`."""
  return np.asarray(array) if isinstance(array, np.ndarray) else array


class Ranged(np.lib.mixins.NDArrayOperatorsMixin):
  """A one-dimensional array in a bucket. Indexing reads blocks of 64 KiB, of which the last used ones are kept.

  `array[rows]` is an entry or an array for an int, a slice or an array of ints. Threads may share the object.
  `np.asarray(array)` and arithmetic read the whole file.

  Raises:
    ValueError: the file is not a .npy file of one dimension, or is shorter than its header says.
  """

  ndim = 1

  def __init__(self, path: epath.PathLike):
    import fsspec  # of etils[epath]

    self._path = os.fspath(path)
    self._fs, self._name = fsspec.core.url_to_fs(self._path)
    header = io.BytesIO(self._fs.cat_file(self._name, 0, _HEADER))
    try:
      version = np.lib.format.read_magic(header)
      read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
      )
      self.shape, _, self.dtype = read(header)
    except ValueError as error:
      raise ValueError(
        f'{self._path} must be a .npy file: {error}. Prepare the data again'
      ) from None
    if len(self.shape) != 1:
      raise ValueError(f'{self._path} must have one dimension; got {list(self.shape)}')
    self._first, self._per_block = header.tell(), _BLOCK // self.dtype.itemsize
    self._blocks: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
    self._lock = threading.Lock()
    self._check_size(self._fs.size(self._name))

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: int | slice | np.ndarray) -> Any:
    if isinstance(rows, slice):
      start, stop, step = rows.indices(len(self))
      return self._read(start, max(stop, start))[::step] if step > 0 else self._read_all()[rows]
    rows = np.asarray(rows)
    if rows.dtype == bool:
      rows = np.flatnonzero(rows)
    rows = np.where(rows < 0, rows + len(self), rows)
    if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
      raise IndexError(f'{self._path} has {len(self)} entries; got {rows.min()} to {rows.max()}')
    if rows.ndim == 0:
      return self._block(int(rows) // self._per_block)[int(rows) % self._per_block]
    flat = rows.ravel()
    if flat.size and (np.diff(flat) == 1).all():
      return self._read(int(flat[0]), int(flat[-1]) + 1).reshape(rows.shape)
    found, of_block = np.empty(flat.shape, self.dtype), flat // self._per_block
    order = np.argsort(of_block, kind='stable')
    borders = np.flatnonzero(np.diff(of_block[order])) + 1
    for places in np.split(order, borders) if flat.size else ():
      block = self._block(int(of_block[places[0]]))
      found[places] = block[flat[places] % self._per_block]
    return found.reshape(rows.shape)

  def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    read = [np.asarray(x) if isinstance(x, Ranged) else x for x in inputs]
    return getattr(ufunc, method)(*read, **options)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return self._read_all().astype(dtype or self.dtype, copy=False)

  def _read(self, start: int, stop: int) -> np.ndarray:
    first, last = start // self._per_block, -(-stop // self._per_block)
    if stop <= start:
      return np.empty(0, self.dtype)
    if last - first > _BLOCKS:  # a pass over the file: one request, and the kept blocks stay
      return self._fetch(start, stop)
    read = [self._block(number) for number in range(first, last)]
    whole = read[0] if len(read) == 1 else np.concatenate(read)
    return whole[start - first * self._per_block : stop - first * self._per_block]

  def _read_all(self) -> np.ndarray:
    return self._fetch(0, len(self))

  def _block(self, number: int) -> np.ndarray:
    with self._lock:
      block = self._blocks.get(number)
      if block is not None:
        self._blocks.move_to_end(number)
        return block
    start = number * self._per_block
    block = self._fetch(start, min(start + self._per_block, len(self)))
    with self._lock:
      self._blocks[number] = block
      if len(self._blocks) > max(_CACHE // _BLOCK, 1):
        self._blocks.popitem(last=False)
    return block

  def _fetch(self, start: int, stop: int) -> np.ndarray:
    size = self.dtype.itemsize
    content = self._fs.cat_file(self._name, self._first + start * size, self._first + stop * size)
    if len(content) != (stop - start) * size:
      raise ValueError(
        f'{self._path} must not change while it is used; a range of it is missing. Start again'
      )
    return np.frombuffer(content, self.dtype)

  def _check_size(self, size: int) -> None:
    expected = self._first + len(self) * self.dtype.itemsize
    if size != expected:
      raise ValueError(
        f'{self._path} must have {expected} bytes, as its header says; it has {size}. Prepare the data again'
      )


class Mapped:
  """An array whose entries are computed from those of another one where they are indexed.

  Args:
    function: maps an array to one of the same length.
    array: the other array.
  """

  def __init__(self, function: Callable[[np.ndarray], np.ndarray], array: Any):
    self._function, self._array = function, array

  def __len__(self) -> int:
    return len(self._array)

  def __getitem__(self, rows: slice) -> np.ndarray:
    return self._function(self._array[rows])


@functools.cache
def pool() -> futures.ThreadPoolExecutor:
  """Returns the threads of this process that wait for ranges."""
  return futures.ThreadPoolExecutor(_THREADS, 'ranges')
