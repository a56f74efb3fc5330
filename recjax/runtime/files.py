"""Helpers for files: hashes, atomic writes, checks of paths; and the commit of the code."""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import json
import os
import subprocess
from typing import IO, Any
import uuid

from etils import epath


def digest(value: Any) -> str:
  """Returns a hash of a JSON value, 16 hexadecimal digits; the order of keys does not matter."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns the leaves of nested mappings by dotted name: `{'a': {'b': 1}}` becomes `{'a.b': 1}`."""
  leaves = {}
  for name, value in values.items():
    is_nested = isinstance(value, Mapping)
    leaves |= flat(value, f'{prefix}{name}.') if is_nested else {prefix + name: value}
  return leaves


def sha256(path: epath.PathLike) -> str:
  """Returns the SHA-256 of a file as hexadecimal digits."""
  with epath.Path(path).open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def code_commit() -> str | None:
  """Returns the git commit of this code, with the suffix -dirty if files have uncommitted changes.

  None: the code does not run from a git checkout, or git is not installed.
  """
  root = epath.resource_path('recjax').parent
  if not (root / '.git').exists():
    return None
  options = ['--always', '--dirty', '--abbrev=40', '--exclude=*']
  command = ['git', '-C', str(root), 'describe', *options]
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
  except FileNotFoundError:
    return None
  return done.stdout.strip() if done.returncode == 0 else None


def is_local(path: epath.PathLike) -> bool:
  """Returns whether the path is on a file system, not in a bucket such as gs://."""
  return '://' not in os.fspath(path)


def partial_name(path: epath.PathLike) -> epath.Path:
  """Returns a fresh name beside `path` for an incomplete file or folder: `.<name>.<random>.partial`."""
  path = epath.Path(path)
  return path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.partial')


@contextlib.contextmanager
def replacing(path: epath.PathLike, mode: str = 'w', is_durable: bool = True) -> Iterator[IO]:
  """Opens a new file that atomically replaces `path` on success; after an error `path` is unchanged.

  Args:
    path: the file; its folder must exist.
    mode: 'w' (UTF-8 text) or 'wb'.
    is_durable: whether to wait until the file is on the disk (local files only).
  """
  partial = partial_name(path)
  encoding = None if 'b' in mode else 'utf-8'
  _open_partials.add(partial)
  try:
    with partial.open(mode, encoding=encoding) as f:
      yield f
      f.flush()
      if is_durable and is_local(partial):
        os.fsync(f.fileno())
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise
  finally:
    _open_partials.discard(partial)


_open_partials: set[epath.Path] = set()  # of `replacing`


def remove_open_partials() -> None:
  """Removes the local files that `replacing` writes now; only for a process that ends."""
  for partial in filter(is_local, list(_open_partials)):
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)


def write_whole(path: epath.PathLike, content: str | bytes, is_durable: bool = True) -> None:
  """Writes a file atomically; text is UTF-8. See `replacing`."""
  with replacing(path, 'wb' if isinstance(content, bytes) else 'w', is_durable) as f:
    f.write(content)


def read_range(path: epath.PathLike, start: int, stop: int) -> bytes:
  """Returns the bytes of a file from `start` to `stop`; of a file in a bucket no others are fetched."""
  if is_local(path):
    with epath.Path(path).open('rb') as f:
      f.seek(start)
      return f.read(stop - start)
  import fsspec  # of etils[epath]

  fs, name = fsspec.core.url_to_fs(os.fspath(path))
  return fs.cat_file(name, start, stop)


def sync(path: epath.PathLike) -> None:
  """Waits until a local file, or the list of a local folder's files, is on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def existing(path: epath.PathLike, setting: str, kind: str) -> epath.Path:
  """Checks that a path of the user exists, and returns it as an `epath.Path`.

  Args:
    path: the path.
    setting: the flag that gave it, for the error.
    kind: 'file' or 'folder'.

  Raises:
    OSError: the path does not exist, is of the other kind, or has a protocol that cannot be read.
  """
  try:
    path = epath.Path(path)
    exists = path.exists()
  except (ImportError, KeyError) as error:
    why = 'the protocol is unknown' if isinstance(error, KeyError) else error
    raise OSError(f'{setting} must be a {kind} that can be read; got {path}: {why}') from error
  if not exists:
    raise FileNotFoundError(f'{setting} must be a {kind}; {path} does not exist')
  if path.is_dir() != (kind == 'folder'):
    other = 'folder' if kind == 'file' else 'file'
    raise OSError(f'{setting} must be a {kind}; {path} is a {other}')
  return path


def check_folder(folder: epath.PathLike, setting: str) -> epath.Path:
  """Checks that a path is a folder or lies in one, on a local file system.

  Args:
    folder: the folder; it need not exist.
    setting: the flag that gave it, for the error.

  Returns:
    The folder or its nearest existing parent.

  Raises:
    OSError: a part of the path is a file or a broken link.
  """
  folder = epath.Path(folder)
  if not is_local(folder):
    return folder
  folder = folder.expanduser()
  existing_parts = (path for path in (folder, *folder.parents) if os.path.lexists(path))
  nearest = next(existing_parts, epath.Path('.'))
  if not nearest.is_dir():
    kind = 'a file' if nearest.exists() else 'a link to a missing folder'
    raise NotADirectoryError(f'{setting} must be a folder; {nearest} is {kind}')
  return nearest


def check_writable(folder: epath.PathLike, setting: str) -> None:
  """Checks that a folder can be written or created, on a local file system.

  Args:
    folder: the folder; it need not exist.
    setting: the flag that gave it, for the error.

  Raises:
    OSError: a part of the path is a file or a broken link, or a folder cannot be written.
  """
  nearest = check_folder(folder, setting)
  if is_local(folder) and not os.access(nearest, os.W_OK | os.X_OK):
    raise PermissionError(f'{setting} must be a folder that can be written; {nearest} cannot')


def check_file(path: epath.PathLike, setting: str) -> None:
  """Checks that a file can be written: its folder can be written or created, and the path is no folder.

  Args:
    path: the file; it need not exist.
    setting: the flag that gave it, for the error.

  Raises:
    OSError: see `check_writable`; or the path is a folder.
  """
  check_writable(epath.Path(path).parent, f'the folder of {setting}')
  if epath.Path(path).is_dir():
    raise IsADirectoryError(f'{setting} must be a file; {path} is a folder')


def remove_partial_files(path: epath.PathLike) -> None:
  """Removes partial files of `path` that killed processes left. No process may be writing `path`."""
  path = epath.Path(path)
  if path.parent.exists():
    for other in path.parent.iterdir():
      if other.name.startswith(f'.{path.name}.') and other.name.endswith('.partial'):
        other.unlink(missing_ok=True)
