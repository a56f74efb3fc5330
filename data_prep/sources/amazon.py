"""Amazon reviews of 2014, 2018 and 2023: McAuley's reviews and metadata, one object a line.

McAuley et al., "Image-based recommendations on styles and substitutes" (SIGIR 2015); Ni, Li and
McAuley, "Justifying recommendations using distantly-labeled reviews and fine-grained aspects" (EMNLP
2019); Hou et al., "Bridging language and items for retrieval and recommendation" (2024).

What a folder holds, gzipped or plain, C being `data.category`:

  source      reviews                                         metadata
  amazon2014  reviews_C_5.json: reviewerID, asin,             meta_C.json: asin, title, brand, price,
              unixReviewTime, overall                         categories (paths), description
  amazon2018  C_5.json: as in 2014                            meta_C.json: asin, title, brand, price
                                                              ('$12.99'), category (a path),
                                                              description (a list)
  amazon2023  C.csv, the 5-core benchmark: user_id,           meta_C.jsonl: parent_asin, title, store,
              parent_asin, rating, timestamp (ms);            price, categories (a path),
              or C.jsonl, all reviews, of the same fields     description (a list)

The rating is optional, on all lines or on none; so is everything of an item but its id. Other fields
are ignored. The metadata of 2014 were published as Python literals, copies of them are often JSON: both
are read. Of an item that the metadata list several times, as those of 2018 do, the last line counts; a
review of an item that they lack is kept.
"""

import ast
from collections.abc import Iterator
import dataclasses
import json
from typing import Any

from etils import epath
import numpy as np

from data_prep.log import interactions
from data_prep.sources import columns, download, raw_files, records
from recjax import config


@dataclasses.dataclass(frozen=True)
class _Edition:
  """Where and how the reviews of a year are published.

  Attributes:
    url: the official address; all paths are below it.
    reviews: paths, of which one must be there; the first is what a download gets.
    meta: path of the metadata.
    user, item, time, rating: names of fields.
    unit: of the time.
    ticks_per_second: of the same.
    record: field of a record → its name in the metadata and its kind.
  """

  url: str
  reviews: tuple[str, ...]
  meta: str
  user: str
  item: str
  time: str
  rating: str
  unit: str
  ticks_per_second: int
  record: dict[str, tuple[str, records.Kind]]


_MCAULEY = 'https://mcauleylab.ucsd.edu/public_datasets/data/'
_EDITIONS = {
  'amazon2014': _Edition(
    url='http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/',
    reviews=('reviews_{}_5.json.gz',),
    meta='meta_{}.json.gz',
    user='reviewerID',
    item='asin',
    time='unixReviewTime',
    rating='overall',
    unit='seconds since 1970',
    ticks_per_second=1,
    record={
      'title': ('title', records.text),
      'brand': ('brand', records.text),
      'description': ('description', records.text),
      'price': ('price', records.number),
      'categories': ('categories', records.paths),
    },
  ),
  'amazon2018': _Edition(
    url=f'{_MCAULEY}amazon_v2/',
    reviews=('categoryFilesSmall/{}_5.json.gz',),
    meta='metaFiles2/meta_{}.json.gz',
    user='reviewerID',
    item='asin',
    time='unixReviewTime',
    rating='overall',
    unit='seconds since 1970',
    ticks_per_second=1,
    record={
      'title': ('title', records.text),
      'brand': ('brand', records.text),
      'description': ('description', records.texts),
      'price': ('price', records.price_on_a_page),
      'categories': ('category', records.path),
    },
  ),
  'amazon2023': _Edition(
    url=f'{_MCAULEY}amazon_2023/',
    reviews=('benchmark/5core/rating_only/{}.csv.gz', 'raw/review_categories/{}.jsonl.gz'),
    meta='raw/meta_categories/meta_{}.jsonl.gz',
    user='user_id',
    item='parent_asin',
    time='timestamp',
    rating='rating',
    unit='milliseconds since 1970',
    ticks_per_second=1000,
    record={
      'title': ('title', records.text),
      'brand': ('store', records.text),
      'description': ('description', records.texts),
      'price': ('price', records.price_on_a_page),
      'categories': ('categories', records.path),
    },
  ),
}


def _published(data: config.Data) -> tuple[tuple[str, ...], str]:
  """The paths below the official address: those of the reviews, and that of the metadata."""
  edition = _EDITIONS[data.source]
  category = raw_files.category(data, 'Beauty')
  return tuple(path.format(category) for path in edition.reviews), edition.meta.format(category)


def input_files(data: config.Data, raw_dir: epath.Path) -> dict[str, epath.Path]:
  """Official name → path of the two files.

  Raises:
    ValueError: no category is set, or which file is meant cannot be known.
  """
  reviews, meta = _published(data)
  names = [path.rpartition('/')[2] for path in reviews]
  meta_name = meta.rpartition('/')[2]
  return {
    names[0]: raw_files.one_of(raw_dir, *names),
    meta_name: raw_files.one_of(raw_dir, meta_name),
  }


def fetch(data: config.Data, raw_dir: epath.Path) -> None:
  """Downloads the files that are missing if `data.download` is set.

  Raises:
    FileNotFoundError: files are missing and are not to be, or cannot be, downloaded.
  """
  files = input_files(data, raw_dir)
  (reviews, *others), meta = _published(data)
  url = (data.download_url or _EDITIONS[data.source].url).rstrip('/')
  if data.download:
    for name, path in zip(files, (reviews, meta), strict=True):
      if not files[name].exists():
        download.fetch(f'{url}/{path}', raw_files.local(raw_dir) / name)
    return
  instead = ''.join(f', {path.rpartition("/")[2]} instead of the reviews' for path in others)
  raw_files.require(
    files,
    raw_dir,
    f'Files that are not gzipped are read too{instead}. They are published at {url}; '
    '--config.data.download=True fetches them.',
  )


def load(data: config.Data, raw_dir: epath.Path) -> interactions.RawLog:
  """Reads the interactions and what the metadata know of their items.

  Args:
    data: `source` names the year, `category` the files. The metadata of items without an interaction
      are kept if `catalogue` is 'all'.
    raw_dir: the folder that holds them.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is truncated, a line is no object, or a field is missing or of a wrong kind; the
      message names file and line.
  """
  fetch(data, raw_dir)
  edition = _EDITIONS[data.source]
  reviews, meta = input_files(data, raw_dir).values()
  is_table = '.csv' in reviews.suffixes
  log = _read_table(reviews, edition) if is_table else _read_lines(reviews, edition)
  if not len(log.users):
    raise ValueError(f'{reviews} must hold reviews; it holds none')
  chosen = None if data.catalogue == 'all' else set(log.items.tolist())
  for number, row in _objects(meta):
    try:
      item = records.identifier(row.get(edition.item), edition.item)
      record = records.record(row, edition.record)
    except ValueError as error:
      raise ValueError(f'{meta}:{number}: {error}') from None
    if chosen is None or item in chosen:
      log.item_records[item] = record
  return log


def _read_lines(path: epath.Path, edition: _Edition) -> interactions.RawLog:
  users, items, times, ratings = [], [], [], []
  for number, row in _objects(path):
    try:
      users.append(records.identifier(row.get(edition.user), edition.user))
      items.append(records.identifier(row.get(edition.item), edition.item))
      times.append(records.integer(row.get(edition.time), edition.time, edition.unit))
      rating = row.get(edition.rating)
      if rating is not None:
        ratings.append(records.finite(rating, edition.rating))
      if ratings and len(ratings) < len(users):
        raise ValueError(
          f'{edition.rating} must be on every line or on none; '
          + ('earlier lines have none' if rating is not None else 'this one has none')
        )
    except ValueError as error:
      raise ValueError(f'{path}:{number}: {error}') from None
  return interactions.RawLog(
    np.array(users, str),
    np.array(items, str),
    np.array(times, np.int64),
    {},
    ratings=np.array(ratings, np.float32) if ratings else None,
    ticks_per_second=edition.ticks_per_second,
  )


def _read_table(path: epath.Path, edition: _Edition) -> interactions.RawLog:
  required = (edition.user, edition.item, edition.time)
  rows = columns.read(path, (*required, edition.rating), dict.fromkeys(required, 'data.raw_dir'))
  return interactions.RawLog(
    columns.ids(rows, edition.user).strings(),
    columns.ids(rows, edition.item).strings(),
    columns.times(rows, edition.time)[0],
    {},
    ratings=columns.numbers(rows, edition.rating) if edition.rating in rows.columns else None,
    ticks_per_second=edition.ticks_per_second,
  )


def _objects(path: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """Number and object of every line that is not blank."""
  for number, line in raw_files.lines(path):
    row = _parse(line)
    if not isinstance(row, dict):
      raise ValueError(
        f'{path}:{number}: a line must be a JSON object or a Python dict; got {records.short(line)}'
      )
    yield number, row


def _parse(line: bytes) -> Any:
  try:
    return json.loads(line)
  except RecursionError:
    return None
  except ValueError:  # JSON errors and bytes that are not UTF-8
    try:
      return ast.literal_eval(line.decode().strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
      return None
