"""Sizes and CRC-32C checksums of the files of a folder, and JSON files that hold their own checksum."""

from collections.abc import Iterable
from concurrent import futures
import json
import os
from typing import Any

from etils import epath
import google_crc32c

from recjax.runtime.files import is_local, write_whole

FILE = 'checksums.json'

_CHUNK = 1 << 22  # bytes
_THREADS = 8


def files_below(folder: epath.Path) -> list[str]:
  """Returns the relative names of all files below a folder, sorted, without the checksum file."""
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
  """Syncs files to the disk; returns size in bytes and hexadecimal CRC-32C by name."""
  names = list(names)
  with futures.ThreadPoolExecutor(_THREADS) as threads:
    found = threads.map(lambda name: _checksum(folder / name, True), names)
    return dict(zip(names, found, strict=True))


def damage(folder: epath.Path, expected: dict[str, tuple[int, str]]) -> list[str]:
  """Returns one line for each file that does not have its expected size and checksum."""
  with futures.ThreadPoolExecutor(_THREADS) as threads:
    found = threads.map(lambda item: _damage(folder / item[0], *item), expected.items())
    return [line for line in found if line]


def write_json(path: epath.Path, value: Any) -> None:
  """Writes a file atomically: the JSON of a value, then a line with the checksum of the first line."""
  line = json.dumps(value)
  write_whole(path, f'{line}\n{_hex(google_crc32c.value(line.encode()))}\n')


def read_json(path: epath.Path) -> Any:
  """Returns the value that `write_json` wrote.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file does not match its checksum.
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
    if sync and is_local(path):
      os.fsync(f.fileno())  # reports a disk that became full after the write
  return size, _hex(crc)


def _hex(crc: int) -> str:
  return f'{crc:08x}'
