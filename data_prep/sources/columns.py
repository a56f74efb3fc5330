"""Columns of CSV and Parquet files, checked as a whole: tens of millions of rows in seconds.

Reading goes through Arrow. Its messages name no line where it reads with several threads, so whatever
it refuses is looked for again, slowly, by Python's own reader, which knows the line.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import contextlib
import csv
import dataclasses
import io
import sys
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from data_prep.sources import raw_files, records

_BLOCK = 1 << 24  # bytes that are parsed at once; a row must fit
_TICKS = {'s': 1, 'ms': 10**3, 'us': 10**6, 'ns': 10**9}  # of each unit a second
_TIMES = (
  pa.int64(),
  pa.float64(),
  *(pa.timestamp(unit, zone) for unit in ('us', 'ns') for zone in (None, 'UTC')),
)


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows of a file.

  Attributes:
    path: the file.
    columns: name → values.
    place: a row, from 0 → where it is, for a message.
  """

  path: epath.Path
  columns: Mapping[str, pa.ChunkedArray]
  place: Callable[[int], str]

  def refuse(self, row: int, must: str, got: Any) -> ValueError:
    return ValueError(f'{self.place(row)}: {must}; got {records.short(got)}')


def read(path: epath.Path, wanted: Collection[str], required: Mapping[str, str]) -> Rows:
  """Those of the wanted columns that a CSV (comma, UTF-8, a header) or Parquet file has.

  Args:
    path: ends in .parquet, else CSV, perhaps gzipped.
    wanted: names of columns; the others are not read.
    required: the names that must be there → the config field that names them.

  Raises:
    ValueError: the file is broken or lacks a column; the message names it, and the line.
  """
  is_parquet = path.suffix == '.parquet'
  names = _parquet_names(path) if is_parquet else header(path)
  for name, field in required.items():
    if name not in names:
      raise ValueError(
        f'{path}{"" if is_parquet else ":1"}: must have a column {name!r}; it has '
        f'{", ".join(map(repr, names))}. Set --config.{field}'
      )
  present = [name for name in names if name in wanted]
  return _read_parquet(path, present) if is_parquet else read_csv(path, present)


def header(path: epath.Path, delimiter: str = ',', quoted: bool = True) -> list[str]:
  """The names in the first line of a CSV file.

  Raises:
    ValueError: the file is empty or a name occurs twice.
  """
  first = next(_cells(path, delimiter, quoted), (1, []))[1]
  if not first or len(set(first)) < len(first):
    raise ValueError(
      f'{path}:1: the first line must name the columns, each once; got {records.short(first)}'
    )
  return first


def read_csv(
  path: epath.Path, wanted: Collection[str], delimiter: str = ',', quoted: bool = True
) -> Rows:
  """Columns of a CSV file in UTF-8 as text, empty cells as ''.

  Args:
    path: has a header; gzipped if it ends in `.gz`.
    wanted: names in the header.
    delimiter: between cells.
    quoted: whether `"` around a cell may enclose delimiters and line ends.

  Raises:
    ValueError: the file is broken; the message names it, and the line.
  """
  try:
    with raw_files.opened(path) as stream:
      table = pyarrow.csv.read_csv(
        stream,
        pyarrow.csv.ReadOptions(block_size=_BLOCK),
        pyarrow.csv.ParseOptions(
          delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
        ),
        pyarrow.csv.ConvertOptions(
          column_types=dict.fromkeys(wanted, pa.string()),
          include_columns=list(wanted),
          strings_can_be_null=False,
        ),
      )
  except pa.ArrowInvalid as error:
    raise _explained(path, delimiter, quoted, error) from None

  def place(row: int) -> str:
    rows = _cells(path, delimiter, quoted)
    next(rows)  # the header
    return f'{path}:{next(line for n, (line, _) in enumerate(rows) if n == row)}'

  return Rows(path, {name: table[name] for name in wanted}, place)


def _cells(path: epath.Path, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
  """The first line's number and the cells of every row, as Arrow cuts them."""
  quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
  limit, line = csv.field_size_limit(sys.maxsize), 1
  try:
    with raw_files.opened(path) as stream:
      text = io.TextIOWrapper(stream, 'utf-8-sig', 'replace', newline='')
      reader = csv.reader(text, delimiter=delimiter, quoting=quoting)
      for cells in reader:
        if cells:
          yield line, cells
        line = reader.line_num + 1
  except csv.Error as error:
    raise ValueError(f'{path}:{line}: must be a row of a table; {error}') from None
  finally:
    csv.field_size_limit(limit)


def _explained(path: epath.Path, delimiter: str, quoted: bool, error: Exception) -> ValueError:
  """What Arrow refused, with the line."""
  with raw_files.opened(path) as stream:
    for number, line in enumerate(stream, 1):
      try:
        line.decode()
      except UnicodeDecodeError:
        return ValueError(f'{path}:{number}: must be text in UTF-8; got {records.short(line)}')
  width = len(header(path, delimiter, quoted))
  for number, cells in _cells(path, delimiter, quoted):
    if len(cells) != width:
      return ValueError(
        f'{path}:{number}: must have {width} columns, as the first line; '
        f'got {len(cells)}: {records.short(delimiter.join(cells))}'
      )
  return ValueError(f'{path}: must be a table of text; {error}')


def _parquet_names(path: epath.Path) -> list[str]:
  with _parquet(path) as file:
    names = file.schema_arrow.names
  if len(set(names)) < len(names):
    raise ValueError(f'{path}: must name each column once; got {records.short(names)}')
  return names


def _read_parquet(path: epath.Path, wanted: Collection[str]) -> Rows:
  with _parquet(path) as file:
    table = file.read(columns=list(wanted))
  return Rows(path, {name: table[name] for name in wanted}, lambda row: f'{path}: row {row + 1}')


@contextlib.contextmanager
def _parquet(path: epath.Path) -> Iterator[pyarrow.parquet.ParquetFile]:
  try:
    with path.open('rb') as stream:
      yield pyarrow.parquet.ParquetFile(stream)
  except (pa.ArrowException, OSError) as error:
    raise ValueError(f'{path}: must be a whole Parquet file; {error}') from None


@dataclasses.dataclass(frozen=True)
class Ids:
  """A column of ids.

  Attributes:
    names: the different ids, as they first occur.
    codes: int32 `[N]`: which of them a row holds.
  """

  names: list[str]
  codes: np.ndarray

  def strings(self) -> np.ndarray:
    """str `[N]`."""
    return np.array(self.names, str)[self.codes]


def ids(rows: Rows, column: str) -> Ids:
  """A column of text or of integers as ids.

  Raises:
    ValueError: it is of another type, or an id is missing, too long or cannot be printed.
  """
  values = rows.columns[column]
  if pa.types.is_dictionary(values.type):
    values = values.cast(values.type.value_type)  # its dictionary may hold what no row does
  if not (_is_text(values.type) or pa.types.is_integer(values.type)):
    raise ValueError(f'{rows.path}: column {column} must hold text or integers; got {values.type}')
  _refuse_nulls(rows, column)
  if not len(values):
    return Ids([], np.zeros(0, np.int32))
  encoded = values.dictionary_encode().unify_dictionaries().combine_chunks()
  texts = encoded.dictionary.cast(pa.large_string())
  names, codes = texts.to_pylist(), encoded.indices.to_numpy()
  # What is short and plain is an id for certain, and most are; the others are looked at one by one.
  plain = pc.match_substring_regex(texts, '^[!-~]{1,100}$')
  for code in np.flatnonzero(~plain.to_numpy(zero_copy_only=False)):
    try:
      records.identifier(names[code], column)
    except ValueError as error:
      raise ValueError(f'{rows.place(int(np.argmax(codes == code)))}: {error}') from None
  return Ids(names, codes)


def known(rows: Rows, items: Ids, catalogue: Collection[str], where: epath.Path) -> None:
  """Checks that the catalogue has every item.

  Raises:
    ValueError: it lacks one; the message names the first row that holds it.
  """
  unknown = np.array([name not in catalogue for name in items.names], bool)
  if unknown.any():
    row = int(np.argmax(unknown[items.codes]))
    raise rows.refuse(row, f'an item must be in {where.name}', items.names[items.codes[row]])


def times(rows: Rows, column: str) -> tuple[np.ndarray, int]:
  """A column of times as int64 `[N]` that grow with them, and how many of their units make a second.

  Integers, and numbers if all are whole, are seconds; beyond 1e11, which seconds reach in the year 5138, they are
  milliseconds, beyond 1e14 microseconds, beyond 1e17 nanoseconds. Other numbers become millionths of a second.
  Dates and timestamps count from 1970 in the unit that they are precise to.

  Raises:
    ValueError: it holds neither integers, nor numbers, nor timestamps, nor dates of ISO 8601.
  """
  values = rows.columns[column]
  _refuse_nulls(rows, column)
  if _is_text(values.type):
    values = _cast(rows, column, _TIMES, 'an integer, a number or a date of ISO 8601')
  if pa.types.is_floating(values.type):
    return _millionths(rows, column, values)
  if pa.types.is_date(values.type):
    values = values.cast(pa.timestamp('ms'))
  if not pa.types.is_timestamp(values.type) and not pa.types.is_integer(values.type):
    raise ValueError(f'{rows.path}: column {column} must hold times; got {values.type}')
  if values.type == pa.uint64():
    return _millionths(rows, column, values.cast(pa.float64(), safe=False))
  counts = values.cast(pa.int64()).to_numpy()
  is_timestamp = pa.types.is_timestamp(values.type)
  return counts, _TICKS[values.type.unit] if is_timestamp else _ticks_of(counts)


def _ticks_of(counts: np.ndarray) -> int:
  """The unit that whole numbers are too large for to be of any before it."""
  largest = max(abs(int(counts.max())), abs(int(counts.min()))) if len(counts) else 0
  for limit, unit in ((10**11, 's'), (10**14, 'ms'), (10**17, 'us')):
    if largest < limit:
      return _TICKS[unit]
  return _TICKS['ns']


def _millionths(rows: Rows, column: str, values: pa.ChunkedArray) -> tuple[np.ndarray, int]:
  seconds = values.cast(pa.float64()).to_numpy()
  finite = np.isfinite(seconds)
  is_whole = bool((seconds[finite] % 1 == 0).all())
  scaled = seconds if is_whole else np.rint(seconds * _TICKS['us'])
  fits = finite & (np.abs(scaled) < 2.0**63)
  if not fits.all():
    row = int(np.argmin(fits))
    raise rows.refuse(row, f'{column} must be a time that 64 bits can hold', seconds[row])
  counts = scaled.astype(np.int64)
  return counts, _ticks_of(counts) if is_whole else _TICKS['us']


def numbers(rows: Rows, column: str) -> np.ndarray:
  """A column of finite numbers as float32 `[N]`.

  Raises:
    ValueError: a value is none.
  """
  values = rows.columns[column]
  _refuse_nulls(rows, column)
  if _is_text(values.type):
    values = _cast(rows, column, (pa.float64(),), 'a finite number')
  if not _is_number(values.type):
    raise ValueError(f'{rows.path}: column {column} must hold numbers; got {values.type}')
  wide = values.cast(pa.float64(), safe=False).to_numpy()
  fits = np.abs(wide) < 1e38  # False for NaN
  if not fits.all():
    row = int(np.argmin(fits))
    raise rows.refuse(row, f'{column} must be a finite number', wide[row])
  return wide.astype(np.float32)


def _is_text(kind: pa.DataType) -> bool:
  return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
  return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _refuse_nulls(rows: Rows, column: str) -> None:
  values = rows.columns[column]
  if values.null_count:
    row = pc.index(pc.is_null(values), True).as_py()
    raise ValueError(f'{rows.place(row)}: {column} must be there; got none')


def _cast(rows: Rows, column: str, kinds: Collection[pa.DataType], must: str) -> pa.ChunkedArray:
  """The text as the first kind that all of it is written in."""
  values = rows.columns[column]
  for kind in kinds:
    try:
      return values.cast(kind)
    except pa.ArrowInvalid:
      continue
  row = max(_first_failure(values, kind) for kind in kinds)
  raise rows.refuse(row, f'{column} must be {must}, in all rows alike', values[row].as_py())


def _first_failure(values: pa.ChunkedArray, kind: pa.DataType) -> int:
  """The first row that is not written in a kind, of a column of which some row is not."""
  low, high = 0, len(values)
  while high - low > 1:
    middle = (low + high) // 2
    try:
      values.slice(low, middle - low).cast(kind)
      low = middle
    except pa.ArrowInvalid:
      high = middle
  return low
