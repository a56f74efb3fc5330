"""Amazon reviews of 2014, 2018 and 2023: McAuley's reviews and metadata, one object per line.

McAuley et al., "Image-based recommendations on styles and substitutes" (SIGIR 2015); Ni, Li and
McAuley, "Justifying recommendations using distantly-labeled reviews and fine-grained aspects" (EMNLP
2019); Hou et al., "Bridging language and items for retrieval and recommendation" (2024).

Files of a folder, compressed or plain; C is `data.category`:

  source      reviews                                         metadata
  amazon2014  reviews_C_5.json: reviewerID, asin,             meta_C.json: asin, title, brand, price,
              unixReviewTime, overall                         categories (paths), description
  amazon2018  C_5.json: as in 2014                            meta_C.json: asin, title, brand, price
                                                              ('$12.99'), category (a path),
                                                              description (a list)
  amazon2023  C.csv, the 5-core benchmark: user_id,           meta_C.jsonl: parent_asin, title, store,
              parent_asin, rating, timestamp (ms);            price, categories (a path),
              or C.jsonl, all reviews, of the same fields     description (a list)

The rating is optional, and so are all fields of an item except its id. Other fields are ignored. Options such as
`data.user_column` set other names (`data_prep.sources.base.Tabular`). The metadata of 2014 were published as
Python literals, and copies of them are often JSON; both are read. If the metadata list an item several times, as in
2018, the last line counts. Reviews of items without metadata are kept.
"""

import ast
from collections.abc import Iterator, Mapping
import dataclasses
import itertools
import json
from typing import Any, ClassVar

from etils import epath
import numpy as np

from data_prep.log import raw_log
from data_prep.sources import base, download, raw_files, records, tables, times
from data_prep.sources.rows import Rows


@dataclasses.dataclass(frozen=True)
class _Edition:
  """The published files of a year.

  Attributes:
    url: the official address, which all paths are relative to.
    reviews: alternative paths of the reviews; a download fetches the first.
    meta: path of the metadata.
    usual: names of the fields of the reviews (see `Tabular.usual_columns`).
    fields: field of a record → its name in the metadata.
  """

  url: str
  reviews: tuple[str, ...]
  meta: str
  usual: Mapping[str, str]
  fields: Mapping[str, str]


_MCAULEY = 'https://mcauleylab.ucsd.edu/public_datasets/data/'
_2014 = {'user': 'reviewerID', 'item': 'asin', 'time': 'unixReviewTime', 'rating': 'overall'}
_FIELDS = {name: name for name in ('title', 'brand', 'description', 'price', 'categories')}
_EDITIONS = {
  'amazon2014': _Edition(
    url='http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/',
    reviews=('reviews_{}_5.json.gz',),
    meta='meta_{}.json.gz',
    usual=_2014,
    fields=_FIELDS,
  ),
  'amazon2018': _Edition(
    url=f'{_MCAULEY}amazon_v2/',
    reviews=('categoryFilesSmall/{}_5.json.gz',),
    meta='metaFiles2/meta_{}.json.gz',
    usual=_2014,
    fields=_FIELDS | {'categories': 'category'},
  ),
  'amazon2023': _Edition(
    url=f'{_MCAULEY}amazon_2023/',
    reviews=('benchmark/5core/rating_only/{}.csv.gz', 'raw/review_categories/{}.jsonl.gz'),
    meta='raw/meta_categories/meta_{}.jsonl.gz',
    usual={'user': 'user_id', 'item': 'parent_asin', 'time': 'timestamp'},
    fields=_FIELDS | {'brand': 'store'},
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amazon(base.Tabular):
  """Amazon reviews of the year that `source` names."""

  identity: ClassVar[tuple[str, ...]] = ('category', 'catalogue')

  @property
  def _edition(self) -> _Edition:
    return _EDITIONS[self.source]

  def usual_columns(self) -> Mapping[str, str]:
    return self._edition.usual

  def _published(self) -> tuple[tuple[str, ...], str]:
    """The paths of the reviews and the path of the metadata, relative to the official address."""
    category = raw_files.category(self, 'Beauty')
    return tuple(
      path.format(category) for path in self._edition.reviews
    ), self._edition.meta.format(category)

  def input_files(self, raw_dir: epath.Path) -> dict[str, epath.Path]:
    reviews, meta = self._published()
    names = [path.rpartition('/')[2] for path in reviews]
    meta_name = meta.rpartition('/')[2]
    return {
      names[0]: raw_files.one_of(raw_dir, *names),
      meta_name: raw_files.one_of(raw_dir, meta_name),
    }

  def fetch(self, raw_dir: epath.Path) -> None:
    files = self.input_files(raw_dir)
    (reviews, *others), meta = self._published()
    url = (self.download_url or self._edition.url).rstrip('/')
    if self.download:
      for name, path in zip(files, (reviews, meta), strict=True):
        if not files[name].exists():
          download.fetch(f'{url}/{path}', raw_files.local(raw_dir) / name)
    alternatives = ''.join(f', {path.rpartition("/")[2]} instead of the reviews' for path in others)
    raw_files.require(
      self.input_files(raw_dir),
      raw_dir,
      f'Files that are not gzipped are read too{alternatives}. They are published at {url}; '
      '--config.data.download=True fetches them.',
    )

  def load(self, raw_dir: epath.Path) -> raw_log.RawLog:
    """Reads the interactions, and the metadata of their items (of all items if `catalogue` is 'all')."""
    self.fetch(raw_dir)
    reviews, meta = self.input_files(raw_dir).values()
    log = self._read_table(reviews) if '.csv' in reviews.suffixes else self._read_lines(reviews)
    chosen = None if self.catalogue == 'all' else set(log.items.tolist())
    id_field, _ = self.item_id(self.column('item'))
    given = self.item_columns()
    fields = {
      field: (given.get(field, (name,))[0], records.as_it_is)
      for field, name in self._edition.fields.items()
    }
    is_empty = True
    for number, row in _objects(meta, is_descriptive=True):
      is_empty = False
      try:
        item = records.identifier(row.get(id_field), id_field)
        if '\ufffd' in item:
          raise ValueError(f'{id_field} must be text in UTF-8; got {records.short(item)}')
      except ValueError as error:
        raise ValueError(f'{meta}:{number}: {error}') from None
      if chosen is None or item in chosen:
        log.item_records[item] = records.record(row, fields)
    if is_empty and self.unknown_items != 'auto':
      raise ValueError(f'{meta} must hold items; it holds none')
    return log if is_empty else dataclasses.replace(log, catalogue_file=meta.name)

  def _read_lines(self, path: epath.Path) -> raw_log.RawLog:
    user, item, time, rating = self.log_columns('user', 'item', 'time', 'rating')
    users, items, counts, ratings, events = [], [], [], [], []
    for number, row in _objects(path):
      try:
        users.append(records.identifier(row.get(user), user))
        items.append(records.identifier(row.get(item), item))
        counts.append(records.integer(row.get(time), time, 'seconds or milliseconds since 1970'))
        ratings.append(records.rating(row.get(rating)))
        if self.has_events:
          events.append(records.identifier(row.get(self.event_column), self.event_column))
      except ValueError as error:
        raise ValueError(f'{path}:{number}: {error}') from None
    if not users:
      raise ValueError(f'{path} must hold reviews; it holds none')
    times_N, ratings_N = np.array(counts, np.int64), np.array(ratings, np.float32)
    rows = Rows(path, {}, lambda row: f'{path}:{_line(path, row)}')
    ticks_per_second = times.ticks_per_second(times_N, time, rows.place)
    usable, unreadable = tables.usable_ratings(self, ratings_N, rows)
    return raw_log.RawLog(
      np.array(users, str),
      np.array(items, str),
      times_N,
      {},
      ratings=usable,
      ticks_per_second=ticks_per_second,
      events=np.array(events, str) if events else None,
      unreadable_ratings=unreadable,
      place=rows.place,
    )

  def _read_table(self, path: epath.Path) -> raw_log.RawLog:
    names = ('user', 'item', 'time', 'rating', *(('event',) if self.has_events else ()))
    wanted = self.log_columns(*names)
    required = dict(wanted)
    if not self.is_named('rating'):
      del required[self.column('rating')]
    rows = tables.read([path], wanted, required, self.separator)
    return tables.raw_log(self, rows, None, row_kind='reviews')


def _line(path: epath.Path, row: int) -> int:
  """The line number, from 1, of a row, counted from 0."""
  return next(itertools.islice(raw_files.lines(path), row, None))[0]


def _objects(
  path: epath.Path, is_descriptive: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the number, from 1, and the object of every line that is not blank.

  Args:
    path: the file.
    is_descriptive: replace bytes that are not UTF-8 by U+FFFD.
  """
  for number, line in raw_files.lines(path):
    row = _parse(line)
    if row is None and is_descriptive:
      row = _parse(line.decode('utf-8', 'replace').encode())
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
