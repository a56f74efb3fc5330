"""Base classes of sources: a source is the data section of a config, and reads the raw files that it describes."""

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
from typing import Any, ClassVar, NamedTuple

from etils import epath

from data_prep.log import raw_log
from data_prep.log.arrays import Scratch
from data_prep.sources import collect, readers, records, tables
from recjax.data.sequences import Sequences
from recjax.schema.checks import check, setting
from recjax.schema.data import Data


class Catalogue(NamedTuple):
  """The item table of a source.

  Attributes:
    records: see `RawLog.item_records`.
    file: its file; None: the source has none.
    is_whole: see `RawLog.is_catalogue_whole`.
    unused: columns that the records do not hold.
  """

  records: Mapping[str, dict[str, Any]]
  file: epath.Path | None = None
  is_whole: bool = False
  unused: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source(Data, abc.ABC):
  """A way to read a log. Its fields beyond those of `Data` are its options, `--config.data.<field>`.

  A subclass with `has_optimum` also has a method `optimum`.
  """

  identity: ClassVar[tuple[str, ...]] = ('category',)  # fields that are always in `params`
  has_optimum: ClassVar[bool] = False  # whether the distribution of the next item is known

  def params(self) -> dict[str, Any]:
    """Returns the settings that determine the log; options at their defaults are left out."""
    common = {field.name for field in dataclasses.fields(Data)}
    changed = tuple(
      field.name
      for field in dataclasses.fields(self)
      if field.name not in common and getattr(self, field.name) != field.default
    )
    names = dict.fromkeys(self.identity + changed)
    return {'source': self.source} | {name: getattr(self, name) for name in names}

  def input_files(self, raw_dir: epath.Path) -> dict[str, epath.Path]:
    """Returns the files that `load` reads, by official name. A missing file has its expected path.

    Raises:
      ValueError: the settings do not determine the files.
    """
    del raw_dir
    return {}

  def fetch(self, raw_dir: epath.Path) -> None:
    """Downloads missing files if `data.download` is set and the source supports it.

    Raises:
      FileNotFoundError: files are missing; the message names them and data.raw_dir.
    """
    del raw_dir

  def reader(self, raw_dir: epath.Path) -> readers.Reader | None:
    """Returns what reads the interactions shard by shard; None: `load` reads the log as a whole.

    Reads headers and footers alone.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is invalid, or the settings do not determine the columns.
    """
    del raw_dir
    return None

  def item_table(self, raw_dir: epath.Path, items: Callable[[], Collection[str]]) -> Catalogue:
    """Reads the item table of a source with a `reader`.

    Args:
      raw_dir: the folder of the raw files.
      items: returns the raw ids of the items with interactions; some sources read the records of these alone.

    Raises:
      ValueError: the table is invalid; the message names the file and the line.
    """
    raise NotImplementedError(f'{self.source} has no table of items')

  @abc.abstractmethod
  def load(self, raw_dir: epath.Path) -> raw_log.RawLog:
    """Reads the log.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is invalid; the message names the file and the line.
    """

  def load_into(self, scratch: Scratch, raw_dir: epath.Path) -> raw_log.RawLog:
    """Reads the log; a source with a `reader` makes the columns with `scratch`. See `load`."""
    del scratch
    return self.load(raw_dir)

  def optimum(self, histories: Sequences, ks: tuple[int, ...]) -> dict[str, float]:
    """Returns the best expected metrics that a ranking of next items can reach, given the histories."""
    raise NotImplementedError(f'the distribution of the next item is not known for {self.source}')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(Source):
  """A source with options `<name>_column`. The default of an option selects the source's usual column."""

  def usual_columns(self) -> Mapping[str, str]:
    """Returns the column names of the published files: name → column, if they differ."""
    return {}

  def column(self, name: str) -> str:
    """Returns the column of the interactions that holds 'user', 'item', 'time' and so on."""
    given = getattr(self, f'{name}_column')
    return given if self.is_named(name) else self.usual_columns().get(name, name)

  def is_named(self, name: str) -> bool:
    """Returns whether the config names this column. A named column must exist."""
    return getattr(self, f'{name}_column') not in (name, None)

  def log_columns(self, *names: str) -> dict[str, str]:
    """Returns the columns of the interactions that hold 'user', 'item' and so on → the config fields that name them.

    Raises:
      ValueError: two of them are the same column.
    """
    fields: dict[str, str] = {}
    for name in names:
      column, field = self.column(name), f'data.{name}_column'
      if column in fields:
        raise ValueError(
          f'{fields[column]} and {field} must name different columns; got {column!r} for both. '
          f'Set --config.{field}'
        )
      fields[column] = field
    return fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tabular(Named):
  """A source whose files name their columns or fields; options set all these names."""

  user_column: str = setting('user', 'Column of the user id.')
  item_column: str = setting('item', 'Column of the item id.')
  time_column: str = setting('time', 'Column of the time.')
  rating_column: str = setting('rating', 'Column of the rating, if there is one.')
  event_column: str = setting('event', 'Column of the kind of interaction, if there is one.')
  item_id_column: str | None = setting(
    None, "Column of the item id in the item table. None: the source's usual name."
  )
  title_column: str | None = setting(
    None, "Item table: title; 'a+b' joins the texts of two columns. None: the source's usual name."
  )
  brand_column: str | None = setting(
    None, "Item table: brand; 'a+b' joins two columns. None: the source's usual name."
  )
  description_column: str | None = setting(
    None, "Item table: description; 'a+b' joins two columns. None: the source's usual name."
  )
  category_column: str | None = setting(
    None,
    "Item table: categories; 'a+b' are two levels of one path. None: the source's usual name.",
  )
  price_column: str | None = setting(None, "Item table: price. None: the source's usual name.")
  time_format: str | None = setting(
    None,
    "Format of times such as '31.12.2026 23:59', '%d.%m.%Y %H:%M' (strptime). None: numbers or dates of ISO 8601.",
    filled=True,
  )
  separator: str | None = setting(
    None, "Separator of cells in text files: one character, or 'tab'. None: found in the header."
  )

  @property
  def has_events(self) -> bool:
    """Whether the interactions must have a column of events, because the config names it or kinds of events."""
    return self.is_named('event') or bool(self.events or self.context_events)

  def item_columns(self) -> dict[str, tuple[records.Columns, str]]:
    """Returns the columns of the item table that the config names: field of a record → (columns, config field).

    Raises:
      ValueError: two fields name the same column.
    """
    fields = {'categories': 'category_column'} | {
      name: f'{name}_column' for name in ('title', 'brand', 'description', 'price')
    }
    given, owners = {}, {}
    for name, option in fields.items():
      value, field = getattr(self, option), f'data.{option}'
      if value is None:
        continue
      columns = tuple(part.strip() for part in value.split('+'))
      check(
        all(columns) and (len(columns) == 1 or name != 'price'),
        f'{field} must name {"a column" if name == "price" else "columns joined by +"}',
        value,
        field,
      )
      for column in columns:
        if column in owners:
          raise ValueError(
            f'each column of the item table may be named once; {owners[column]} and {field} name {column!r}. '
            f'Set --config.{field}'
          )
        owners[column] = field
      given[name] = (columns[0] if len(columns) == 1 else columns, field)
    return given

  def required_item_columns(self) -> dict[str, str]:
    """Returns the columns of the item table that must exist because the config names them → the config field."""
    return {
      column: field
      for columns, field in self.item_columns().values()
      for column in records.names(columns)
    }

  def item_id(self, usual: str) -> tuple[str, str]:
    """Returns the column of the item id in the item table, and the config field that names it."""
    return self.item_id_column or usual, 'data.item_id_column'

  def load(self, raw_dir: epath.Path) -> raw_log.RawLog:
    return collect.raw_log(self, self.reader(raw_dir), raw_dir, Scratch())

  def load_into(self, scratch: Scratch, raw_dir: epath.Path) -> raw_log.RawLog:
    reader = self.reader(raw_dir)
    return self.load(raw_dir) if reader is None else collect.raw_log(self, reader, raw_dir, scratch)

  def table_reader(
    self, parts: Sequence[tables.Part], row_kind: str = 'interactions'
  ) -> readers.TableReader:
    """Returns the reader of a table of interactions."""
    names = {name: self.column(name) for name in ('user', 'item', 'time', 'rating', 'event')}
    return readers.TableReader(
      tuple(parts), names, self.is_named('rating'), self.time_format, row_kind
    )

  def check_usual_columns(self, layout: str) -> None:
    """Raises a ValueError if the config names a column, although the files of this layout have no column names."""
    for field in dataclasses.fields(Tabular):
      if field.name.endswith('_column'):
        value = getattr(self, field.name)
        must = f'data.{field.name} must be {field.default!r} for {layout}, whose files have no column names'
        check(value == field.default, must, value, f'data.{field.name}')
