"""Files of ranked items: histories with `recommendations`, as JSON lines, plain or compressed, or as Parquet."""

from collections.abc import Collection, Iterator, Sequence
import contextlib
import datetime
import decimal
import gzip
import itertools
import json
import re
import shutil
from typing import IO, Any

from etils import epath
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recjax.data.history_files import HistoryFile, Part
from recjax.data.requests import Recommendation

_RANKED = pa.list_(
  pa.struct([('item', pa.string()), ('title', pa.string()), ('score', pa.float32())])
)
_AT_ONCE = 1000  # lines whose types are inferred at once

Ranked = Sequence[Sequence[Recommendation]]


def writer(out: epath.PathLike, file: HistoryFile, skip_unknown: bool) -> 'JsonLines | Parquet':
  """Returns the writer for the name of an output file: `.parquet` or `.pq`, `.gz`, or any other for JSON lines.

  Raises:
    ValueError: the output cannot hold values of the input; see `JsonLines` and `Parquet`.
  """
  suffix = epath.Path(out).suffix
  if suffix in ('.parquet', '.pq'):
    return Parquet(file, skip_unknown)
  return JsonLines(file, suffix == '.gz')


class JsonLines:
  """Writes JSON lines."""

  def __init__(self, file: HistoryFile, is_gzip: bool):
    """Reads dates and texts of a Parquet file once, so that nothing fails after the ranking.

    Raises:
      ValueError: a date is none of the years 1 to 9999, or a text is not UTF-8.
    """
    self._path, self._is_gzip = file.path, is_gzip
    _check_values(file)

  def encoded(self, part: Part, ranked: Ranked) -> bytes:
    """Returns the lines of a part: its objects with the key `recommendations`."""
    objects = [row.fields for row in part.rows]
    if part.table is not None:
      with _one_message(f'{self._path}: every value must be one that JSON can hold', ''):
        columns = list(_other_columns(part.table, objects))
      objects = [row | fields for row, fields in zip(columns, objects, strict=True)]
    lines = [
      _line(fields | {'recommendations': [each._asdict() for each in items]})
      for fields, items in zip(objects, ranked, strict=True)
    ]
    content = ''.join(f'{line}\n' for line in lines).encode()
    return gzip.compress(content, compresslevel=6, mtime=0) if self._is_gzip else content

  def join(self, parts: Sequence[epath.Path], f: IO) -> None:
    """Concatenates parts; compressed ones are members of one gzip file."""
    for part in parts:
      with part.open('rb') as content:
        shutil.copyfileobj(content, f)


class Parquet:
  """Writes Parquet with the columns of the histories and `recommendations`, lists of item, title and score."""

  def __init__(self, file: HistoryFile, skip_unknown: bool):
    """Fixes the types of the columns; reads JSON lines for them.

    Raises:
      ValueError: a key has values of several types, or of a type that Parquet cannot hold.
    """
    self._path, self._skips = file.path, skip_unknown
    self._replaced = {'recommendations', *(['unknown'] if skip_unknown else [])}
    self._given = file.schema or _inferred(file, self._replaced)
    self._check_columns()

  def _check_columns(self) -> None:
    """Writes and reads every column without rows, so that one that Parquet lacks is found before the ranking."""
    for field in self._given:
      if field.name not in self._replaced:
        must = f'{self._path}: {field.name!r} must have values that Parquet can hold'
        with _one_message(must):
          pq.read_table(pa.BufferReader(_encoded(pa.schema([field]).empty_table())))

  def encoded(self, part: Part, ranked: Ranked) -> bytes:
    """Returns the rows of a part."""
    with _one_message(f'{self._path}: every value must be one that Parquet can hold'):
      return _encoded(self._table(part, ranked))

  def _table(self, part: Part, ranked: Ranked) -> pa.Table:
    table = part.table
    if table is None:
      table = pa.Table.from_pylist([row.fields for row in part.rows], schema=self._given)
    elif self._skips:
      table = _without_unknown(table, part)
    if self._skips:
      unknown = [list(map(str, row.unknown)) or None for row in part.rows]
      table = _with(table, 'unknown', pa.array(unknown, pa.list_(pa.string())))
    found = [[each._asdict() for each in items] for items in ranked]
    return _with(table, 'recommendations', pa.array(found, _RANKED))

  def join(self, parts: Sequence[epath.Path], f: IO) -> None:
    """Writes the rows of all parts; one part is in memory at a time."""
    out = None
    try:
      for part in parts:
        with part.open('rb') as content:
          table = pq.read_table(content, page_checksum_verification=True)
        out = out or pq.ParquetWriter(f, table.schema, compression='zstd', write_page_checksum=True)
        out.write_table(table)
    finally:
      if out is not None:
        out.close()


def _encoded(table: pa.Table) -> bytes:
  stream = pa.BufferOutputStream()
  pq.write_table(table, stream, compression='zstd', write_page_checksum=True)
  return stream.getvalue().to_pybytes()


@contextlib.contextmanager
def _one_message(must: str, remedy: str = '. Give --out a name that ends with .jsonl'):
  """Turns the errors of a conversion into a ValueError of one line that says what must hold."""
  try:
    yield
  except (pa.ArrowException, OSError, OverflowError, UnicodeError, ValueError) as error:
    raise ValueError(f'{must}; {_first_line(error)}{remedy}') from error


def _first_line(error: Exception) -> str:
  return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def _inferred(file: HistoryFile, replaced: Collection[str]) -> pa.Schema:
  """Returns the types of JSON lines as Arrow has them; an absent key is null.

  Args:
    file: the JSON lines.
    replaced: keys that the output has values of its own for.

  Raises:
    ValueError: a key has values of several types, or text that is not Unicode.
  """
  schema, kinds = pa.schema([]), set()
  for chunk in _chunks(file):
    for name in dict.fromkeys(name for _, fields in chunk for name in fields):
      if name in replaced:
        continue
      with _one_type(chunk, name):
        if name == 'history':  # ids may be strings and numbers; `Reader` checks them
          pa.array([str(item) for _, fields in chunk for item in fields[name]])
          found = pa.list_(pa.string())
        else:
          found = pa.array([fields.get(name) for _, fields in chunk]).type
        new = pa.schema([(name, found)])
        schema = pa.unify_schemas([schema, new], promote_options='permissive')
        kinds.add((name, found))
  mixed = {name for name, kind in kinds if kind not in (schema.field(name).type, pa.null())}
  for chunk in _chunks(file) if mixed else ():  # a value may not fit the type that all have
    for name in mixed:
      with _one_type(chunk, name):
        pa.array([fields.get(name) for _, fields in chunk], schema.field(name).type)
  return schema


def _chunks(file: HistoryFile) -> Iterator[list[tuple[str, dict[str, Any]]]]:
  objects = file.objects()
  while chunk := list(itertools.islice(objects, _AT_ONCE)):
    yield chunk


@contextlib.contextmanager
def _one_type(chunk: Sequence[tuple[str, dict[str, Any]]], name: str):
  """Turns the errors of the values of a key into a message with their place."""
  try:
    yield
  except UnicodeEncodeError as error:
    place = next(place for place, fields in chunk if _is_no_text([name, fields.get(name)]))
    raise ValueError(
      f'{place}: {name!r} must be Unicode text to be written as Parquet; got the lone surrogate '
      f'{error.object[error.start : error.start + 1]!r}. Give --out a name that ends with .jsonl'
    ) from error
  except (pa.ArrowException, OverflowError, ValueError) as error:
    raise ValueError(
      f'{chunk[0][0]} and the following lines: the values of {name!r} must have one type to be written as '
      f'Parquet; {_first_line(error)}. Give --out a name that ends with .jsonl'
    ) from error


def _is_no_text(value: Any) -> bool:
  try:
    json.dumps(value, ensure_ascii=False).encode()
  except UnicodeEncodeError:
    return True
  return False


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
  """Returns a table with a column at its end, in place of one of the same name."""
  if name in table.column_names:
    table = table.drop_columns([name])
  return table.append_column(name, column)


def _without_unknown(table: pa.Table, part: Part) -> pa.Table:
  """Returns the table without the unknown items of the histories, in all columns that are aligned with them."""
  read = {name for row in part.rows for name in ('history', *row.known)}
  for name in [name for name in table.column_names if name in read]:
    column = table[name].combine_chunks()
    kind = pa.list_(column.type.value_type)
    if any(row.is_known is not None for row in part.rows):
      column = _kept(column, [row.is_known for row in part.rows], kind)
    elif column.type != kind:
      column = column.cast(kind)
    table = table.set_column(table.column_names.index(name), name, column)
  return table


def _kept(lists: pa.Array, is_known: Sequence[list[bool] | None], kind: pa.DataType) -> pa.Array:
  """Returns lists without unknown items; a list of another length than its history stays as it is."""
  lengths = pc.fill_null(pc.list_value_length(lists), 0).to_pylist()
  kept = [
    known if known is not None and len(known) == length else [True] * length
    for known, length in zip(is_known, lengths, strict=True)
  ]
  values = pc.list_flatten(lists).filter(pa.array(list(itertools.chain(*kept)), pa.bool_()))
  offsets = pa.array([0, *itertools.accumulate(map(sum, kept))], pa.int32())
  mask = lists.is_null() if lists.null_count else None
  return pa.ListArray.from_arrays(offsets, values, type=kind, mask=mask)


def _other_columns(table: pa.Table, objects: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
  """Yields every row of a table as JSON values, with None in the columns that the objects have."""
  read = {name for fields in objects for name in fields}
  columns = [
    [None] * len(table) if name in read else _in_python(table[name]) for name in table.column_names
  ]
  for values in zip(*columns, strict=True):
    yield dict(zip(table.column_names, values, strict=True))


def _in_python(column: pa.ChunkedArray) -> list[Any]:
  """Returns the values of a column; Python has no nanoseconds, so they are cut to microseconds."""
  kind = _in_microseconds(column.type)
  return (column if kind == column.type else column.cast(kind, safe=False)).to_pylist()


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
  """Returns a type with microseconds in place of nanoseconds, at any depth."""
  inner = lambda field: field.with_type(_in_microseconds(field.type))  # noqa: E731
  if getattr(kind, 'unit', None) == 'ns':
    if pa.types.is_timestamp(kind):
      return pa.timestamp('us', kind.tz)
    return pa.duration('us') if pa.types.is_duration(kind) else pa.time64('us')
  if pa.types.is_struct(kind):
    return pa.struct([inner(field) for field in kind])
  if pa.types.is_map(kind):
    return pa.map_(inner(kind.key_field), inner(kind.item_field))
  if pa.types.is_fixed_size_list(kind):
    return pa.list_(inner(kind.value_field), kind.list_size)
  if pa.types.is_large_list(kind):
    return pa.large_list(inner(kind.value_field))
  return pa.list_(inner(kind.value_field)) if pa.types.is_list(kind) else kind


def _check_values(file: HistoryFile) -> None:
  """Raises a ValueError if Python has no date, or no text, for a value of a Parquet file."""
  kinds = (
    ('timestamp|date|duration|time(32|64)', _in_python, 'dates of the years 1 to 9999 in a known time zone'),
    ('string', lambda column: column.validate(full=True), 'text in UTF-8'),
  )  # fmt: skip
  for start, table in file.others():
    for name, (pattern, read, what) in itertools.product(table.column_names, kinds):
      if not re.search(pattern, str(table.schema.field(name).type)):
        continue
      must = f'{name!r} must have {what} to be written as JSON lines'
      remedy = '. Give --out a name that ends with .parquet'
      try:
        read(table[name])
      except (pa.ArrowException, OverflowError, ValueError):
        for n in range(len(table)):
          with _one_message(f'{file.path}, row {start + n + 1}: {must}', remedy):
            _in_python(table[name].slice(n, 1))


def _line(fields: dict[str, Any]) -> str:
  """Returns an object as JSON, with null for numbers that are not finite, which JSON does not have."""
  try:
    return json.dumps(fields, default=_as_json, allow_nan=False)
  except ValueError:
    plain = json.loads(json.dumps(fields, default=_as_json), parse_constant=lambda _: None)
    return json.dumps(plain, allow_nan=False)


def _as_json(value: Any) -> Any:
  """Returns a value of Parquet that JSON does not have as a string or a number."""
  if isinstance(value, datetime.date | datetime.time):
    return value.isoformat()
  if isinstance(value, datetime.timedelta):
    return value.total_seconds()
  if isinstance(value, decimal.Decimal):
    return str(value)
  if isinstance(value, bytes):
    return value.hex()
  return str(value)
