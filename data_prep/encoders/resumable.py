"""Resumable encoding: stores finished parts, so that a kill loses a minute of work instead of hours."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import time
from typing import Any

from etils import epath
import jax
import numpy as np

from recjax.runtime import logs
from recjax.runtime.files import write_whole

SECONDS = 60.0  # minimum time between two stored parts


def run(
  batches: Sequence[np.ndarray],
  start: Callable[[int], np.ndarray | jax.Array],
  num_texts: int,
  width: int,
  parts: epath.Path | None,
) -> np.ndarray:
  """Encodes batches in order, and resumes after the parts that a killed run stored.

  Args:
    batches: for each batch, the row numbers of its vectors in the result.
    start: maps the number of a batch to its vectors. It may return before the device has computed them. Rows
      beyond the batch are padding and are dropped.
    num_texts: I.
    width: D.
    parts: folder of the parts; None: store none. It must only be used for the same vectors in the same order. The
      caller removes it when the result is stored.

  Returns:
    float32 `[I, D]`; rows outside all batches are zero. Batches are always computed in full, so a resumed run gives
    the same bytes as an uninterrupted run.
  """
  vectors_ID = np.zeros((num_texts, width), np.float32)
  order = np.concatenate([*batches, np.zeros(0, np.int64)])
  num_stored = 0
  if parts is not None:
    for part in _read(parts, width):
      vectors_ID[order[num_stored : num_stored + len(part)]] = part
      num_stored += len(part)
  ends = np.cumsum([len(rows) for rows in batches], dtype=np.int64)
  remaining = np.flatnonzero(ends > num_stored).tolist()
  last_write = time.monotonic()
  with logs.progress(
    total=len(order), initial=num_stored, desc='encoding texts', unit=' texts'
  ) as progress:
    for n, vectors_BD in _one_ahead(remaining, start):
      vectors_ID[batches[n]] = np.asarray(vectors_BD)[: len(batches[n])]
      progress.update(int(ends[n]) - progress.n)
      if parts is not None and time.monotonic() - last_write >= SECONDS:
        _write(parts, num_stored, vectors_ID[order[num_stored : ends[n]]])
        num_stored, last_write = int(ends[n]), time.monotonic()
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


def _read(parts: epath.Path, width: int) -> Iterator[np.ndarray]:
  """Yields the complete, contiguous parts from row 0 on, each float32 `[rows, width]`."""
  end = 0
  for path in sorted(parts.glob('*.f32')) if parts.exists() else ():
    first, stop = map(int, path.name.removesuffix('.f32').split('-'))
    if first == end and path.stat().length == (stop - first) * width * 4:  # complete
      yield np.frombuffer(path.read_bytes(), '<f4').reshape(-1, width)
      end = stop


def _write(parts: epath.Path, first: int, vectors_ND: np.ndarray) -> None:
  """Stores a part that begins at row `first`, atomically."""
  parts.mkdir(parents=True, exist_ok=True)
  path = parts / f'{first:012}-{first + len(vectors_ND):012}.f32'
  write_whole(path, vectors_ND.astype('<f4').tobytes())
