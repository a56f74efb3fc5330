"""Files of ranked items: histories with `recommendations`, as JSON lines, plain or compressed, or as Parquet."""

from collections.abc import Iterator, Sequence
import datetime
import decimal
import gzip
import itertools
import json
import math
import shutil
from typing import IO, Any

from etils import epath
import pyarrow as pa
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
    ValueError: the output is Parquet, and a key of the JSON lines has values of several types.
  """
  suffix = epath.Path(out).suffix
  if suffix in ('.parquet', '.pq'):
    return Parquet(file, skip_unknown)
  return JsonLines(suffix == '.gz')


class JsonLines:
  """Writes JSON lines."""

  def __init__(self, is_gzip: bool):
    self._is_gzip = is_gzip

  def encoded(self, part: Part, ranked: Ranked) -> bytes:
    """Returns the lines of a part: its objects with the key `recommendations`."""
    objects = [row.fields for row in part.rows]
    if part.table is not None:
      objects = list(map(_merged, _other_columns(part.table, objects), objects))
    lines = [
      json.dumps(fields | {'recommendations': [each._asdict() for each in items]}, default=_as_json)
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
    """Fixes the types of the columns; reads JSON lines once for them.

    Raises:
      ValueError: a key has values of several types.
    """
    self._skips = skip_unknown
    self._given = file.schema or _inferred(file)

  def encoded(self, part: Part, ranked: Ranked) -> bytes:
    """Returns the rows of a part."""
    table = part.table
    if table is None:
      table = pa.Table.from_pylist([row.fields for row in part.rows], schema=self._given)
    elif self._skips:
      table = _without_unknown(table, part)
    if self._skips:
      unknown = [list(map(str, row.unknown)) or None for row in part.rows]
      table = _with(table, 'unknown', pa.array(unknown, pa.list_(pa.string())))
    found = [[each._asdict() for each in items] for items in ranked]
    table = _with(table, 'recommendations', pa.array(found, _RANKED))
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression='zstd', write_page_checksum=True)
    return stream.getvalue().to_pybytes()

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


def _inferred(file: HistoryFile) -> pa.Schema:
  """Returns the types of JSON lines as Arrow has them; an absent key is null.

  Raises:
    ValueError: a key has values of several types.
  """
  objects = file.objects()
  schema = pa.schema([])
  while chunk := list(itertools.islice(objects, _AT_ONCE)):
    names = list(dict.fromkeys(name for _, fields in chunk for name in fields))
    for name in names:
      try:
        if name == 'history':  # ids may be strings and numbers; `Reader` checks them
          found = pa.list_(pa.string())
        else:
          found = pa.array([fields.get(name) for _, fields in chunk]).type
        new = pa.schema([(name, found)])
        schema = pa.unify_schemas([schema, new], promote_options='permissive')
      except (pa.ArrowException, OverflowError) as error:
        raise ValueError(
          f'{chunk[0][0]} and the following lines: the values of {name!r} must have one type to be written as '
          f'Parquet; {str(error).splitlines()[0][:120]}. Give --out a name that ends with .jsonl'
        ) from error
  return schema


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
  """Returns a table with a column at its end, in place of one of the same name."""
  if name in table.column_names:
    table = table.drop_columns([name])
  return table.append_column(name, column)


def _without_unknown(table: pa.Table, part: Part) -> pa.Table:
  """Returns the table without the unknown items of the histories, in all columns that are aligned with them."""
  read = {name for row in part.rows for name in ('history', *row.known)}
  for name in [name for name in table.column_names if name in read]:
    column = table[name]
    kind = pa.list_(column.type.value_type)
    if any(row.is_known is not None for row in part.rows):
      lists = map(_kept, column.to_pylist(), (row.is_known for row in part.rows))
      column = pa.array(list(lists), kind)
    elif column.type != kind:
      column = column.cast(kind)
    table = table.set_column(table.column_names.index(name), name, column)
  return table


def _kept(values: list[Any] | None, is_known: list[bool] | None) -> list[Any] | None:
  if values is None or is_known is None or len(values) != len(is_known):
    return values
  return list(itertools.compress(values, is_known))


def _other_columns(table: pa.Table, objects: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
  """Yields every row of a table as JSON values, with None in the columns that the objects have."""
  read = {name for fields in objects for name in fields}
  columns = []
  for name in table.column_names:
    column = table[name]
    if name in read:
      columns.append([None] * len(table))
      continue
    if pa.types.is_timestamp(column.type) and column.type.unit == 'ns':
      column = column.cast(pa.timestamp('us', column.type.tz), safe=False)
    columns.append(column.to_pylist())
  for values in zip(*columns, strict=True):
    yield dict(zip(table.column_names, values, strict=True))


def _merged(row: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
  """Returns a row with the values that were read, and without NaN, which JSON does not have."""
  plain = {
    name: None if isinstance(value, float) and not math.isfinite(value) else value
    for name, value in row.items()
  }
  return plain | fields


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
