"""RecBole's atomic files: C.inter and C.item, C being `data.category`.

Zhao et al., "RecBole: towards a unified, comprehensive and efficient framework for recommendation
algorithms" (CIKM 2021). Text in UTF-8, values separated by tabs, nothing quoted; the first line holds
`name:type` of each column, the type being token, token_seq, float or float_seq.

  C.inter   user_id, item_id, timestamp; rating where there is one
  C.item    item_id and any of
              title, movie_title, name        the title
              brand                           the brand
              description                     the description
              categories, category            one path; parts separated by commas, else by spaces
              class, genre, genres            labels, each a path of its own; separated likewise
              price                           the price

Other columns are ignored. C.item is the catalogue: an interaction with an item that it lacks is refused.
"""

from collections.abc import Collection
from typing import Any

from etils import epath

from data_prep.log import interactions
from data_prep.sources import columns, raw_files, records
from recjax import config

_TYPES = ('token', 'token_seq', 'float', 'float_seq')
_USER, _ITEM, _TIME, _RATING = 'user_id', 'item_id', 'timestamp', 'rating'


def input_files(data: config.Data, raw_dir: epath.Path) -> dict[str, epath.Path]:
  """File name → path.

  Raises:
    ValueError: no category is set.
  """
  category = raw_files.category(data, 'ml-100k')
  return {name: raw_dir / name for name in (f'{category}.inter', f'{category}.item')}


def fetch(data: config.Data, raw_dir: epath.Path) -> None:
  """Checks that the files are there.

  Raises:
    FileNotFoundError: they are not.
  """
  raw_files.require(input_files(data, raw_dir), raw_dir, "They are RecBole's atomic files.")


def load(data: config.Data, raw_dir: epath.Path) -> interactions.RawLog:
  """Reads interactions and items.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a line is broken or an item is unknown; the message names file and line.
  """
  fetch(data, raw_dir)
  log, table = input_files(data, raw_dir).values()
  rows = _read(log, (_USER, _ITEM, _TIME, _RATING), required=(_USER, _ITEM, _TIME))
  items = columns.ids(rows, _ITEM)
  if not len(items.codes):
    raise ValueError(f'{log} must hold interactions; it holds none')
  item_records = _item_records(table)
  columns.known(rows, items, item_records, table)
  times, ticks_per_second = columns.times(rows, _TIME)
  return interactions.RawLog(
    columns.ids(rows, _USER).strings(),
    items.strings(),
    times,
    item_records,
    ratings=columns.numbers(rows, _RATING) if _RATING in rows.columns else None,
    ticks_per_second=ticks_per_second,
  )


def _read(path: epath.Path, wanted: Collection[str], required: Collection[str]) -> columns.Rows:
  """The wanted columns, by their names without types."""
  names = {}
  for field in columns.header(path, '\t', quoted=False):
    name, _, kind = field.rpartition(':')
    if not name or kind not in _TYPES:
      raise ValueError(
        f'{path}:1: a column must be name:type with one of the types {", ".join(_TYPES)}; '
        f'got {records.short(field)}'
      )
    names[name] = field
  if absent := [name for name in required if name not in names]:
    raise ValueError(
      f'{path}:1: must have the columns {", ".join(required)}; it has {", ".join(names)}, '
      f'without {", ".join(absent)}'
    )
  present = {name: names[name] for name in wanted if name in names}
  rows = columns.read_csv(path, present.values(), '\t', quoted=False)
  return columns.Rows(
    path, {name: rows.columns[field] for name, field in present.items()}, rows.place
  )


def _item_records(path: epath.Path) -> dict[str, dict[str, Any]]:
  wanted = [name for names, _ in _FIELDS.values() for name in names]
  rows = _read(path, (_ITEM, *wanted), required=(_ITEM,))
  fields = {}
  for field, (names, kind) in _FIELDS.items():
    if present := [name for name in names if name in rows.columns]:
      fields[field] = (present[0], kind[present[0]] if isinstance(kind, dict) else kind)
  used = [name for name, _ in fields.values()]
  ids = rows.columns[_ITEM].to_pylist()
  values = zip(*(rows.columns[name].to_pylist() for name in used), strict=True)
  raw = (dict(zip(used, row, strict=True)) for row in values) if used else ({} for _ in ids)
  return records.catalogue(zip(ids, raw, strict=True), fields, rows.place)


def _parts(value: str) -> list[str]:
  return [part.strip(' \'"[]') for part in value.split(',' if ',' in value else ' ')]


def _path(value: str) -> list[list[str]] | None:
  return records.path(_parts(value))


def _tags(value: str) -> list[list[str]] | None:
  return records.tags(_parts(value))


# A record's field → the columns that may hold it, the first one that is there counts, and their kind.
_FIELDS: dict[str, tuple[tuple[str, ...], Any]] = {
  'title': (('title', 'movie_title', 'name'), records.text),
  'brand': (('brand',), records.text),
  'description': (('description',), records.text),
  'categories': (
    ('categories', 'category', 'class', 'genre', 'genres'),
    {'categories': _path, 'category': _path, 'class': _tags, 'genre': _tags, 'genres': _tags},
  ),
  'price': (('price',), records.number_or_text),
}
