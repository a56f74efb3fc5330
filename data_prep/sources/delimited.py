"""Delimited text: UTF-8 with a header, cells separated by commas, tabs, semicolons or bars.

Arrow reads the files. Its messages name no line if it reads with several threads; after an error, Python's own,
slower reader finds the line.
"""

from collections.abc import Collection, Iterator, Mapping
import csv
import io
import sys

from etils import epath
import pyarrow as pa
import pyarrow.csv

from data_prep.sources import raw_files, records
from data_prep.sources.rows import Rows
from recjax.schema.checks import check

SEPARATORS = (',', '\t', ';', '|')  # detected if the config sets none
_BLOCK = 1 << 24  # bytes per parsed block; a row must fit into one
_NAMED = {'tab': '\t', '\\t': '\t'}


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


def header(path: epath.Path, mark: str = ',', quoted: bool = True) -> list[str]:
  """Returns the column names in the first line.

  Raises:
    ValueError: the file is empty or a name occurs twice.
  """
  first = _first(path, mark, quoted)
  if not first or len(set(first)) < len(first):
    raise ValueError(
      f'{path}:1: the first line must name the columns, each once; got {records.short(first)}'
    )
  return first


def _first(path: epath.Path, mark: str, quoted: bool) -> list[str]:
  return next(_cells(path, mark, quoted), (1, []))[1]


def read(
  path: epath.Path,
  wanted: Collection[str],
  mark: str = ',',
  quoted: bool = True,
  loose: Collection[str] = (),
) -> Rows:
  """Returns columns as text; empty cells are ''.

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
  try:
    with raw_files.opened(path) as stream:
      table = pyarrow.csv.read_csv(
        stream,
        pyarrow.csv.ReadOptions(block_size=_BLOCK),
        pyarrow.csv.ParseOptions(
          delimiter=mark, quote_char='"' if quoted else False, newlines_in_values=quoted
        ),
        pyarrow.csv.ConvertOptions(
          column_types=types, include_columns=list(wanted), strings_can_be_null=False
        ),
      )
  except pa.ArrowInvalid as error:
    raise _located_error(path, mark, quoted, error) from None

  def place(row: int) -> str:
    rows = _cells(path, mark, quoted)
    next(rows)  # the header
    return f'{path}:{next(line for n, (line, _) in enumerate(rows) if n == row)}'

  return Rows(path, {name: table[name] for name in wanted}, place)


def _cells(path: epath.Path, mark: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
  """Yields for every row the number of its first line, and its cells as Arrow splits them."""
  quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
  limit, line = csv.field_size_limit(sys.maxsize), 1
  try:
    with raw_files.opened(path) as stream:
      text = io.TextIOWrapper(stream, 'utf-8-sig', 'replace', newline='')
      reader = csv.reader(text, delimiter=mark, quoting=quoting)
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
  width = len(header(path, mark, quoted))
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
