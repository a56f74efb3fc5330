"""MovieLens: ratings of movies, in the three file layouts of GroupLens.

Harper and Konstan, "The MovieLens datasets: history and context" (TiiS 2015). `data.category` is the
name of the archive, which determines the layout:

  ml-100k                           u.data (user, movie, rating, seconds; by tabs), u.item (`|`; id, title,
                                    two dates, address, a flag for each genre), u.genre (genre|flag)
  ml-1m                             ratings.dat (user::movie::rating::seconds), movies.dat (id::title::genres)
  ml-latest-small, ml-latest,       ratings.csv (userId,movieId,rating,timestamp), movies.csv
  ml-20m, ml-25m, ml-32m            (movieId,title,genres)

Files of the first two layouts are latin-1 (copies in UTF-8 are read too). Genres are separated by `|`; each genre
is one category path. Titles are not changed: 'Usual Suspects, The (1995)'. The movies are the catalogue (see
`data.unknown_items`). Options set other column names of the CSV files (`data_prep.sources.base.Tabular`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath
import pyarrow as pa

from data_prep.sources import base, download, raw_files, readers, records, tables
from data_prep.sources.rows import Rows
from recjax.schema.checks import check_choice

URL = 'https://files.grouplens.org/datasets/movielens/'
_TABS, _COLONS, _CSV = (
  ('u.data', 'u.item', 'u.genre'),
  ('ratings.dat', 'movies.dat'),
  ('ratings.csv', 'movies.csv'),
)
LAYOUTS = {
  'ml-100k': _TABS,
  'ml-1m': _COLONS,
  'ml-latest-small': _CSV,
  'ml-latest': _CSV,
  'ml-20m': _CSV,
  'ml-25m': _CSV,
  'ml-32m': _CSV,
}
_COLUMNS = ('user', 'item', 'rating', 'time')
_MOVIE_FIELDS = 5  # fields of u.item before the genre flags
_NO_GENRES = '(no genres listed)'


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieLens(base.Tabular):
  """MovieLens in the layout that `category` names."""

  def usual_columns(self) -> Mapping[str, str]:
    return {'user': 'userId', 'item': 'movieId', 'time': 'timestamp'}

  @property
  def _layout(self) -> tuple[str, ...]:
    check_choice(self.category, tuple(LAYOUTS), 'data.category')
    return LAYOUTS[self.category]

  def input_files(self, raw_dir: epath.Path) -> dict[str, epath.Path]:
    return {name: raw_dir / name for name in self._layout}

  def fetch(self, raw_dir: epath.Path) -> None:
    files = self.input_files(raw_dir)
    url = (self.download_url or URL).rstrip('/')
    archive = f'{self.category}.zip'
    if self.download and raw_files.missing(files):
      download.fetch_zip(f'{url}/{archive}', raw_files.local(raw_dir))
    raw_files.require(
      files,
      raw_dir,
      f'They are published at {url}/{archive}, and --config.data.download=True fetches them.',
    )

  def reader(self, raw_dir: epath.Path) -> readers.Reader:
    self.fetch(raw_dir)
    path = next(iter(self.input_files(raw_dir).values()))
    if self._layout is _CSV:
      required = self.log_columns(*_COLUMNS, *(('event',) if self.has_events else ()))
      found = tables.find([path], required, required, self.separator)
    else:
      self.check_usual_columns(self.category)
      names = {self.column(name): name for name in _COLUMNS}
      mark = '\t' if self._layout is _TABS else '::'
      found = [_Ratings(path, tuple(names), names, mark=mark)]
    return self.table_reader(found, 'ratings')

  def item_table(self, raw_dir: epath.Path, items: Callable[[], Collection[str]]) -> base.Catalogue:
    del items
    _, *paths = self.input_files(raw_dir).values()
    read = {_CSV: self._csv_movies, _TABS: _100k_movies, _COLONS: _1m_movies}[self._layout]
    return base.Catalogue(read(*paths), paths[0], True)

  def _csv_movies(self, path: epath.Path) -> dict[str, dict[str, Any]]:
    item, option = self.item_id('movieId')
    given = self.item_columns()
    usual = {'title': 'title', 'categories': 'genres'} | {name: name for name in given}
    kinds = {'categories': _genres}
    fields = {
      field: (given.get(field, (name,))[0], kinds.get(field, records.as_it_is))
      for field, name in usual.items()
    }
    names = {name for columns, _ in fields.values() for name in records.names(columns)}
    required = dict.fromkeys(names, 'data.category') | self.required_item_columns()
    required |= {item: option}
    rows = tables.read([path], required, required, self.separator, loose=names - {item})
    return tables.catalogue(rows, item, fields)


@dataclasses.dataclass(frozen=True)
class _Ratings(tables.Part):
  """Ratings in a file without column names, which is read as a whole."""

  def batches(
    self, wanted: Collection[str], groups: Sequence[int] | None = None, start: int = 0
  ) -> Iterator[Rows]:
    del groups
    lines = _split(self.path, self.mark, len(self.stored))
    values = zip(*lines, strict=True) if lines else [()] * len(self.stored)
    columns = {
      name: pa.chunked_array([pa.array(column, pa.string())])
      for name, column in zip(self.stored, values, strict=True)
      if name in wanted
    }
    place = functools.partial(self.place, start)
    yield Rows(self.path, columns, place, names=self.names)

  def place(self, start: int, row: int) -> str:
    return f'{self.path}:{start + row + 1}'


def _split(path: epath.Path, separator: str, width: int) -> list[list[str]]:
  """Returns the values of every line.

  Raises:
    ValueError: a line has another number of values; the message names file and line.
  """
  rows = [line.split(separator) for line in raw_files.text_lines(path)]
  for number, row in enumerate(rows, 1):
    if len(row) != width:
      raise ValueError(
        f'{path}:{number}: must have {width} values separated by {separator!r}; '
        f'got {len(row)}: {records.short(separator.join(row))}'
      )
  return rows


def _100k_movies(movies: epath.Path, genres: epath.Path) -> dict[str, dict[str, Any]]:
  names = [row[0] for row in _split(genres, '|', 2)]
  rows = []
  for number, row in enumerate(_split(movies, '|', _MOVIE_FIELDS + len(names)), 1):
    flags = row[_MOVIE_FIELDS:]
    if not set(flags) <= {'0', '1'}:
      raise ValueError(f'{movies}:{number}: flags of genres must be 0 or 1; got {"|".join(flags)}')
    chosen = [name for name, flag in zip(names, flags, strict=True) if flag == '1']
    rows.append((row[0], row[1], chosen))
  return _records(rows, lambda row: f'{movies}:{row + 1}')


def _1m_movies(movies: epath.Path) -> dict[str, dict[str, Any]]:
  rows = [(movie, title, genres.split('|')) for movie, title, genres in _split(movies, '::', 3)]
  return _records(rows, lambda row: f'{movies}:{row + 1}')


def _genres(value: Any) -> Any:
  if not isinstance(value, str):
    return value
  return [] if value == _NO_GENRES else records.tags(value.split('|'))


def _records(
  rows: Iterable[tuple[str, str, list[str]]], place: Callable[[int], str]
) -> dict[str, dict[str, Any]]:
  """The records of movies; rows hold id, title and genres."""
  named = ((movie, {'title': title, 'genres': genres}) for movie, title, genres in rows)
  fields = {'title': ('title', records.as_it_is), 'categories': ('genres', records.tags)}
  return records.catalogue(named, fields, place)
