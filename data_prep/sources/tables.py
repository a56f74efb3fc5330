"""Tables, delimited or Parquet, in one file or several parts, as a raw log and its catalogue."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa

from data_prep.log import interactions
from data_prep.sources import base, columns, delimited, parquet, parts, records, times
from data_prep.sources.rows import Rows, join


def read(
  paths: Sequence[epath.Path],
  wanted: Collection[str],
  required: Mapping[str, str],
  separator: str | None = None,
  loose: Collection[str] = (),
) -> Rows:
  """Returns those of the wanted columns that a table has.

  Args:
    paths: its parts, in order; Parquet if the name ends in .parquet, else delimited text.
    wanted: names of columns, perhaps with the config field that sets each; other columns are not read. Folders
      `<name>=<value>` around a file are columns of it, as Spark and Hive write them.
    required: names that must be there → the config field that sets the name.
    separator: `data.separator`.
    loose: columns of descriptive texts, whose encoding is not checked.

  Raises:
    ValueError: a file is broken or lacks a column; the message names the file and the line.
  """
  mark = delimited.separator(separator)
  return join([_part(path, wanted, required, mark, loose) for path in paths], loose)


def _part(
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
  return dataclasses.replace(rows, columns={**rows.columns, **constant}, fields=fields)


def catalogue(
  rows: Rows, item_column: str, fields: Mapping[str, tuple[str, records.Kind]]
) -> dict[str, dict[str, Any]]:
  """Returns the records of an item table, by raw id.

  Args:
    rows: the table.
    item_column: its column of ids.
    fields: field of a record → column and kind; a column that the table lacks is left out.

  Raises:
    ValueError: an id is invalid or occurs twice.
  """
  ids = columns.ids(rows, item_column)
  fields = {field: pair for field, pair in fields.items() if pair[0] in rows.columns}
  names = sorted({name for name, _ in fields.values()})
  values = zip(*(columns.texts(rows, name) for name in names), strict=True)
  raw = (dict(zip(names, row, strict=True)) for row in values) if names else ({} for _ in ids.codes)
  items = (ids.names[code] for code in ids.codes)
  return records.catalogue(zip(items, raw, strict=True), fields, rows.place)


def raw_log(
  data: base.Tabular,
  rows: Rows,
  item_records: dict[str, dict[str, Any]] | None,
  where: epath.Path | None = None,
  what: str = 'interactions',
) -> interactions.RawLog:
  """Returns a table of interactions as a raw log.

  Args:
    data: names the columns.
    rows: the table.
    item_records: its catalogue; None: any item is accepted.
    where: file of the catalogue, for a message.
    what: the rows are, for a message.

  Raises:
    ValueError: the table is empty, an id or time is missing or invalid, times have several units, or an item
      is not in the catalogue.
  """
  item_ids = columns.ids(rows, data.column('item'))
  if not len(item_ids.codes):
    raise ValueError(f'{rows.path} must hold {what}; it holds none')
  if item_records is not None:
    columns.known(rows, item_ids, item_records, where)
  counts, ticks_per_second = times.read(rows, data.column('time'))
  rating, event = data.column('rating'), data.column('event')
  ratings, unreadable = None, 0
  if rating in rows.columns:
    ratings, unreadable = usable_ratings(data, columns.numbers(rows, rating), rows)
  return interactions.RawLog(
    columns.ids(rows, data.column('user')).strings(),
    item_ids.strings(),
    counts,
    item_records or {},
    ratings=ratings,
    ticks_per_second=ticks_per_second,
    events=columns.ids(rows, event).strings() if event in rows.columns else None,
    unreadable_ratings=unreadable,
  )


def usable_ratings(
  data: base.Tabular, ratings_N: np.ndarray, rows: Rows
) -> tuple[np.ndarray | None, int]:
  """Returns the ratings, or None if one cannot be read; and the number of those.

  Args:
    data: names the column.
    ratings_N: float32; NaN for a rating that cannot be read.
    rows: the places of the ratings and, for a message, their column.

  Raises:
    ValueError: a rating cannot be read although the config names their column.
  """
  broken = np.isnan(ratings_N)
  if not broken.any():
    return ratings_N, 0
  name, row = data.column('rating'), int(np.argmax(broken))
  known = name in rows.columns
  got = f'; got {records.short(rows.columns[name][row].as_py())}' if known else ''
  if data.is_named('rating'):
    raise ValueError(f'{rows.place(row)}: {name} must be a finite number{got}')
  count = int(broken.sum())
  print(
    f'{rows.place(row)}: {name} is not a finite number{got}. {count:,} of '
    f'{len(broken):,} ratings cannot be read: the log has no ratings',
    flush=True,
  )
  return None, count
