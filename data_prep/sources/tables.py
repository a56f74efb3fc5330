"""Reads tables, delimited or Parquet, in one file or several parts, into a raw log and its catalogue."""

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa

from data_prep.log.raw_log import ItemRecords
from data_prep.sources import columns, delimited, parquet, parts, records
from data_prep.sources.rows import Rows, decoded, join


@dataclasses.dataclass(frozen=True)
class Part:
  """A file of a table.

  Attributes:
    path: the file; Parquet if its name ends in .parquet, else delimited text.
    names: all columns, those of enclosing folders `<name>=<value>` too.
    stored: wanted column that exists → its name in the file.
    folders: wanted column of an enclosing folder → its value.
    fields: wanted column → config field of its name, for a message.
    mark: delimited text: the separator.
    quoted: delimited text: whether cells may be quoted.
    loose: descriptive columns, whose encoding is not checked.
    kinds: Parquet: wanted column → its type.
    group_rows: Parquet: number of rows of each row group.
  """

  path: epath.Path
  names: tuple[str, ...]
  stored: Mapping[str, str]
  folders: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  mark: str | None = None
  quoted: bool = True
  loose: tuple[str, ...] = ()
  kinds: Mapping[str, pa.DataType] = dataclasses.field(default_factory=dict)
  group_rows: tuple[int, ...] = ()

  @property
  def is_parquet(self) -> bool:
    return self.mark is None

  def kind(self, column: str) -> pa.DataType:
    """Returns the type of a column; null if the part lacks it."""
    if column in self.stored:
      return self.kinds[column] if self.is_parquet else pa.string()
    return pa.string() if column in self.folders else pa.null()

  def batches(
    self, wanted: Collection[str], groups: Sequence[int] | None = None, start: int = 0
  ) -> Iterator[Rows]:
    """Yields the wanted columns that exist, some rows at a time.

    Args:
      wanted: names of columns.
      groups: Parquet: the row groups to read; None: all.
      start: the number of rows before them.

    Raises:
      ValueError: the file is invalid; the message names the file and the line.
    """
    stored = {name: field for name, field in self.stored.items() if name in wanted}
    if self.is_parquet:
      found = parquet.batches(self.path, stored.values(), groups)
    else:
      loose = [field for name, field in stored.items() if name in self.loose]
      found = delimited.batches(self.path, stored.values(), self.mark, self.quoted, loose)
    for batch in found:
      columns = {name: batch[field] for name, field in stored.items()}
      count = len(next(iter(columns.values()), ()))
      columns |= {
        name: pa.chunked_array([pa.repeat(pa.scalar(value, pa.string()), count)])
        for name, value in self.folders.items()
        if name in wanted
      }
      yield Rows(self.path, columns, functools.partial(self.place, start), self.fields, self.names)
      start += count

  def place(self, start: int, row: int) -> str:
    """Returns the file and line of the row `start + row`, from 0."""
    if self.is_parquet:
      return f'{self.path}: row {start + row + 1}'
    return delimited.place(self.path, start + row, self.mark, self.quoted)

  def read(self) -> Rows:
    """Returns all wanted columns of all rows."""
    found = list(self.batches((*self.stored, *self.folders)))
    if not found:
      empty = {name: pa.chunked_array([], self.kind(name)) for name in self.stored}
      return Rows(self.path, empty, str, self.fields, self.names)
    columns = {
      name: pa.chunked_array([chunk for rows in found for chunk in rows.columns[name].chunks])
      if len({rows.columns[name].type for rows in found}) == 1
      else join(found).columns[name]
      for name in found[0].columns
    }
    return dataclasses.replace(found[0], columns=columns)


def find(
  paths: Sequence[epath.Path],
  wanted: Collection[str],
  required: Mapping[str, str],
  separator: str | None = None,
  loose: Collection[str] = (),
) -> list[Part]:
  """Returns the parts of a table, with the wanted columns that exist. Reads headers and footers alone.

  Args:
    paths: the files, in order.
    wanted: names of the columns to read, perhaps with the config field of each. Enclosing folders
      `<name>=<value>`, as Spark and Hive write them, are columns too.
    required: names of columns that must exist → the config field that sets the name.
    separator: `data.separator`.
    loose: descriptive columns, whose encoding is not checked.

  Raises:
    ValueError: a file is invalid or lacks a required column; the message names the file.
  """
  mark = delimited.separator(separator)
  return [_part(path, wanted, required, mark, loose) for path in paths]


def read(
  paths: Sequence[epath.Path],
  wanted: Collection[str],
  required: Mapping[str, str],
  separator: str | None = None,
  loose: Collection[str] = (),
) -> Rows:
  """Reads the wanted columns of a table that exist; see `find`.

  Raises:
    ValueError: a file is invalid or lacks a required column; the message names the file and the line.
  """
  return join([part.read() for part in find(paths, wanted, required, separator, loose)], loose)


def _part(
  path: epath.Path,
  wanted: Collection[str],
  required: Mapping[str, str],
  mark: str | None,
  loose: Collection[str],
) -> Part:
  is_parquet = path.suffix == '.parquet'
  contents = parquet.contents(path, wanted) if is_parquet else None
  if is_parquet:
    names = contents.names
  else:
    mark = delimited.find_separator(path, wanted) if mark is None else mark
    names = delimited.header(path, mark, True, wanted)
  folders = {name: value for name, value in parts.partition(path).items() if name not in names}
  missing = [name for name in required if name not in names and name not in folders]
  if missing:
    lacking = f'{"a column" if len(missing) == 1 else "columns"} {", ".join(map(repr, missing))}'
    raise ValueError(
      f'{path}{"" if is_parquet else ":1"}: must have {lacking}; it has {", ".join(map(repr, names))}. '
      f'Set {", ".join(f"--config.{required[name]}" for name in missing)}'
    )
  return Part(
    path,
    (*names, *folders),
    {name: name for name in names if name in wanted},
    {name: value for name, value in folders.items() if name in wanted},
    {**(wanted if isinstance(wanted, Mapping) else {}), **required},
    None if is_parquet else mark,
    loose=tuple(loose),
    kinds=contents.kinds if is_parquet else {},
    group_rows=tuple(contents.group_rows) if is_parquet else (),
  )


def catalogue(
  rows: Rows, item_column: str, fields: Mapping[str, tuple[records.Columns, records.Kind]]
) -> ItemRecords:
  """Returns the records of an item table, by raw id.

  Args:
    rows: the table.
    item_column: the column of item ids.
    fields: field of a record → columns and kind; missing columns are ignored.

  Raises:
    ValueError: the table is empty, or an id is invalid or occurs twice.
  """
  ids = columns.ids(rows, item_column)
  if not len(ids.codes):
    raise ValueError(f'{rows.path} must hold items; it holds none')
  if len(ids.texts) < len(ids.codes):
    is_first = np.zeros(len(ids.codes), bool)
    is_first[np.unique(ids.codes, return_index=True)[1]] = True
    row = int(np.argmin(is_first))
    raise ValueError(f'{rows.place(row)}: an item must be listed once; {ids[row]!r} is repeated')
  fields = {
    field: pair
    for field, pair in fields.items()
    if all(name in rows.columns for name in records.names(pair[0]))
  }
  values = {name: _whole(rows.columns[name]) for name in sorted(columns_of(fields))}
  return _Records(dataclasses.replace(rows, columns=values), fields, ids.names)


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
  """The column in one chunk, whose texts may be larger than 2 GiB together."""
  column = decoded(column)
  if pa.types.is_string(column.type):
    column = column.cast(pa.large_string())
  elif pa.types.is_binary(column.type):
    column = column.cast(pa.large_binary())
  return pa.chunked_array([column.combine_chunks()]) if column.num_chunks > 1 else column


class _Records(ItemRecords):
  """The records of a table, whose rows are converted when they are asked for."""

  def __init__(
    self,
    rows: Rows,
    fields: Mapping[str, tuple[records.Columns, records.Kind]],
    ids: Sequence[str],
  ):
    self._table, self._fields = rows, fields
    self._rows = {name: row for row, name in enumerate(ids)}

  def __len__(self) -> int:
    return len(self._rows)

  def __iter__(self) -> Iterator[str]:
    return iter(self._rows)

  def __contains__(self, name: Any) -> bool:
    return name in self._rows

  def __getitem__(self, name: str) -> dict[str, Any]:
    return self._read([self._rows[name]])[0]

  def many(self, names: Sequence[str]) -> list[dict[str, Any] | None]:
    rows = [self._rows.get(name) for name in names]
    found = iter(self._read([row for row in rows if row is not None]))
    return [None if row is None else next(found) for row in rows]

  def _read(self, rows: Sequence[int]) -> list[dict[str, Any]]:
    columns_of_rows = {
      name: column.take(pa.array(rows, pa.int64())) for name, column in self._table.columns.items()
    }
    part = dataclasses.replace(self._table, columns=columns_of_rows)
    cells = [columns.texts(part, name) for name in columns_of_rows]
    values = zip(*cells, strict=True) if cells else (() for _ in rows)
    return [
      records.record(dict(zip(columns_of_rows, row, strict=True)), self._fields) for row in values
    ]


def columns_of(fields: Mapping[str, tuple[records.Columns, records.Kind]]) -> set[str]:
  """Returns the columns that hold fields of a record (see `catalogue`)."""
  return {name for given, _ in fields.values() for name in records.names(given)}
