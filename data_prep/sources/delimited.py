"""Delimited text: UTF-8 with a header, cells separated by commas, tabs, semicolons or bars.

Arrow reads the files. Its messages name no line if it reads with several threads; after an error, Python's own,
slower reader finds the line.
"""

import collections
from collections.abc import Collection, Iterable, Iterator, Mapping
import csv
import io
import itertools
import logging
import sys
from typing import BinaryIO

from etils import epath
import pyarrow as pa
import pyarrow.csv

from data_prep.sources import raw_files, records
from recjax.schema.checks import check

SEPARATORS = (',', '\t', ';', '|')  # detected if the config sets none
_BLOCK = 1 << 24  # bytes per parsed block; a row must fit into one
_log = logging.getLogger(__name__)
_NAMED = {'tab': '\t', '\\t': '\t'}
# A row of this cell is appended to every file. An unclosed quote would contain it.
_END = 'EndOfTheTable'
# First bytes of other formats → the format, and the remedy.
_OTHER_FORMATS = {
  b'\xff\xfe': ('text in UTF-16', 'Convert it to UTF-8'),
  b'\xfe\xff': ('text in UTF-16', 'Convert it to UTF-8'),
  b'PAR1': ('Parquet', 'Let its name end in .parquet'),
  b'\x1f\x8b': ('compressed by gzip', 'Let its name end in .gz'),
  b'\x28\xb5\x2f\xfd': ('compressed by zstd', 'Let its name end in .zst'),
  b'BZh': ('compressed by bzip2', 'Unpack it'),
  b'PK\x03\x04': ('a zip archive or a spreadsheet', 'Unpack it, or export it as CSV'),
  b'version https://git-lfs': ('a pointer of Git LFS', 'Fetch the file itself with git lfs pull'),
  b'<!DOCTYPE': ('a web page', 'Fetch the file again'),
  b'<html': ('a web page', 'Fetch the file again'),
}


def separator(given: str | None) -> str | None:
  """Returns `data.separator` as one character; None if it is not set and must be detected.

  Raises:
    ValueError: it is not one character, or a letter, digit, quote or line end.
  """
  if given is None:
    return None
  mark = _NAMED.get(given, given)
  check(
    len(mark) == 1 and mark.isascii() and not mark.isalnum() and mark not in '"\r\n',
    "data.separator must be one character such as , ; | or 'tab'",
    given,
    'data.separator',
  )
  return mark


def find_separator(path: epath.Path, wanted: Collection[str], quoted: bool = True) -> str:
  """Returns the separator that splits the first line into the most wanted names; on a tie, into the most names."""

  def counts(mark: str) -> tuple[int, int]:
    names = _first(path, mark, quoted)
    return len(set(names) & set(wanted)), len(names)

  return max(SEPARATORS, key=counts)


def header(
  path: epath.Path, mark: str = ',', quoted: bool = True, wanted: Collection[str] | None = None
) -> list[str]:
  """Returns the column names in the first line.

  Args:
    path: the file.
    mark: the separator of cells.
    quoted: see `batches`.
    wanted: names that may occur only once; None: all.

  Raises:
    ValueError: the file is empty or not text, or a name occurs twice.
  """
  first = _first(path, mark, quoted)
  checked = first if wanted is None else [name for name in first if name in wanted]
  if not first or len(set(checked)) < len(checked):
    twice = next((name for name in checked if checked.count(name) > 1), None)
    raise ValueError(
      f'{path}:1: the first line must name the columns, each once; got '
      f'{f"{twice!r} several times: {records.short(first)}" if first else "an empty file"}'
    )
  return first


def _first(path: epath.Path, mark: str, quoted: bool) -> list[str]:
  with raw_files.opened(path) as stream:
    start = stream.read(1024)
  for magic, (kind, advice) in _OTHER_FORMATS.items():
    if start.startswith(magic):
      raise ValueError(f'{path}:1: must be text in UTF-8; it is {kind}. {advice}')
  if b'\0' in start.partition(b'\n')[0]:
    raise ValueError(
      f'{path}:1: must be text in UTF-8; it holds zero bytes, as UTF-16 does. Convert it to UTF-8'
    )
  names = next(_cells(path, mark, quoted), (1, []))[1]
  if wrong := next((name for name in names if '\ufffd' in name), None):
    raise ValueError(
      f'{path}:1: names of columns must be text in UTF-8; got {wrong!r}. Convert the file to UTF-8, as by '
      'iconv -f WINDOWS-1252 -t UTF-8'
    )
  return names


def batches(
  path: epath.Path,
  wanted: Collection[str],
  mark: str = ',',
  quoted: bool = True,
  loose: Collection[str] = (),
) -> Iterator[dict[str, pa.ChunkedArray]]:
  """Yields columns as text, some rows at a time; empty cells are ''.

  Args:
    path: the file, with a header; decompressed if its name ends in .gz or .zst.
    wanted: names of the columns to read.
    mark: the separator of cells.
    quoted: whether `"` around a cell may enclose separators and line ends.
    loose: descriptive columns. They are returned as bytes, and their encoding is not checked.

  Raises:
    ValueError: the file is invalid; the message names the file and the line.
  """
  types: Mapping[str, pa.DataType] = {
    name: pa.binary() if name in loose else pa.string() for name in wanted
  }
  width = len(_first(path, mark, quoted))
  has_end = quoted and bool(wanted)
  end = f'\n{_end(mark, width)}'.encode() if quoted else b''
  last = None  # of the batches, which holds the row of `_END`
  try:
    with raw_files.opened(path) as stream:
      reader = pyarrow.csv.open_csv(
        _Appended(path, stream, end),
        pyarrow.csv.ReadOptions(block_size=_BLOCK),
        pyarrow.csv.ParseOptions(
          delimiter=mark, quote_char='"' if quoted else False, newlines_in_values=quoted
        ),
        pyarrow.csv.ConvertOptions(
          column_types=types, include_columns=list(wanted), strings_can_be_null=False
        ),
      )
      for batch in reader:
        if last is not None:
          yield _columns(last, wanted)
        last = batch if len(batch) else last
  except pa.ArrowInvalid as error:
    raise _located_error(path, mark, quoted, error) from None
  if last is not None and has_end:
    last, row = last.slice(0, len(last) - 1), last.slice(len(last) - 1)
    if any(row[name].to_pylist() not in ([_END], [_END.encode()]) for name in wanted):
      raise _unclosed_quote(path, mark) or ValueError(f'{path}: must be a table of text')
  if last is not None:
    yield _columns(last, wanted)


def _columns(batch: pa.RecordBatch, wanted: Collection[str]) -> dict[str, pa.ChunkedArray]:
  return {name: pa.chunked_array([batch[name]]) for name in wanted}


def place(path: epath.Path, row: int, mark: str = ',', quoted: bool = True) -> str:
  """Returns the file and the line of a row, counted from 0 after the header."""
  rows = _cells(path, mark, quoted)
  next(rows)  # the header
  return f'{path}:{next(line for n, (line, _) in enumerate(rows) if n == row)}'


class _Appended(io.RawIOBase):
  """A stream with bytes appended; logs that the last line of a file may be cut."""

  def __init__(self, path: epath.Path, stream: BinaryIO, end: bytes):
    self._path, self._stream, self._end = path, stream, end
    self._last = b'\n'

  def readable(self) -> bool:
    return True

  def read(self, size: int = -1) -> bytes:
    found = self._stream.read(size)
    if found:
      self._last = found[-1:]
      return found
    if self._last not in (b'\n', b'\r'):
      _log.warning(
        '%s: the last line has no line end; if the file was cut, it is wrong', self._path
      )
      self._last = b'\n'
    found, self._end = self._end, b''
    return found


def _end(mark: str, width: int) -> str:
  return mark.join([_END] * width) + '\n'


def _unclosed_quote(path: epath.Path, mark: str) -> ValueError | None:
  """The error for a file that ends inside a quoted cell; None for any other file."""
  width = len(_first(path, mark, True))
  rows = _cells(path, mark, True, [_end(mark, width)])
  line, cells = collections.deque(rows, maxlen=1).pop()
  if cells == [_END] * width:
    return None
  return ValueError(
    f'{path}:{line}: a quote (") that opens a cell must be closed; this one contains the rest of the file. '
    'Close it, or double the quotes in a cell and put quotes around the cell'
  )


def _cells(
  path: epath.Path, mark: str, quoted: bool, more: Iterable[str] = ()
) -> Iterator[tuple[int, list[str]]]:
  """Yields for every row the number of its first line, and its cells as Arrow splits them.

  Args:
    path: the file.
    mark: the separator of cells.
    quoted: see `batches`.
    more: lines to read after those of the file.
  """
  quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
  limit, line = csv.field_size_limit(sys.maxsize), 1
  try:
    with raw_files.opened(path) as stream:
      text = io.TextIOWrapper(stream, 'utf-8-sig', 'replace', newline='')
      reader = csv.reader(itertools.chain(text, more), delimiter=mark, quoting=quoting)
      for cells in reader:
        if cells:
          yield line, cells
        line = reader.line_num + 1
  except csv.Error as error:
    raise ValueError(f'{path}:{line}: must be a row of a table; {error}') from None
  finally:
    csv.field_size_limit(limit)


def _located_error(path: epath.Path, mark: str, quoted: bool, error: Exception) -> ValueError:
  """The error for a file that Arrow rejected, with the line."""
  if quoted and (found := _unclosed_quote(path, mark)):
    return found
  width = len(_first(path, mark, quoted))
  for number, cells in _cells(path, mark, quoted):
    if len(cells) != width:
      return ValueError(
        f'{path}:{number}: must have {width} columns, as the first line; '
        f'got {len(cells)}: {records.short(mark.join(cells))}'
      )
  with raw_files.opened(path) as stream:
    for number, line in enumerate(stream, 1):
      try:
        line.decode()
      except UnicodeDecodeError:
        return ValueError(f'{path}:{number}: must be text in UTF-8; got {records.short(line)}')
  return ValueError(f'{path}: must be a table of text; {error}')
