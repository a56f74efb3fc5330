"""A log of one's own: a table of interactions and a table of items, each CSV or Parquet.

  interactions.csv | .csv.gz | .parquet   user, item, time; rating and event where there are such columns
  items.csv | .csv.gz | .parquet          item; and any of title, brand, description, categories, price

The names of the columns of interactions, and that of the item in both tables, are `data.user_column`,
`data.item_column` and so on; other columns are ignored. A rating or event column with a name of its own
must be there. CSV is UTF-8 with commas and a header; cells in
`"` may hold commas and line ends.

  ids         text or integers
  time        seconds (integers or numbers), milliseconds (integers beyond 1e11), timestamps, or dates of ISO 8601,
              all rows alike
  rating      finite numbers; event: text or integers
  categories  text, 'Toys > Puzzles | Gifts' being two paths; in Parquet also a list of names (one path)
              or a list of such lists
  price       a number, in CSV also '$12.99'

Every row needs its user, item and time, and its rating and event where there are such columns. The item
table is the catalogue: an interaction with an item that it lacks is refused. An item's own cells may be
empty.
"""

from typing import Any

from etils import epath

from data_prep.log import interactions
from data_prep.sources import columns, raw_files, records
from recjax import config

_SUFFIXES = ('csv', 'parquet')
_COLUMNS = ('user_column', 'item_column', 'time_column', 'rating_column', 'event_column')


def input_files(data: config.Data, raw_dir: epath.Path) -> dict[str, epath.Path]:
  """Name without ending → path.

  Raises:
    ValueError: a table is there both as CSV and as Parquet.
  """
  del data
  return {
    name: raw_files.one_of(raw_dir, *(f'{name}.{suffix}' for suffix in _SUFFIXES))
    for name in ('interactions', 'items')
  }


def fetch(data: config.Data, raw_dir: epath.Path) -> None:
  """Checks that the files are there.

  Raises:
    FileNotFoundError: they are not.
    ValueError: one is a folder of parts.
  """
  files = input_files(data, raw_dir)
  raw_files.require(files, raw_dir, 'Each is one file: .csv, .csv.gz or .parquet.')
  for path in files.values():
    config.check(not path.is_dir(), 'a table must be one file', str(path), 'data.raw_dir')


def load(data: config.Data, raw_dir: epath.Path) -> interactions.RawLog:
  """Reads both tables.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a column is missing, a row is broken or an item is unknown; the message names the file
      and the line, or of Parquet the row from 1.
  """
  fetch(data, raw_dir)
  log, table = input_files(data, raw_dir).values()
  names = {getattr(data, field): f'data.{field}' for field in _COLUMNS}
  config.check(
    len(names) == len(_COLUMNS),
    'the columns of a table must be different ones',
    [getattr(data, field) for field in _COLUMNS],
    'data.user_column',
  )
  # A column that has been given a name is not meant to be left out in silence.
  optional = {name for name in ('rating', 'event') if getattr(data, f'{name}_column') == name}
  rows = columns.read(log, names, {name: names[name] for name in names if name not in optional})
  items = columns.ids(rows, data.item_column)
  if not len(items.codes):
    raise ValueError(f'{log} must hold interactions; it holds none')
  item_records = _item_records(table, data.item_column)
  columns.known(rows, items, item_records, table)
  has_ratings, has_events = (
    name in rows.columns for name in (data.rating_column, data.event_column)
  )
  times, ticks_per_second = columns.times(rows, data.time_column)
  return interactions.RawLog(
    columns.ids(rows, data.user_column).strings(),
    items.strings(),
    times,
    item_records,
    ratings=columns.numbers(rows, data.rating_column) if has_ratings else None,
    ticks_per_second=ticks_per_second,
    events=columns.ids(rows, data.event_column).strings() if has_events else None,
  )


def _item_records(path: epath.Path, item_column: str) -> dict[str, dict[str, Any]]:
  rows = columns.read(path, (item_column, *_FIELDS), {item_column: 'data.item_column'})
  ids = columns.ids(rows, item_column)
  used = [name for name in rows.columns if name != item_column]
  values = zip(*(rows.columns[name].to_pylist() for name in used), strict=True)
  raw = (dict(zip(used, row, strict=True)) for row in values) if used else ({} for _ in ids.codes)
  names = (ids.names[code] for code in ids.codes)
  return records.catalogue(zip(names, raw, strict=True), _FIELDS, rows.place)


def _categories(value: Any) -> list[list[str]] | None:
  if isinstance(value, str):
    return [[part.strip() for part in path.split(' > ')] for path in value.split(' | ')]
  if isinstance(value, list) and all(isinstance(part, str) for part in value):
    return [value]
  return records.paths(value)


_FIELDS = {
  'title': ('title', records.text),
  'brand': ('brand', records.text),
  'description': ('description', records.text),
  'categories': ('categories', _categories),
  'price': ('price', records.number_or_text),
}
