"""Reads tables, delimited or Parquet, in one file or several parts, into a raw log and its catalogue."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa

from data_prep.log.raw_log import RawLog
from data_prep.sources import base, columns, delimited, parquet, parts, records, times
from data_prep.sources.rows import Rows, join


def read(
  paths: Sequence[epath.Path],
  wanted: Collection[str],
  required: Mapping[str, str],
  separator: str | None = None,
  loose: Collection[str] = (),
) -> Rows:
  """Reads the wanted columns of a table that exist.

  Args:
    paths: the parts, in order; Parquet if the name ends in .parquet, else delimited text.
    wanted: names of the columns to read, perhaps with the config field of each. Enclosing folders
      `<name>=<value>`, as Spark and Hive write them, are columns too.
    required: names of columns that must exist → the config field that sets the name.
    separator: `data.separator`.
    loose: descriptive columns, whose encoding is not checked.

  Raises:
    ValueError: a file is invalid or lacks a required column; the message names the file and the line.
  """
  mark = delimited.separator(separator)
  return join([_read_part(path, wanted, required, mark, loose) for path in paths], loose)


def _read_part(
  path: epath.Path,
  wanted: Collection[str],
  required: Mapping[str, str],
  mark: str | None,
  loose: Collection[str],
) -> Rows:
  is_parquet = path.suffix == '.parquet'
  if not is_parquet and mark is None:
    mark = delimited.find_separator(path, wanted)
  names = parquet.names(path, wanted) if is_parquet else delimited.header(path, mark, True, wanted)
  folders = {name: value for name, value in parts.partition(path).items() if name not in names}
  for name, field in required.items():
    if name not in names and name not in folders:
      raise ValueError(
        f'{path}{"" if is_parquet else ":1"}: must have a column {name!r}; it has '
        f'{", ".join(map(repr, names))}. Set --config.{field}'
      )
  present = [name for name in names if name in wanted]
  if is_parquet:
    rows = parquet.read(path, present)
  else:
    rows = delimited.read(path, present, mark, loose=[name for name in present if name in loose])
  constant = {
    name: pa.chunked_array([pa.array([value] * len(rows), pa.string())])
    for name, value in folders.items()
    if name in wanted
  }
  fields = {**(wanted if isinstance(wanted, Mapping) else {}), **required}
  return dataclasses.replace(
    rows, columns={**rows.columns, **constant}, fields=fields, names=(*names, *folders)
  )


def catalogue(
  rows: Rows, item_column: str, fields: Mapping[str, tuple[records.Columns, records.Kind]]
) -> dict[str, dict[str, Any]]:
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
  fields = {
    field: pair
    for field, pair in fields.items()
    if all(name in rows.columns for name in records.names(pair[0]))
  }
  names = sorted(columns_of(fields))
  values = zip(*(columns.texts(rows, name) for name in names), strict=True)
  raw = (dict(zip(names, row, strict=True)) for row in values) if names else ({} for _ in ids.codes)
  items = (ids.names[code] for code in ids.codes)
  return records.catalogue(zip(items, raw, strict=True), fields, rows.place)


def columns_of(fields: Mapping[str, tuple[records.Columns, records.Kind]]) -> set[str]:
  """Returns the columns that hold fields of a record (see `catalogue`)."""
  return {name for given, _ in fields.values() for name in records.names(given)}


def raw_log(
  data: base.Tabular,
  rows: Rows,
  item_records: dict[str, dict[str, Any]] | None,
  catalogue_file: epath.Path | None = None,
  row_kind: str = 'interactions',
  unused_item_columns: Sequence[str] = (),
) -> RawLog:
  """Returns a table of interactions as a raw log.

  Args:
    data: names the columns.
    rows: the table.
    item_records: the catalogue; None: the caller adds records of some items.
    catalogue_file: file of the catalogue, for a message.
    row_kind: name of the rows, for a message.
    unused_item_columns: columns of the item table that `item_records` do not hold.

  Raises:
    ValueError: the table is empty, an id or time is missing or invalid, or times have several units.
  """
  item_ids = columns.ids(rows, data.column('item'))
  if not len(item_ids.codes):
    raise ValueError(f'{rows.path} must hold {row_kind}; it holds none')
  counts, ticks_per_second = times.read(rows, data.column('time'), data.time_format)
  rating, event = data.column('rating'), data.column('event')
  used = {data.column(name) for name in ('user', 'item', 'time', 'rating', 'event')}
  unused = {
    'interactions': rows.unused(used & rows.columns.keys()),
    'items': list(unused_item_columns),
  }
  ratings, unreadable = None, 0
  if rating in rows.columns:
    ratings, unreadable = usable_ratings(data, columns.numbers(rows, rating), rows)
  return RawLog(
    columns.ids(rows, data.column('user')).strings(),
    item_ids.strings(),
    counts,
    item_records or {},
    ratings=ratings,
    ticks_per_second=ticks_per_second,
    events=columns.ids(rows, event).strings() if event in rows.columns else None,
    unreadable_ratings=unreadable,
    place=rows.place,
    catalogue_file='' if catalogue_file is None else catalogue_file.name,
    is_catalogue_whole=item_records is not None,
    ignored_columns={table: names for table, names in unused.items() if names},
  )


def usable_ratings(
  data: base.Tabular, ratings_N: np.ndarray, rows: Rows
) -> tuple[np.ndarray | None, int]:
  """Returns the ratings (None if no row has one, or any is unreadable), and the number of unreadable ratings.

  Args:
    data: names the column.
    ratings_N: float32; NaN for rows without a rating, infinity for unreadable ratings.
    rows: the table, for a message.

  Raises:
    ValueError: the config names the column, and a rating is unreadable or no row has a rating.
  """
  broken, name = np.isinf(ratings_N), data.column('rating')
  if not broken.any():
    if not np.isnan(ratings_N).all():
      return ratings_N, 0
    if data.is_named('rating'):
      raise ValueError(
        f'{rows.path}: {name} must be a number in at least one row; all {len(ratings_N):,} rows are without. '
        'Set --config.data.rating_column to another column, or leave it out'
      )
    return None, 0
  row = int(np.argmax(broken))
  known = name in rows.columns
  got = f'; got {records.short(rows.columns[name][row].as_py())}' if known else ''
  if data.is_named('rating'):
    raise ValueError(
      f'{rows.place(row)}: {name} must be a finite number or empty{got}. Correct the file, or do not set '
      '--config.data.rating_column; the log then has no ratings'
    )
  count = int(broken.sum())
  print(
    f'{rows.place(row)}: {name} is not a finite number{got}. {count:,} of '
    f'{len(broken):,} ratings cannot be read: the log has no ratings',
    flush=True,
  )
  return None, count
