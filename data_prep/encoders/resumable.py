"""Resumable encoding: stores finished parts, so that a kill loses a minute of work, and processes can share it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import time
from typing import Any

from etils import epath
import jax
import numpy as np

from recjax.data.sequences import offsets_of
from recjax.runtime import logs
from recjax.runtime.files import write_whole

SECONDS = 60.0  # minimum time between two stored parts
_TOGETHER = 64  # consecutive batches of one process, at most


@dataclasses.dataclass(frozen=True)
class Share:
  """One process's share of an encoding.

  Attributes:
    folder: folder of the parts of all processes.
    process: number of this process, from 0.
    processes: number of processes. With more than one, all that this process computes is stored.
  """

  folder: epath.Path
  process: int = 0
  processes: int = 1

  def of(self, num_batches: int) -> np.ndarray:
    """Returns which batches this process computes, bool: every n-th run of up to 64, so that lengths are mixed."""
    together = max(1, min(_TOGETHER, num_batches // (8 * self.processes)))
    return np.arange(num_batches) // together % self.processes == self.process


def run(
  batches: Sequence[np.ndarray],
  start: Callable[[int], np.ndarray | jax.Array],
  num_texts: int,
  width: int,
  parts: epath.Path | Share | None,
) -> np.ndarray:
  """Encodes batches in order, except those whose vectors a killed run or another process stored.

  Args:
    batches: for each batch, the row numbers of its vectors in the result.
    start: maps the number of a batch to its vectors. It may return before the device has computed them. Rows
      beyond the batch are padding and are dropped.
    num_texts: I.
    width: D.
    parts: folder of the parts, or a share of it; None: store none. It must only be used for the same vectors in the
      same order. The caller removes it when the result is stored.

  Returns:
    float32 `[I, D]`; rows outside all batches, and those of other processes that are not stored, are zero. Batches are
    always computed in full, so a resumed run gives the same bytes as an uninterrupted run, and so do shares.
  """
  share = parts if isinstance(parts, Share) or parts is None else Share(parts)
  vectors_ID = np.zeros((num_texts, width), np.float32)
  order = np.concatenate([*batches, np.zeros(0, np.int64)])
  is_known = np.zeros(len(order), bool)
  for first, part in _read(share.folder, width, len(order)) if share is not None else ():
    vectors_ID[order[first : first + len(part)]] = part
    is_known[first : first + len(part)] = True
  offsets = offsets_of([len(rows) for rows in batches])
  lacks = np.diff(offsets_of(is_known)[offsets]) < np.diff(offsets)
  own = lacks if share is None else lacks & share.of(len(batches))
  begin = end = 0  # what is computed and not stored
  last_write = time.monotonic()
  with logs.progress(
    total=len(order), initial=int(is_known.sum()), desc='encoding texts', unit=' texts'
  ) as progress:
    for n, vectors_BD in _one_ahead(np.flatnonzero(own).tolist(), start):
      if offsets[n] != end:
        if share is not None and end > begin:
          _write(share.folder, begin, vectors_ID[order[begin:end]])
        begin = int(offsets[n])
      end = int(offsets[n + 1])
      vectors_ID[batches[n]] = np.asarray(vectors_BD)[: len(batches[n])]
      progress.update(len(batches[n]))
      if share is not None and time.monotonic() - last_write >= SECONDS:
        _write(share.folder, begin, vectors_ID[order[begin:end]])
        begin, last_write = end, time.monotonic()
  if share is not None and share.processes > 1 and end > begin:
    _write(share.folder, begin, vectors_ID[order[begin:end]])
  return vectors_ID


def _one_ahead(numbers: Iterable[int], start: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
  """Yields (n, start(n)) for every n; the next start comes before each yield, so the device never idles."""
  pending = None
  for n in numbers:
    started = n, start(n)
    if pending is not None:
      yield pending
    pending = started
  if pending is not None:
    yield pending


def _read(parts: epath.Path, width: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
  """Yields the complete parts: the first row, and vectors float32 `[rows, width]`."""
  for path in sorted(parts.glob('*.f32')) if parts.exists() else ():
    first, stop = map(int, path.name.removesuffix('.f32').split('-'))
    if stop <= end and path.stat().length == (stop - first) * width * 4:  # complete
      yield first, np.frombuffer(path.read_bytes(), '<f4').reshape(-1, width)


def _write(parts: epath.Path, first: int, vectors_ND: np.ndarray) -> None:
  """Stores a part that begins at row `first`, atomically."""
  parts.mkdir(parents=True, exist_ok=True)
  path = parts / f'{first:012}-{first + len(vectors_ND):012}.f32'
  write_whole(path, vectors_ND.astype('<f4').tobytes())
