"""MovieLens: ratings of movies, in the three layouts that GroupLens has published.

Harper and Konstan, "The MovieLens datasets: history and context" (TiiS 2015). `data.category` is the
name of the archive, which tells the layout of the folder:

  ml-100k                           u.data (user, movie, rating, seconds; by tabs), u.item (`|`; id, title,
                                    two dates, address, a flag for each genre), u.genre (genre|flag)
  ml-1m                             ratings.dat (user::movie::rating::seconds), movies.dat (id::title::genres)
  ml-latest-small, ml-latest,       ratings.csv (userId,movieId,rating,timestamp), movies.csv
  ml-20m, ml-25m, ml-32m            (movieId,title,genres)

The first two are latin-1, unless a copy is UTF-8. Genres are separated by `|`; each is a path of
categories of its own. Titles stay as they are, 'Usual Suspects, The (1995)'. The movies are the
catalogue: a rating of one that they lack is refused.
"""

from collections.abc import Callable, Iterable
from typing import Any

from etils import epath
import pyarrow as pa

from data_prep.log import interactions
from data_prep.sources import columns, download, raw_files, records
from recjax import config

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
_COLUMNS = ('userId', 'movieId', 'rating', 'timestamp')
_MOVIE_FIELDS = 5  # of u.item, before the flags
_NO_GENRES = '(no genres listed)'


def _layout(data: config.Data) -> tuple[str, ...]:
  config.check_choice(data.category, tuple(LAYOUTS), 'data.category')
  return LAYOUTS[data.category]


def input_files(data: config.Data, raw_dir: epath.Path) -> dict[str, epath.Path]:
  """Official name → path.

  Raises:
    ValueError: the category is no data set of MovieLens.
  """
  return {name: raw_dir / name for name in _layout(data)}


def fetch(data: config.Data, raw_dir: epath.Path) -> None:
  """Downloads and unpacks the archive if files are missing and `data.download` is set.

  Raises:
    FileNotFoundError: files are missing and are not to be, or cannot be, downloaded.
  """
  files = input_files(data, raw_dir)
  url = (data.download_url or URL).rstrip('/')
  archive = f'{data.category}.zip'
  if data.download and raw_files.missing(files):
    download.fetch_zip(f'{url}/{archive}', raw_files.local(raw_dir))
  raw_files.require(
    files,
    raw_dir,
    f'They are published at {url}/{archive}, and --config.data.download=True fetches them.',
  )


def load(data: config.Data, raw_dir: epath.Path) -> interactions.RawLog:
  """Reads ratings and movies.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a line is broken or a movie is unknown; the message names file and line.
  """
  fetch(data, raw_dir)
  paths = list(input_files(data, raw_dir).values())
  layout = _layout(data)
  if layout is _CSV:
    rows = columns.read(paths[0], _COLUMNS, dict.fromkeys(_COLUMNS, 'data.category'))
    movies = _movies_of_csv(paths[1])
  else:
    rows = _ratings(paths[0], '\t' if layout is _TABS else '::')
    movies = _movies_of_100k(*paths[1:]) if layout is _TABS else _movies_of_1m(paths[1])
  user, item, rating, time = _COLUMNS
  items = columns.ids(rows, item)
  if not len(items.codes):
    raise ValueError(f'{paths[0]} must hold ratings; it holds none')
  columns.known(rows, items, movies, paths[1])
  times, ticks_per_second = columns.times(rows, time)
  return interactions.RawLog(
    columns.ids(rows, user).strings(),
    items.strings(),
    times,
    movies,
    ratings=columns.numbers(rows, rating),
    ticks_per_second=ticks_per_second,
  )


def _ratings(path: epath.Path, separator: str) -> columns.Rows:
  lines = _split(path, separator, len(_COLUMNS))
  values = zip(*lines, strict=True) if lines else [()] * len(_COLUMNS)
  return columns.Rows(
    path,
    {
      name: pa.chunked_array([pa.array(column, pa.string())])
      for name, column in zip(_COLUMNS, values, strict=True)
    },
    lambda row: f'{path}:{row + 1}',
  )


def _split(path: epath.Path, separator: str, width: int) -> list[list[str]]:
  """The values of every line.

  Raises:
    ValueError: a line has not as many as it should; the message names file and line.
  """
  rows = [line.split(separator) for line in raw_files.text_lines(path)]
  for number, row in enumerate(rows, 1):
    if len(row) != width:
      raise ValueError(
        f'{path}:{number}: must have {width} values separated by {separator!r}; '
        f'got {len(row)}: {records.short(separator.join(row))}'
      )
  return rows


def _movies_of_100k(movies: epath.Path, genres: epath.Path) -> dict[str, dict[str, Any]]:
  names = [row[0] for row in _split(genres, '|', 2)]
  rows = []
  for number, row in enumerate(_split(movies, '|', _MOVIE_FIELDS + len(names)), 1):
    flags = row[_MOVIE_FIELDS:]
    if not set(flags) <= {'0', '1'}:
      raise ValueError(f'{movies}:{number}: flags of genres must be 0 or 1; got {"|".join(flags)}')
    chosen = [name for name, flag in zip(names, flags, strict=True) if flag == '1']
    rows.append((row[0], row[1], chosen))
  return _records(rows, lambda row: f'{movies}:{row + 1}')


def _movies_of_1m(movies: epath.Path) -> dict[str, dict[str, Any]]:
  rows = [(movie, title, genres.split('|')) for movie, title, genres in _split(movies, '::', 3)]
  return _records(rows, lambda row: f'{movies}:{row + 1}')


def _movies_of_csv(movies: epath.Path) -> dict[str, dict[str, Any]]:
  names = ('movieId', 'title', 'genres')
  rows = columns.read(movies, names, dict.fromkeys(names, 'data.category'))
  values = zip(*(rows.columns[name].to_pylist() for name in names), strict=True)
  split = (
    (movie, title, [] if genres == _NO_GENRES else genres.split('|'))
    for movie, title, genres in values
  )
  return _records(split, rows.place)


def _records(
  rows: Iterable[tuple[str, str, list[str]]], place: Callable[[int], str]
) -> dict[str, dict[str, Any]]:
  """Records of movies: id, title, genres."""
  named = ((movie, {'title': title, 'genres': genres}) for movie, title, genres in rows)
  fields = {'title': ('title', records.text), 'categories': ('genres', records.tags)}
  return records.catalogue(named, fields, place)
