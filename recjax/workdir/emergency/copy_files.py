"""The files of one copy of a train state in the memory of a host.

  FOLDER/RUN/PROCESS/STEP/
    shards.bin        the bytes of the shards, one after the other
    checksums.json    what they are, their size and CRC-32C; written last

`FOLDER` is on a tmpfs, so the files are in memory and outlive the process. A folder without an intact checksums.json
is no copy.
"""

from collections.abc import Iterable
import dataclasses
import os
import pathlib
import shutil
from typing import Any

from etils import epath
import jax.numpy as jnp
import numpy as np

from recjax.runtime.files import partial_name
from recjax.sharding.shards import Bounds
from recjax.workdir import checksums

_FILE = 'shards.bin'


@dataclasses.dataclass(frozen=True)
class Copy:
  """What a process keeps of a train state after a step: its own shards and those of a neighbour.

  Attributes:
    folder: the folder of the copy.
    step: number of completed steps.
    start: name of the start of the run; steps of two starts may differ in the last bits.
    base: step of the newest checkpoint on disk when the copy was made; None: there was none.
    shapes: shape and dtype of every array, by name.
    parts: (name, bounds, offset in the file) of every shard.
    meta: the fields of `checkpoints.Meta`.
  """

  folder: str
  step: int
  start: str
  base: int | None
  shapes: dict[str, tuple[tuple[int, ...], str]]
  parts: tuple[tuple[str, Bounds, int], ...]
  meta: dict[str, Any]

  def read(self, name: str, part: Bounds, offset: int) -> np.ndarray:
    """Returns a shard; its bytes are mapped, not read."""
    dtype = jnp.dtype(self.shapes[name][1])
    shape = [stop - start for start, stop in part]
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:  # an empty file cannot be mapped
      return np.zeros(shape, dtype)
    mapped = np.memmap(os.path.join(self.folder, _FILE), np.uint8, 'r', offset, (size,))
    return np.asarray(mapped).view(dtype).reshape(shape)


def write(
  folder: pathlib.Path,
  shards: Iterable[tuple[str, Bounds, np.ndarray]],
  about: dict[str, Any],
) -> None:
  """Writes a copy; a killed write leaves none.

  Args:
    folder: the folder of the copy, which must not exist; its parent is created.
    shards: name, bounds and elements.
    about: `step`, `start`, `base`, `shapes` and `meta` of `Copy`.

  Raises:
    OSError: the files could not be written; none are left.
  """
  partial = epath.Path(partial_name(folder))
  partial.mkdir(parents=True)
  try:
    parts, offset = [], 0
    with (partial / _FILE).open('wb') as f:
      for name, part, x in shards:
        content = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        f.write(content.data)
        parts.append((name, part, offset))
        offset += content.size
    found = checksums.checksums(partial, [_FILE])
    checksums.write_json(partial / checksums.FILE, {**about, 'parts': parts, 'files': found})
    partial.replace(folder)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def read(folder: pathlib.Path) -> Copy | None:
  """Returns an intact copy; None: it is damaged, or was not written to its end."""
  folder = epath.Path(folder)
  try:
    content = checksums.read_json(folder / checksums.FILE)
  except (OSError, ValueError):
    return None
  if checksums.damage(folder, content.pop('files')):
    return None
  return from_json(content | {'folder': os.fspath(folder)})


def from_json(content: dict[str, Any]) -> Copy:
  """Inverts `dataclasses.asdict` and JSON, which makes lists of tuples."""
  shapes = {name: (tuple(shape), dtype) for name, (shape, dtype) in content['shapes'].items()}
  parts = tuple(
    (name, tuple((start, stop) for start, stop in part), offset)
    for name, part, offset in content['parts']
  )
  return Copy(**content | {'shapes': shapes, 'parts': parts})
