"""Your own log: a table of interactions and a table of items.

  interactions   user, item, time; optional: rating, event
  items          item; optional: title or name, brand, description, categories or category, price

Each table is CSV (or with tabs, semicolons or bars) or Parquet, in one file or several parts
(`data_prep.sources.parts`), in `data.raw_dir`. Options such as `data.user_column` set the column names
(`data_prep.sources.base.Tabular`); other columns are ignored. A column that the config names must exist.
Text files are UTF-8 with a header; quoted cells may hold separators and line ends. Texts of items that are not UTF-8
are read as Windows-1252.

  ids         text or integers
  time        seconds (integers or numbers), milliseconds (integers beyond 1e11), timestamps, or dates of ISO
              8601, in one unit (`data_prep.sources.times`); other dates with `data.time_format`
  rating      finite numbers, also with a decimal comma ('4,5'); event: text or integers
  categories  text, such as 'Toys > Puzzles | Gifts' for two paths; or a list of names (one path) or of such
              lists (paths), in text files as a Python or JSON literal
  price       a number or a text such as '$1,299.00' or '12,99 €'

Every row must have a user, an item and a time, and an event if there is that column; ratings may be empty. The item
table is the catalogue; `data.unknown_items` says what an interaction with an unlisted item means. Other cells of items
may be empty; invalid ones are dropped and counted.
"""

from collections.abc import Callable, Collection
import contextlib
import dataclasses
import re
from typing import Any, ClassVar

from etils import epath

from data_prep.sources import base, parts, raw_files, readers, records, tables
from recjax.schema.checks import setting

# pandas writes an array of strings into CSV like this: ['Toys' 'Puzzles'].
_TEXT = re.compile(r"""'([^'\\]*)'|"([^"\\]*)\"""")
_OF_NUMPY = re.compile(rf'\[\s*(?:{_TEXT.pattern})(?:\s+(?:{_TEXT.pattern}))+\s*\]')
_LOG = ('user', 'item', 'time', 'rating', 'event')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(base.Tabular):
  """A table of interactions and a table of items."""

  interactions_files: str | None = setting(
    None,
    "File, folder or glob of the interactions, in raw_dir. None: 'interactions' with any ending.",
    path=True,
  )
  items_files: str | None = setting(
    None,
    "File, folder or glob of the item table, in raw_dir. None: 'items' with any ending.",
    path=True,
  )

  identity: ClassVar[tuple[str, ...]] = tuple(f'{name}_column' for name in _LOG)

  def params(self) -> dict[str, Any]:
    # Without the file names: the content of the files is an input of the stage.
    params = super().params()
    return {name: value for name, value in params.items() if not name.endswith('_files')}

  def input_files(self, raw_dir: epath.Path) -> dict[str, epath.Path]:
    files = {}
    for name in ('interactions', 'items'):
      found = self._files(raw_dir, name)
      if len(found) > 1 or (found and found[0].parent != raw_dir and _folders(found[0])):
        # Parts are named by their order, so that the raw files may be moved and renamed.
        files |= {f'{name}/{_folders(path)}{n:05d}': path for n, path in enumerate(found)}
      else:
        files[name] = found[0] if found else raw_dir / f'{name}.csv'
    return files

  def _files(self, raw_dir: epath.Path, name: str) -> list[epath.Path]:
    return parts.find(raw_dir, name, getattr(self, f'{name}_files'), f'data.{name}_files')

  def fetch(self, raw_dir: epath.Path) -> None:
    files = self.input_files(raw_dir)
    for name in ('interactions', 'items'):
      given = getattr(self, f'{name}_files')
      if given is not None and not self._files(raw_dir, name):
        raise FileNotFoundError(
          f'{raw_dir / given} must be a file, a folder of parts or a glob that finds some; nothing was found. '
          f'Set --config.data.{name}_files or --config.data.raw_dir'
        )
    there = [
      f'{name} is not read: it has another ending or is an empty folder. '
      for table in ('interactions', 'items')
      if not self._files(raw_dir, table)
      for name in parts.like(raw_dir, table)
    ]
    raw_files.require(
      files,
      raw_dir,
      f'{"".join(there[:1])}Each is a file, a folder of parts or several numbered files: .csv, .tsv or .txt, '
      'perhaps with .gz or .zst, or .parquet.',
    )

  def reader(self, raw_dir: epath.Path) -> readers.Reader:
    self.fetch(raw_dir)
    names = self.log_columns(*_LOG)
    # Ratings and events are optional, unless the config names their columns or kinds of events.
    needed = {'rating': self.is_named('rating'), 'event': self.has_events}
    optional = {self.column(name) for name, is_needed in needed.items() if not is_needed}
    required = {name: field for name, field in names.items() if name not in optional}
    files = self._files(raw_dir, 'interactions')
    return self.table_reader(tables.find(files, names, required, self.separator))

  def item_table(self, raw_dir: epath.Path, items: Callable[[], Collection[str]]) -> base.Catalogue:
    del items
    files = self._files(raw_dir, 'items')
    item, option = self.item_id(self.item_column)
    given = self.item_columns()
    names = {name for usual in _USUAL.values() for name in usual} | {*self.required_item_columns()}
    required = {item: option} | self.required_item_columns()
    rows = tables.read(files, {item, *names}, required, self.separator, loose=names - {item})
    fields = {}
    for field, usual in _USUAL.items():
      present = next((name for name in usual if name in rows.columns), usual[0])
      fields[field] = (given.get(field, (present,))[0], _KINDS.get(field, records.as_it_is))
    unused = rows.unused({item, *tables.columns_of(fields)})
    return base.Catalogue(tables.catalogue(rows, item, fields), files[0], True, unused)


def _folders(path: epath.Path) -> str:
  """The enclosing folders `<column>=<value>` of a part; their values belong to the identity."""
  return ''.join(f'{name}={value}/' for name, value in parts.partition(path).items())


def _categories(value: Any) -> Any:
  if not isinstance(value, str):
    return value
  if value.startswith('[') and value.endswith(']'):
    if _OF_NUMPY.fullmatch(value):  # Python would join these strings
      return [first or second for first, second in _TEXT.findall(value)]
    with contextlib.suppress(ValueError):  # a plain text may also begin with [
      return records.literal_list(value)
  return [[part.strip() for part in path.split(' > ')] for path in value.split(' | ')]


# Field of a record → the columns that may hold it. The first existing column is used.
_USUAL = {
  'title': ('title', 'name'),
  'brand': ('brand',),
  'description': ('description',),
  'categories': ('categories', 'category'),
  'price': ('price',),
}
_KINDS: dict[str, records.Kind] = {'categories': _categories}
