"""RecBole's atomic files: C.inter and C.item; C is `data.category`.

Zhao et al., "RecBole: towards a unified, comprehensive and efficient framework for recommendation
algorithms" (CIKM 2021). UTF-8 text with values separated by tabs, without quotes. The first line
holds `name:type` of each column; the types are token, token_seq, float and float_seq.

  C.inter   user_id, item_id, timestamp; optional: rating; event, if `data.event_column` or `data.events` is set
  C.item    item_id; optional:
              title, movie_title, name        the title
              brand                           the brand
              description                     the description
              categories, category            one path; parts separated by commas, else by spaces
              class, genre, genres            labels, each of them one path; separated likewise
              price                           the price

Options set other names, without the type: `data.item_column=product_id` (`data_prep.sources.base.Tabular`).
Other columns are ignored. C.item is the catalogue (see `data.unknown_items`).
"""

from collections.abc import Callable, Collection, Mapping
import dataclasses
from typing import Any

from etils import epath

from data_prep.sources import base, delimited, raw_files, readers, records, tables

_TYPES = ('token', 'token_seq', 'float', 'float_seq')


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecBole(base.Tabular):
  """RecBole's atomic files."""

  def usual_columns(self) -> Mapping[str, str]:
    return {'user': 'user_id', 'item': 'item_id', 'time': 'timestamp'}

  def input_files(self, raw_dir: epath.Path) -> dict[str, epath.Path]:
    category = raw_files.category(self, 'ml-100k')
    return {name: raw_dir / name for name in (f'{category}.inter', f'{category}.item')}

  def fetch(self, raw_dir: epath.Path) -> None:
    raw_files.require(self.input_files(raw_dir), raw_dir, "They are RecBole's atomic files.")

  def reader(self, raw_dir: epath.Path) -> readers.Reader:
    self.fetch(raw_dir)
    log, _ = self.input_files(raw_dir).values()
    names = ('user', 'item', 'time', 'rating', *(('event',) if self.has_events else ()))
    wanted = self.log_columns(*names)
    is_optional = not self.is_named('rating')
    required = {
      column: field
      for column, field in wanted.items()
      if not (is_optional and column == self.rating_column)
    }
    return self.table_reader([self._part(log, wanted, required, strict=wanted)])

  def item_table(self, raw_dir: epath.Path, items: Callable[[], Collection[str]]) -> base.Catalogue:
    del items
    _, table = self.input_files(raw_dir).values()
    item, option = self.item_id(self.column('item'))
    given = self.item_columns()
    required = {item: option} | self.required_item_columns()
    usual = [name for names in _FIELDS.values() for name in names]
    wanted = dict.fromkeys((*required, *usual))
    rows = self._part(table, wanted, required, strict=(item,)).read()
    fields = {}
    for field, kinds in _FIELDS.items():
      present = [name for name in kinds if name in rows.columns]
      if name := given[field][0] if field in given else next(iter(present), None):
        fields[field] = (name, kinds.get(name, next(iter(kinds.values()))))
    unused = rows.unused({item, *tables.columns_of(fields)})
    return base.Catalogue(tables.catalogue(rows, item, fields), table, True, unused)

  def _part(
    self,
    path: epath.Path,
    wanted: Mapping[str, Any],
    required: Mapping[str, str],
    strict: Collection[str],
  ) -> tables.Part:
    """The wanted columns, by name without type. Columns outside `strict` are descriptive texts."""
    mark = delimited.separator(self.separator) or '\t'
    names = {}
    for field in delimited.header(path, mark, quoted=False):
      name, _, kind = field.rpartition(':')
      if not name or kind not in _TYPES:
        raise ValueError(
          f'{path}:1: a column must be name:type with one of the types {", ".join(_TYPES)}; '
          f'got {records.short(field)}'
        )
      if name in names:
        raise ValueError(f'{path}:1: must name each column once; got {names[name]!r} and {field!r}')
      names[name] = field
    for name, usual in self.usual_columns().items():
      if usual not in names and name in names:  # for example user:token instead of user_id:token
        names[usual] = names[name]
    for name, field in required.items():
      if name not in names:
        raise ValueError(
          f'{path}:1: must have a column {name!r}; it has {", ".join(map(repr, names))}. '
          f'Set --config.{field}'
        )
    present = {name: names[name] for name in wanted if name in names}
    every = {field: name for name, field in names.items()}  # the usual name, if a column has two
    loose = tuple(name for name in present if name not in strict)
    return tables.Part(path, tuple(every.values()), present, mark=mark, quoted=False, loose=loose)


def _parts(value: str) -> list[str]:
  return [part.strip(' \'"[]') for part in value.split(',' if ',' in value else ' ')]


def _path(value: str) -> list[list[str]]:
  return [[part for part in _parts(value) if part]]


def _tags(value: str) -> list[list[str]]:
  return records.tags(_parts(value))


# Field of a record → the columns that may hold it, and their kinds. The first existing column is used.
_FIELDS: dict[str, dict[str, records.Kind]] = {
  'title': dict.fromkeys(('title', 'movie_title', 'name'), records.as_it_is),
  'brand': {'brand': records.as_it_is},
  'description': {'description': records.as_it_is},
  'categories': {
    'categories': _path,
    'category': _path,
    'class': _tags,
    'genre': _tags,
    'genres': _tags,
  },
  'price': {'price': records.as_it_is},
}
