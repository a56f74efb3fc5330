"""Raw files as they lie in a folder: which of them are there, and their lines, gzipped or plain."""

from collections.abc import Iterator, Mapping
import contextlib
import gzip
import pathlib
from typing import BinaryIO
import zlib

from etils import epath
import tqdm

from recjax import config

_BROKEN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


def category(data: config.Data, example: str) -> str:
  """The part of the file names that `data.category` gives.

  Raises:
    ValueError: it is not set, or is no part of a name.
  """
  config.check(
    bool(data.category) and '/' not in data.category,
    f'data.category must name the data set as in its file names, such as {example}',
    data.category,
    'data.category',
  )
  return data.category


def one_of(raw_dir: epath.Path, *names: str) -> epath.Path:
  """The path of the file that is there under one of the names, gzipped (`.gz` behind it) or plain.

  The gzipped one is taken where a file is there both ways. Where none is there, the path of the first.

  Raises:
    ValueError: files of several names are there, and which one is meant cannot be known.
  """
  found = []
  for name in names:
    plain = name.removesuffix('.gz')
    found += [path for path in (raw_dir / f'{plain}.gz', raw_dir / plain) if path.exists()][:1]
  if len(found) > 1:
    raise ValueError(
      f'{raw_dir} must hold one of {" and ".join(path.name for path in found)}, not both. '
      'Remove one, or set --config.data.raw_dir to another folder'
    )
  return found[0] if found else raw_dir / names[0]


def missing(files: Mapping[str, epath.Path]) -> list[str]:
  return [name for name, path in files.items() if not path.exists()]


def require(files: Mapping[str, epath.Path], raw_dir: epath.Path, origin: str) -> None:
  """Checks that all files are there.

  Args:
    files: name → path.
    raw_dir: the folder that should hold them.
    origin: a sentence on where they come from.

  Raises:
    FileNotFoundError: some are missing; the message names them, the folder and the field.
  """
  if absent := missing(files):
    raise FileNotFoundError(
      f'{" and ".join(absent)} must be in {raw_dir}. {origin} '
      'Set --config.data.raw_dir to the folder that holds them'
    )


def local(folder: epath.Path) -> pathlib.Path:
  """The folder as a local path, to download into.

  Raises:
    ValueError: it lies in a bucket.
  """
  config.check(
    '://' not in str(folder),
    'data.download writes into a local folder; a bucket must hold the raw files already',
    str(folder),
    'data.raw_dir',
  )
  return pathlib.Path(folder)


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[BinaryIO]:
  """The bytes of a file, unpacked if its name ends in `.gz`.

  Raises:
    ValueError: the gzip file is broken.
  """
  with path.open('rb') as raw:
    try:
      yield gzip.GzipFile(fileobj=raw) if path.suffix == '.gz' else raw
    except _BROKEN_GZIP as error:
      raise _broken(str(path), error) from None


def lines(path: epath.Path) -> Iterator[tuple[int, bytes]]:
  """Number, from 1, and bytes of every line that is not blank, with a progress bar.

  Raises:
    ValueError: the gzip file is broken.
  """
  number = 0
  with (
    path.open('rb') as raw,
    tqdm.tqdm(desc=path.name, total=path.stat().length, unit='B', unit_scale=True) as progress,
  ):
    try:
      for number, line in enumerate(gzip.GzipFile(fileobj=raw) if path.suffix == '.gz' else raw, 1):
        if not line.isspace():
          yield number, line
        if number % 1000 == 0:
          progress.update(raw.tell() - progress.n)
    except _BROKEN_GZIP as error:
      raise _broken(f'{path}:{number + 1}', error) from None
    progress.update(raw.tell() - progress.n)


def _broken(where: str, error: Exception) -> ValueError:
  return ValueError(f'{where}: the gzip file must be whole; {error}. Remove it and fetch it again')


def text_lines(path: epath.Path) -> list[str]:
  """The lines of an old text file without a stated encoding: UTF-8 where it is that, else latin-1.

  Blank lines at the end are dropped; line n of the file is number n - 1 of the list.

  Raises:
    ValueError: the bytes are no text, as in a file of another encoding or kind.
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
  """The files of a folder whose names start and end so, sorted; none where there is no folder."""
  if not folder.exists():
    return []
  return sorted(
    path for path in folder.iterdir() if path.name.startswith(start) and path.name.endswith(end)
  )
