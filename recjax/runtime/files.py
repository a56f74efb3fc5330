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
