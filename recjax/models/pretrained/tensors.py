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

DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_CONVERT = (
  "python -c \"from transformers import {auto} as M; M.from_pretrained('{folder}')"
  ".save_pretrained('{folder}-safetensors', safe_serialization=True)\""
)


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


def _header(file: epath.Path) -> tuple[dict[str, Any], int]:
  """Returns the JSON header of a file and the offset of the first tensor's bytes."""
  size = file.stat().length
  with file.open('rb') as f:
    start = 8 + struct.unpack('<Q', f.read(8))[0] if size >= 8 else math.inf
    header = {}
    if start <= size:
      try:
        header = json.loads(f.read(start - 8))
      except ValueError as error:
        raise ValueError(f'{file} is not a safetensors file: its header is no JSON') from error
  header.pop('__metadata__', None)
  end = max((start + info['data_offsets'][1] for info in header.values()), default=start)
  if end != size:
    raise ValueError(
      f'{file} is truncated or damaged: its header asks for {end} bytes, it has {size}. Fetch it again'
    )
  return header, start


def _files(folder: epath.Path, auto: str) -> list[epath.Path]:
  single, index = folder / 'model.safetensors', folder / 'model.safetensors.index.json'
  if single.exists():
    return [single]
  if not index.exists():
    if any(path.name.endswith('.gguf') for path in folder.iterdir()):
      raise ValueError(
        f'{folder} must hold safetensors; it holds GGUF files, which are quantized. Set '
        '--config.model.pretrained to the checkpoint that they were made from'
      )
    if (folder / 'adapter_model.safetensors').exists():
      raise ValueError(
        f'{folder} must hold a complete model; it holds an adapter alone (adapter_model.safetensors). Merge it '
        'into its base model, and set --config.model.pretrained to the result'
      )
    if any(path.name.endswith('.bin') for path in folder.iterdir()):
      raise ValueError(
        f'{folder} must hold safetensors; it holds .bin files, which can run code when read. With torch '
        f'and transformers installed, convert it: {_CONVERT.format(folder=folder, auto=auto)}'
      )
    raise FileNotFoundError(
      f'{folder} must hold model.safetensors, or model.safetensors.index.json with its parts'
    )
  names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
  absent = [name for name in names if not (folder / name).exists()]
  if absent:
    raise FileNotFoundError(f'{index} names files that do not exist: {", ".join(absent)}')
  return [folder / name for name in names]


class Tensors:
  """The tensors of a folder.

  Attributes:
    infos: locations of the tensors by name.

  Args:
    folder: holds model.safetensors, or its index and parts.
    auto: the `transformers` class for the conversion command of a .bin folder.

  Raises:
    FileNotFoundError: the folder has no tensors, or a part is missing.
    ValueError: the folder holds no safetensors but .bin, GGUF or adapter files; or a file is truncated or
      damaged.
  """

  def __init__(self, folder: epath.PathLike, auto: str = 'AutoModelForCausalLM'):
    self.infos: dict[str, Info] = {}
    for file in _files(epath.Path(folder), auto):
      header, start = _header(file)
      for name, entry in header.items():
        first = start + entry['data_offsets'][0]
        self.infos[name] = Info(file, entry['dtype'], tuple(entry['shape']), first)

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
