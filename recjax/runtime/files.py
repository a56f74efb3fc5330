"""Files: hashes, and writing a file whole or not at all."""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import os
from typing import IO, Any
import uuid

from etils import epath


def digest(value: Any) -> str:
  """A short hash of a JSON value; key order does not matter."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sha256(path: epath.PathLike) -> str:
  """The SHA-256 of a file, as hexadecimal digits."""
  with epath.Path(path).open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def is_local(path: epath.PathLike) -> bool:
  """Whether the path is on a file system of this machine, not in a bucket such as gs://."""
  return '://' not in os.fspath(path)


def partial_name(path: epath.PathLike) -> epath.Path:
  """A fresh name beside `path` for what is not complete yet: `.<name>.<random>.partial`."""
  path = epath.Path(path)
  return path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.partial')


@contextlib.contextmanager
def replacing(path: epath.PathLike, mode: str = 'w') -> Iterator[IO]:
  """Opens a file that takes the place of `path` on success; on an error nothing changes.

  Args:
    path: the file; its folder must exist.
    mode: 'w' (UTF-8 text) or 'wb'.
  """
  partial = partial_name(path)
  encoding = None if 'b' in mode else 'utf-8'
  try:
    with partial.open(mode, encoding=encoding) as f:
      yield f
      f.flush()
      if is_local(partial):
        os.fsync(f.fileno())
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


def write_whole(path: epath.PathLike, content: str | bytes) -> None:
  """Writes a file whole or not at all; text is UTF-8."""
  with replacing(path, 'wb' if isinstance(content, bytes) else 'w') as f:
    f.write(content)


def existing(path: epath.PathLike, setting: str, kind: str) -> epath.Path:
  """Returns a path that the user gave, after a check that it exists.

  Args:
    path: the path.
    setting: the flag that gave it, for the error.
    kind: 'file' or 'folder'.

  Raises:
    OSError: the path does not exist or is of the other kind.
  """
  path = epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'{setting} must be a {kind}; {path} does not exist')
  if path.is_dir() != (kind == 'folder'):
    other = 'folder' if kind == 'file' else 'file'
    raise OSError(f'{setting} must be a {kind}; {path} is a {other}')
  return path


def check_writable(folder: epath.PathLike, setting: str) -> None:
  """Checks that a folder can be written or made, on a local file system.

  Args:
    folder: the folder; it need not exist.
    setting: the flag that gave it, for the error.

  Raises:
    OSError: a part of the path is a file, or a folder cannot be written.
  """
  if not is_local(folder):
    return
  folder = epath.Path(folder)
  nearest = next((path for path in (folder, *folder.parents) if path.exists()), epath.Path('.'))
  if not nearest.is_dir():
    raise NotADirectoryError(f'{setting} must be a folder; {nearest} is a file')
  if not os.access(nearest, os.W_OK):
    raise PermissionError(f'{setting} must be a folder that can be written; {nearest} cannot')
