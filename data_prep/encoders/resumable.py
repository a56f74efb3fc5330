"""Vectors that take long: parts are kept as they come, so that a kill loses a minute and not hours."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import time
from typing import Any

from etils import epath
import jax
import numpy as np
import tqdm

SECONDS = 60.0  # what a kill may lose


def run(
  batches: Sequence[np.ndarray],
  start: Callable[[int], np.ndarray | jax.Array],
  num_texts: int,
  width: int,
  parts: epath.Path | None,
) -> np.ndarray:
  """Encodes batch after batch, and goes on where a run that was killed had kept parts.

  Args:
    batches: which rows of the result each gives.
    start: the number of a batch → its vectors, row by row (further rows are dropped), perhaps still
      under way on the device.
    num_texts: I.
    width: D.
    parts: the folder of the parts, the same for the same vectors in the same order alone; None: keep
      nothing. It is left there: only its owner knows when the result is safe.

  Returns:
    float32 `[I, D]`; rows of no batch are zero. Batches are computed whole or not at all, so a killed
    run and one that was not give the same bytes.
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
  """(n, start(n)) for every n, given out once the next is started: the device never waits for us."""
  pending = None
  for n in numbers:
    started = n, start(n)
    if pending is not None:
      yield pending
    pending = started
  if pending is not None:
    yield pending


def _read(parts: epath.Path, width: int) -> Iterator[np.ndarray]:
  """The parts that follow one another from the first row on, each float32 `[rows, width]`."""
  end = 0
  for path in sorted(parts.glob('*.f32')) if parts.exists() else ():
    first, stop = map(int, path.name.removesuffix('.f32').split('-'))
    if first == end and path.stat().length == (stop - first) * width * 4:  # else not whole
      yield np.frombuffer(path.read_bytes(), '<f4').reshape(-1, width)
      end = stop


def _write(parts: epath.Path, first: int, vectors_ND: np.ndarray) -> None:
  """Keeps the rows from `first` on, whole or not at all."""
  parts.mkdir(parents=True, exist_ok=True)
  partial = parts / 'partial'
  partial.write_bytes(vectors_ND.astype('<f4').tobytes())
  partial.replace(parts / f'{first:012}-{first + len(vectors_ND):012}.f32')
