"""Files of histories, read a part at a time: JSON lines, plain or `.gz`, and Parquet.

A line is an object with a list `history` of raw item ids, oldest first; other keys are kept. In a Parquet file
`history` is a column of lists, whose other columns are kept with their types. The content tells the format: a Parquet
file begins with PAR1, a compressed one with the bytes of gzip.
"""

import collections
from collections.abc import Iterator, Sequence
import contextlib
import gzip
import hashlib
import itertools
import json
from typing import Any, BinaryIO, NamedTuple
import zlib

from etils import epath
import pyarrow as pa
import pyarrow.parquet as pq

from recjax.data.histories import Reader, Row
from recjax.runtime.files import existing

_PARQUET, _GZIP = b'PAR1', b'\x1f\x8b'
PART_SIZE = 16_384  # histories that are ranked and saved together
_BEGINNING = 1000  # histories that `check_histories` reads
_BLOCK = 1 << 20  # bytes
_REMEDY = 'Set --skip_unknown to leave such items out'


class Part(NamedTuple):
  """Consecutive histories of a file.

  Attributes:
    rows: the histories.
    table: the rows of a Parquet file, as they are in it. None: the file holds JSON lines.
  """

  rows: list[Row]
  table: pa.Table | None


class Count(NamedTuple):
  """What a file holds.

  Attributes:
    histories: their number.
    unknown: number of items that were left out.
    having_unknown: number of histories with such items.
  """

  histories: int
  unknown: int
  having_unknown: int


class HistoryFile:
  """A file of histories.

  Attributes:
    path: the file.
    schema: of a Parquet file. None: the file holds JSON lines.
  """

  def __init__(self, path: epath.PathLike, columns: Sequence[str] = ()):
    """Opens a file.

    Args:
      path: the file.
      columns: the columns beside `history` that the model reads: `times`, `events`, both or none.

    Raises:
      OSError: the path is not a file.
      ValueError: it is a damaged Parquet file, has no column `history` of lists, or two columns of one name.
    """
    self.path = existing(path, '--histories', 'file')
    with self.path.open('rb') as f:
      start = f.read(4)
    self._is_gzip, self.schema = start.startswith(_GZIP), None
    if start == _PARQUET or self.path.suffix in ('.parquet', '.pq'):
      with self._parquet() as file:
        self.schema = file.schema_arrow
      self._check_schema()
    self._columns = [name for name in ('history', *columns) if self._has(name)]

  def digest(self) -> str:
    """Returns the SHA-256 of the file's bytes."""
    with self.path.open('rb') as f:
      return hashlib.file_digest(f, 'sha256').hexdigest()

  def objects(self, first: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the place of every history in words, and its object: for Parquet its columns that the model reads.

    Args:
      first: number of histories that are left out at the beginning, unread.

    Raises:
      ValueError: a line is not an object with a list `history`, or the file is damaged.
    """
    if self.schema is None:
      yield from self._lines(first)
      return
    for start, table in self._tables(_BEGINNING, first):
      yield from self._objects(start, table)

  def others(self) -> Iterator[tuple[int, pa.Table]]:
    """Yields the number of the first row and the columns that the model does not read, some rows at a time.

    Raises:
      ValueError: the file is damaged.
    """
    if self.schema is not None:
      for start, table in self._tables(_BEGINNING, 0):
        yield start, table.drop_columns(self._columns)

  def parts(
    self, reader: Reader, size: int, skip_unknown: bool = False, first: int = 0
  ) -> Iterator[Part]:
    """Yields consecutive parts of `size` histories; the last one may be shorter.

    Args:
      reader: looks items up.
      size: histories of a part.
      skip_unknown: see `Reader.row`.
      first: number of histories that are left out at the beginning.

    Raises:
      ValueError: see `objects` and `Reader.row`.
    """

    def row(pair: tuple[str, dict[str, Any]]) -> Row:
      place, fields = pair
      return reader.row(fields, place, skip_unknown, _REMEDY)

    if self.schema is None:
      objects = self._lines(first)
      while rows := [row(pair) for pair in itertools.islice(objects, size)]:
        yield Part(rows, None)
      return
    for start, table in self._tables(size, first):
      yield Part([row(pair) for pair in self._objects(start, table)], table)

  def check(self, reader: Reader, skip_unknown: bool = False) -> Count:
    """Reads every history, so that a bad one is found before anything is ranked.

    Raises:
      ValueError: see `parts`; or the file has no history.
    """
    count = unknown = having = 0
    for part in self.parts(reader, _BEGINNING, skip_unknown):
      left_out = [len(row.unknown) for row in part.rows]
      unknown, having = unknown + sum(left_out), having + sum(map(bool, left_out))
      count += len(part.rows)
    if not count:
      raise self._is_empty()
    return Count(count, unknown, having)

  def check_beginning(self) -> None:
    """Checks the format of the first histories.

    Raises:
      ValueError: see `objects`; or the file has no history.
    """
    if not sum(1 for _ in itertools.islice(self.objects(), _BEGINNING)):
      raise self._is_empty()

  def _is_empty(self) -> ValueError:
    return ValueError(f'{self.path} must hold at least one history; it is empty. Set --histories')

  def _has(self, name: str) -> bool:
    return self.schema is None or name in self.schema.names

  @contextlib.contextmanager
  def _opened(self) -> Iterator[BinaryIO]:
    """Opens JSON lines, decompressed."""
    with self.path.open('rb') as f:
      if not self._is_gzip:
        yield f
        return
      try:
        with gzip.GzipFile(fileobj=f) as unpacked:
          yield unpacked
      except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
          f'{self.path} must be a whole gzip file; it is damaged: {error}'
        ) from error

  def _lines(self, first: int) -> Iterator[tuple[str, dict[str, Any]]]:
    with self._opened() as f:
      # A binary file ends a line at a line feed only; JSON strings may contain other separators.
      lines = ((number, line) for number, line in enumerate(f, 1) if line.strip())
      for number, line in itertools.islice(lines, first, None):
        place = f'{self.path}:{number}'
        try:
          row = json.loads(line.decode('utf-8-sig'))
        except (ValueError, RecursionError) as error:
          raise ValueError(f'{place}: a line must be a JSON object; {error}') from error
        if not isinstance(row, dict) or not isinstance(row.get('history'), list):
          raise ValueError(
            f'{place}: a line must be an object with a list "history"; got {line.rstrip()[:80]!r}'
          )
        yield place, row

  @contextlib.contextmanager
  def _parquet(self) -> Iterator[pq.ParquetFile]:
    try:
      with self.path.open('rb') as f, pq.ParquetFile(f) as file:
        yield file
    except (pa.ArrowException, OSError) as error:
      why = str(error).splitlines()[0][:200]
      raise ValueError(f'{self.path} must be a whole Parquet file; {why}') from error

  def _check_schema(self) -> None:
    for name, count in collections.Counter(self.schema.names).items():
      if count > 1:
        raise ValueError(
          f'{self.path}: every column must have a name of its own; {name!r} is the name of {count}. Rename them'
        )
    if 'history' not in self.schema.names:
      found = ', '.join(self.schema.names[:20])
      raise ValueError(
        f'{self.path} must have a column history of lists of item ids; it has {found}'
      )
    kind = self.schema.field('history').type
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(kind) for test in is_list):
      raise ValueError(f'{self.path}: the column history must hold lists of item ids; got {kind}')

  def _tables(self, size: int, first: int) -> Iterator[tuple[int, pa.Table]]:
    """Yields the number of the first row and `size` rows at a time."""
    with self._parquet() as file:
      start, waiting = 0, []
      for batch in file.iter_batches(batch_size=min(size, 8192)):
        begin = max(first - start, 0)
        start += len(batch)
        if begin < len(batch):
          waiting.append(batch.slice(begin))
        while (held := sum(map(len, waiting))) >= size:
          table = pa.Table.from_batches(waiting)
          yield start - held, table.slice(0, size)
          waiting = table.slice(size).to_batches()
      if waiting:
        yield start - sum(map(len, waiting)), pa.Table.from_batches(waiting)

  def _objects(self, start: int, table: pa.Table) -> Iterator[tuple[str, dict[str, Any]]]:
    columns = {name: _plain(table[name]).to_pylist() for name in self._columns}
    for n, values in enumerate(zip(*columns.values(), strict=True), start + 1):
      place = f'{self.path}, row {n}'
      fields = dict(zip(columns, values, strict=True))
      if fields['history'] is None:
        raise ValueError(f'{place}: a row must have a list in the column history; it has none')
      yield place, {name: value for name, value in fields.items() if value is not None}


def check_histories(path: epath.PathLike) -> None:
  """Checks the beginning of a file without the data set; call it before preparing data.

  Raises:
    OSError: the path is not a file.
    ValueError: see `HistoryFile` and `HistoryFile.check_beginning`.
  """
  HistoryFile(path).check_beginning()


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
  """Returns a column with lists of seconds since 1970 in place of lists of timestamps."""
  kind = column.type
  if hasattr(kind, 'value_type') and pa.types.is_timestamp(kind.value_type):
    seconds = pa.list_(pa.timestamp('s', kind.value_type.tz))
    return column.cast(seconds, safe=False).cast(pa.list_(pa.int64()))
  return column
