"""Finds raw files in a folder, and reads their lines, compressed or plain."""

from collections.abc import Iterator, Mapping
import contextlib
import gzip
import pathlib
from typing import BinaryIO
import zlib

from etils import epath
import pyarrow as pa

from recjax.runtime import logs
from recjax.runtime.files import is_local
from recjax.schema.checks import check
from recjax.schema.data import Data

COMPRESSED = ('.gz', '.zst')
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)


def category(data: Data, example: str) -> str:
  """Returns `data.category`, which is a part of the file names of a source.

  Raises:
    ValueError: it is not set, or contains a slash.
  """
  check(
    bool(data.category) and '/' not in data.category,
    f'data.category must name the data set as in its file names, such as {example}',
    data.category,
    'data.category',
  )
  return data.category


def one_of(raw_dir: epath.Path, *names: str) -> epath.Path:
  """Returns the path of the existing file with one of the names, compressed or plain.

  If a name exists in both forms, the compressed file is used. If no file exists, returns the path of the first name.

  Raises:
    ValueError: files of several names exist, so the choice is ambiguous.
  """
  found = []
  for name in names:
    plain = name.removesuffix('.gz')
    found += [
      path for ending in (*COMPRESSED, '') if (path := raw_dir / f'{plain}{ending}').exists()
    ][:1]
  if len(found) > 1:
    raise ValueError(
      f'{raw_dir} must hold one of {" and ".join(path.name for path in found)}, not both. '
      'Remove one, or set --config.data.raw_dir to another folder'
    )
  return found[0] if found else raw_dir / names[0]


def missing(files: Mapping[str, epath.Path]) -> list[str]:
  """Returns the names of the files that do not exist."""
  return [name for name, path in files.items() if not path.exists()]


def require(files: Mapping[str, epath.Path], raw_dir: epath.Path, origin: str) -> None:
  """Checks that all files exist and can be read.

  Args:
    files: name → path.
    raw_dir: the folder that should hold them.
    origin: a sentence about their publisher or format, for the message.

  Raises:
    FileNotFoundError: files are missing; the message names them, the folder and the field.
    ValueError: a path is a folder.
    PermissionError: a file cannot be opened.
  """
  if absent := missing(files):
    problem = '' if raw_dir.is_dir() else ', which is not a folder'
    raise FileNotFoundError(
      f'{" and ".join(absent)} must be in {raw_dir}{problem}. {origin} '
      'Set --config.data.raw_dir to the folder that holds them'
    )
  for path in files.values():
    check(not path.is_dir(), 'a raw file must be a file, not a folder', str(path), 'data.raw_dir')
    try:
      with path.open('rb'):
        pass
    except PermissionError as error:
      raise PermissionError(
        f'{path} must be readable; {error.strerror}. Change its permissions, or set '
        '--config.data.raw_dir to another folder'
      ) from None


def local(folder: epath.Path) -> pathlib.Path:
  """Returns the folder for a download as a local path.

  Raises:
    ValueError: the folder is in a bucket.
  """
  check(
    is_local(folder),
    'data.raw_dir must be a local folder if data.download is set',
    str(folder),
    'data.raw_dir',
  )
  return pathlib.Path(folder)


def _unpacked(path: epath.Path, raw: BinaryIO) -> BinaryIO:
  if path.suffix == '.gz':
    return gzip.GzipFile(fileobj=raw)
  if path.suffix == '.zst':
    return pa.CompressedInputStream(pa.PythonFile(raw, 'r'), 'zstd')
  return raw


def _is_broken(path: epath.Path, error: Exception) -> bool:
  """Returns whether an error means that a compressed file is damaged."""
  return isinstance(error, _BROKEN) or (path.suffix == '.zst' and not isinstance(error, ValueError))


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[BinaryIO]:
  """Opens a file for reading bytes; decompresses it if its name ends in .gz or .zst.

  Raises:
    ValueError: the compressed file is damaged.
  """
  with path.open('rb') as raw:
    try:
      yield _unpacked(path, raw)
    except (*_BROKEN, OSError) as error:
      if not _is_broken(path, error):
        raise
      raise _broken(path, str(path), error) from None


def lines(path: epath.Path) -> Iterator[tuple[int, bytes]]:
  """Yields the number, from 1, and the bytes of every line that is not blank; shows a progress bar.

  Raises:
    ValueError: the compressed file is damaged.
  """
  number = 0
  with (
    path.open('rb') as raw,
    logs.progress(desc=path.name, total=path.stat().length, unit='B', unit_scale=True) as progress,
  ):
    try:
      for number, line in enumerate(_unpacked(path, raw), 1):
        if not line.isspace():
          yield number, line
        if number % 1000 == 0:
          progress.update(raw.tell() - progress.n)
    except (*_BROKEN, OSError) as error:
      if not _is_broken(path, error):
        raise
      raise _broken(path, f'{path}:{number + 1}', error) from None
    progress.update(raw.tell() - progress.n)


def _broken(path: epath.Path, where: str, error: Exception) -> ValueError:
  kind = 'gzip' if path.suffix == '.gz' else 'zstd'
  return ValueError(
    f'{where}: the {kind} file must be complete; {error}. Remove it and download it again'
  )


def text_lines(path: epath.Path) -> list[str]:
  """Returns the lines of an old text file without a stated encoding: UTF-8 if valid, else latin-1.

  Blank lines at the end are dropped. Line n of the file has index n - 1.

  Raises:
    ValueError: the file contains a zero byte.
  """
  with opened(path) as stream:
    content = stream.read()
  try:
    text = content.decode('utf-8-sig')
  except UnicodeDecodeError:
    text = content.decode('latin-1')
  text = text.rstrip('\r\n')
  rows = [line.removesuffix('\r') for line in text.split('\n')] if text else []
  for number, row in enumerate(rows, 1):
    if '\0' in row:
      raise ValueError(f'{path}:{number}: must be text in UTF-8 or latin-1; it holds a zero byte')
  return rows


def names_in(folder: epath.Path, start: str, end: str) -> list[epath.Path]:
  """Returns the files of a folder with this start and end of the name, sorted; [] if the folder does not exist."""
  if not folder.exists():
    return []
  return sorted(
    path for path in folder.iterdir() if path.name.startswith(start) and path.name.endswith(end)
  )
