"""Joins the parts of all ranges into the arrays of the log, one range at a time, in files that are memory-mapped."""

from collections.abc import Collection, Sequence
import pathlib

import numpy as np
import pyarrow as pa

from data_prep.beam import parts
from data_prep.beam.job import Job
from data_prep.log.ids import Names


def join(
  job: Job,
  names: Sequence[str],
  keys: Collection[str],
  users: Sequence[int],
  event_numbers: np.ndarray | None,
  folder: pathlib.Path,
) -> dict[str, np.ndarray]:
  """Returns arrays of all ranges as one array each, memory-mapped and read-only.

  Arrays `…offsets` begin where those of the range before end, and arrays `…_users` count the users of earlier ranges.

  Args:
    job: the job.
    names: the parts of the ranges with rows, in order.
    keys: names of the arrays to join; parts may lack some.
    users: number of users in each range.
    event_numbers: the final number of every event; None without events.
    folder: an existing local folder for the files.
  """
  files: dict[str, _Growing] = {}
  first_user = 0
  for name, count in zip(names, users, strict=True):
    for key, values in job.work.read(name, keys).items():
      if key not in files:
        files[key] = _Growing(folder / f'{key}.npy', values.dtype)
      file = files[key]
      if key.endswith('offsets'):
        values = values + file.end
        file.end = int(values[-1])
        values = values if file.count == 0 else values[1:]
      elif key.endswith('_users'):
        values = values + np.int32(first_user)
      elif key.endswith('events'):
        values = event_numbers[values]
      file.append(values)
    first_user += count
  return {key: file.finish() for key, file in files.items()}


class _Growing:
  """A .npy file of one dimension whose length is known at its end."""

  def __init__(self, path: pathlib.Path, dtype: np.dtype):
    self._path, self._dtype = path, dtype
    self._stream = path.open('wb')
    self._write_header(0)
    self.count, self.end = 0, 0

  def _write_header(self, count: int) -> None:
    header = {'descr': self._dtype.str, 'fortran_order': False, 'shape': (count,)}
    np.lib.format.write_array_header_1_0(self._stream, header)

  def append(self, values: np.ndarray) -> None:
    if values.dtype != self._dtype:
      raise TypeError(f'{self._path} holds {self._dtype}; got {values.dtype}')
    self._stream.write(np.ascontiguousarray(values).data)
    self.count += len(values)

  def finish(self) -> np.ndarray:
    self._stream.seek(0)
    self._write_header(self.count)  # numpy leaves room for a larger number in the header
    self._stream.close()
    return np.load(self._path, mmap_mode='r') if self.count else np.zeros(0, self._dtype)


def user_ids(job: Job, names: Sequence[str]) -> Names:
  """Returns the users of all ranges, in order."""
  found = [pa.array([], pa.large_string())]
  for name in names:
    arrays = job.work.read(name, ('user_ids.offsets', 'user_ids.bytes'))
    found.append(parts.texts_of('user_ids', arrays))
  return Names(pa.concat_arrays(found))
