"""Sizes and CRC-32C checksums of the files of a folder, and JSON files that notice their own damage."""

from collections.abc import Iterable
from concurrent import futures
import json
import os
from typing import Any

from etils import epath
import google_crc32c

FILE = 'checksums.json'

_CHUNK = 1 << 22  # bytes
_THREADS = 8


def files_below(folder: epath.Path) -> list[str]:
  """Every file below a folder by its relative name, sorted, but the checksums themselves."""
  names = []
  folders = ['']
  while folders:
    below = folders.pop()
    for path in (folder / below).iterdir():
      name = f'{below}{path.name}'
      if path.is_dir():
        folders.append(f'{name}/')
      elif name != FILE:
        names.append(name)
  return sorted(names)


def checksums(folder: epath.Path, names: Iterable[str]) -> dict[str, tuple[int, str]]:
  """Size in bytes and hexadecimal CRC-32C of each file, which is on the disk when this returns."""
  names = list(names)
  with futures.ThreadPoolExecutor(_THREADS) as threads:
    found = threads.map(lambda name: _checksum(folder / name, True), names)
    return dict(zip(names, found, strict=True))


def damage(folder: epath.Path, expected: dict[str, tuple[int, str]]) -> list[str]:
  """What is wrong with files that should have these sizes and checksums: a line each, or nothing."""
  with futures.ThreadPoolExecutor(_THREADS) as threads:
    found = threads.map(lambda item: _damage(folder / item[0], *item), expected.items())
    return [line for line in found if line]


def write_json(path: epath.Path, value: Any) -> None:
  """Writes a value and, on a second line, the checksum of the first; whole or not at all."""
  line = json.dumps(value)
  partial = path.with_name(f'{path.name}.partial')
  partial.write_text(f'{line}\n{_hex(google_crc32c.value(line.encode()))}\n')
  if _is_local(partial):
    with partial.open('rb') as f:
      os.fsync(f.fileno())
  partial.replace(path)


def read_json(path: epath.Path) -> Any:
  """What `write_json` wrote.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is not as it was written.
  """
  content = path.read_bytes()
  line, _, rest = content.partition(b'\n')
  if rest != f'{_hex(google_crc32c.value(line))}\n'.encode():
    raise ValueError(f'{path.name} does not have the content that was written')
  return json.loads(line)


def _damage(path: epath.Path, name: str, expected: tuple[int, str]) -> str:
  try:
    size, crc = _checksum(path, False)
  except FileNotFoundError:
    return f'{name} is missing'
  except OSError as error:
    return f'{name} cannot be read: {error}'
  if size != expected[0]:
    return f'{name} has {size:,} bytes instead of {expected[0]:,}'
  if crc != expected[1]:
    return (
      f'{name} does not have the content that was written: crc32c {crc} instead of {expected[1]}'
    )
  return ''


def _checksum(path: epath.Path, sync: bool) -> tuple[int, str]:
  size, crc = 0, 0
  with path.open('rb') as f:
    while chunk := f.read(_CHUNK):
      size += len(chunk)
      crc = google_crc32c.extend(crc, chunk)
    if sync and _is_local(path):
      os.fsync(f.fileno())  # also tells of a disk that became full after the write
  return size, _hex(crc)


def _hex(crc: int) -> str:
  return f'{crc:08x}'


def _is_local(path: epath.Path) -> bool:
  return '://' not in os.fspath(path)
