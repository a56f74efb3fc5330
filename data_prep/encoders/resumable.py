"""Resumable encoding: finished parts are stored, so a kill loses a minute of work instead of hours."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import time
from typing import Any

from etils import epath
import jax
import numpy as np
import tqdm

from recjax.runtime.files import write_whole

SECONDS = 60.0  # between two stored parts


def run(
  batches: Sequence[np.ndarray],
  start: Callable[[int], np.ndarray | jax.Array],
  num_texts: int,
  width: int,
  parts: epath.Path | None,
) -> np.ndarray:
  """Encodes one batch after another, and resumes after the parts that a killed run stored.

  Args:
    batches: the rows of the result that each batch computes.
    start: maps the number of a batch to its vectors, row by row; the device may still compute them. Rows
      beyond the batch are dropped.
    num_texts: I.
    width: D.
    parts: folder of the parts, which must be used for these vectors in this order only; None: store none. The
      caller removes it once the result is stored.

  Returns:
    float32 `[I, D]`; rows of no batch are zero. A batch is computed as a whole, so a resumed run gives the
    same bytes as an uninterrupted one.
  """
  vectors_ID = np.zeros((num_texts, width), np.float32)
  order = np.concatenate([*batches, np.zeros(0, np.int64)])
  kept = 0
  if parts is not None:
    for part in _read(parts, width):
      vectors_ID[order[kept : kept + len(part)]] = part
      kept += len(part)
  ends = np.cumsum([len(rows) for rows in batches], dtype=np.int64)
  left = np.flatnonzero(ends > kept).tolist()
  last = time.monotonic()
  with tqdm.tqdm(total=len(order), initial=kept, desc='encoding texts', unit=' texts') as progress:
    for n, vectors_BD in _one_ahead(left, start):
      vectors_ID[batches[n]] = np.asarray(vectors_BD)[: len(batches[n])]
      progress.update(int(ends[n]) - progress.n)
      if parts is not None and time.monotonic() - last >= SECONDS:
        _write(parts, kept, vectors_ID[order[kept : ends[n]]])
        kept, last = int(ends[n]), time.monotonic()
  return vectors_ID


def _one_ahead(numbers: Iterable[int], start: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
  """Yields (n, start(n)) for every n after the next one is started, so the device never waits."""
  pending = None
  for n in numbers:
    started = n, start(n)
    if pending is not None:
      yield pending
    pending = started
  if pending is not None:
    yield pending


def _read(parts: epath.Path, width: int) -> Iterator[np.ndarray]:
  """Yields the contiguous parts from the first row on, each float32 `[rows, width]`."""
  end = 0
  for path in sorted(parts.glob('*.f32')) if parts.exists() else ():
    first, stop = map(int, path.name.removesuffix('.f32').split('-'))
    if first == end and path.stat().length == (stop - first) * width * 4:  # complete
      yield np.frombuffer(path.read_bytes(), '<f4').reshape(-1, width)
      end = stop


def _write(parts: epath.Path, first: int, vectors_ND: np.ndarray) -> None:
  """Stores the rows from `first` on, whole or not at all."""
  parts.mkdir(parents=True, exist_ok=True)
  path = parts / f'{first:012}-{first + len(vectors_ND):012}.f32'
  write_whole(path, vectors_ND.astype('<f4').tobytes())
