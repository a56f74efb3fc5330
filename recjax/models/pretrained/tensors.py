"""Reads and writes the tensors of a checkpoint folder, one at a time.

A safetensors file consists of eight bytes of header length, a JSON header, and the tensors' bytes. Files are
read with seek instead of mmap: the host then holds only the requested rows, and buckets work like local folders.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import json
import math
import struct
from typing import Any

from etils import epath
import ml_dtypes
import numpy as np

from recjax.models.pretrained import weight_files

DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Info:
  """Location of a tensor: file, dtype code, shape, offset of the first byte."""

  file: epath.Path
  code: str
  shape: tuple[int, ...]
  start: int

  @property
  def dtype(self) -> np.dtype:
    """The dtype. Raises a ValueError if it is not one of DTYPES."""
    if self.code not in DTYPES:
      raise ValueError(
        f'tensors must be of type {", ".join(DTYPES)}; {self.file} holds {self.code}, as quantized '
        'checkpoints do. Export the checkpoint without quantization'
      )
    return DTYPES[self.code]


def _infos(file: epath.Path) -> dict[str, Info]:
  """Returns the tensors of a file by name.

  Raises:
    ValueError: the file is damaged.
  """
  try:
    size = file.stat().length
    with file.open('rb') as f:
      start = 8 + struct.unpack('<Q', f.read(8))[0] if size >= 8 else math.inf
      content = f.read(start - 8) if start <= size else b'{}'
  except OSError as error:
    raise ValueError(f'{file} must be a readable file: {error}. Fetch it again') from error
  try:
    header = json.loads(content)
    header.pop('__metadata__', None)
    infos = {name: _info(file, entry, start) for name, entry in header.items()}
    end = max((start + entry['data_offsets'][1] for entry in header.values()), default=start)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(
      f'{file} must be a safetensors file; its header is damaged ({type(error).__name__}: {error}). Fetch it '
      'again'
    ) from error
  if end != size:
    needed = f'{end} bytes' if start <= size else 'more'
    raise ValueError(
      f'{file} is truncated or damaged: its header asks for {needed}, it has {size} bytes. Fetch it again'
    )
  return infos


def _info(file: epath.Path, entry: dict[str, Any], start: int) -> Info:
  """Returns a tensor of a file's header; the tensors' bytes begin at `start`.

  Raises:
    ValueError: the tensor's bytes do not fit its shape and type.
  """
  (first, end), shape = entry['data_offsets'], tuple(entry['shape'])
  dtype = DTYPES.get(entry['dtype'])
  if min((*shape, first)) < 0 or (
    dtype is not None and end - first != math.prod(shape) * dtype.itemsize
  ):
    raise ValueError(f'{entry} has a wrong number of bytes')
  return Info(file, entry['dtype'], shape, start + first)


class Tensors:
  """The tensors of a folder.

  Attributes:
    infos: locations of the tensors by name.

  Args:
    folder: holds model.safetensors, or its index and parts.
    auto: the `transformers` class for the conversion command of a .bin folder.

  Raises:
    FileNotFoundError, ValueError: see `weight_files.find`; a file is truncated or damaged.
  """

  def __init__(self, folder: epath.PathLike, auto: str = 'AutoModelForCausalLM'):
    self.infos: dict[str, Info] = {}
    files, named = weight_files.find(epath.Path(folder), auto)
    for file in files:
      for name, info in _infos(file).items():
        if name not in self.infos or file == named.get(name):  # the index decides between two files
          self.infos[name] = info

  def read(self, name: str, first: int = 0, count: int | None = None) -> np.ndarray:
    """Returns `count` rows (None: all) of a tensor from row `first` on, in its own dtype."""
    info = self.infos[name]
    if not info.shape:
      return self._bytes(info, 0, 1).reshape(())
    count = info.shape[0] - first if count is None else min(count, info.shape[0] - first)
    row = math.prod(info.shape[1:])
    return self._bytes(info, first * row, count * row).reshape(count, *info.shape[1:])

  def _bytes(self, info: Info, first: int, count: int) -> np.ndarray:
    width = info.dtype.itemsize
    with info.file.open('rb') as f:
      f.seek(info.start + first * width)
      return np.frombuffer(f.read(count * width), info.dtype)


@dataclasses.dataclass(frozen=True)
class Output:
  """A tensor to write; `parts` yields its consecutive chunks along axis 0."""

  name: str
  dtype: np.dtype
  shape: tuple[int, ...]
  parts: Iterable[np.ndarray]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def grouped(outputs: Iterable[Output], limit: int) -> Iterator[list[Output]]:
  """Groups the outputs into files of at most `limit` bytes; a larger tensor has its own file."""
  group, size = [], 0
  for output in outputs:
    if group and size + output.nbytes > limit:
      yield group
      group, size = [], 0
    group.append(output)
    size += output.nbytes
  yield group


def write(file: epath.Path | None, outputs: list[Output]) -> None:
  """Writes one safetensors file. None: only iterates over the parts, since gathering needs every host."""
  header, end = {'__metadata__': {'format': 'pt'}}, 0
  for output in outputs:
    header[output.name] = {
      'dtype': _CODES[output.dtype],
      'shape': list(output.shape),
      'data_offsets': [end, end + output.nbytes],
    }
    end += output.nbytes
  encoded = json.dumps(header).encode()
  encoded += b' ' * (-len(encoded) % 8)
  if file is None:
    for output in outputs:
      for _ in output.parts:
        continue
    return
  with file.open('wb') as f:
    f.write(struct.pack('<Q', len(encoded)) + encoded)
    for output in outputs:
      for part in output.parts:
        f.write(np.ascontiguousarray(part, output.dtype).tobytes())
