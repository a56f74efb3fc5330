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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import dataclasses
import itertools
import json
from typing import Any, ClassVar

from etils import epath
import numpy as np

from data_prep.log.ids import Ids
from data_prep.sources import base, download, raw_files, readers, records, tables, times
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


_BATCH = 1 << 17  # lines that are read at a time
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

  def reader(self, raw_dir: epath.Path) -> readers.Reader:
    self.fetch(raw_dir)
    path, _ = self.input_files(raw_dir).values()
    kinds = ('user', 'item', 'time', 'rating', *(('event',) if self.has_events else ()))
    wanted = self.log_columns(*kinds)
    if '.csv' not in path.suffixes:
      names = {name: column for column, name in zip(wanted, kinds, strict=True)}
      return _LinesReader(path, names, self.is_named('rating'))
    required = dict(wanted)
    if not self.is_named('rating'):
      del required[self.column('rating')]
    return self.table_reader(tables.find([path], wanted, required, self.separator), 'reviews')

  def item_table(self, raw_dir: epath.Path, items: Callable[[], Collection[str]]) -> base.Catalogue:
    """Reads the metadata of the items with interactions (of all items if `catalogue` is 'all')."""
    _, meta = self.input_files(raw_dir).values()
    chosen = None if self.catalogue == 'all' else set(items())
    id_field, _ = self.item_id(self.column('item'))
    given = self.item_columns()
    fields = {
      field: (given.get(field, (name,))[0], records.as_it_is)
      for field, name in self._edition.fields.items()
    }
    found: dict[str, dict[str, Any]] = {}
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
        found[item] = records.record(row, fields)
    if is_empty and self.unknown_items != 'auto':
      raise ValueError(f'{meta} must hold items; it holds none')
    return base.Catalogue(found, None if is_empty else meta)


@dataclasses.dataclass(frozen=True)
class _LinesReader(readers.Reader):
  """Reads reviews in one file of an object per line; 'event' is in `names` if the log has events."""

  file: epath.Path
  names: Mapping[str, str]
  is_rating_named: bool
  row_kind: str = 'reviews'

  @property
  def path(self) -> epath.Path:
    return self.file

  @property
  def shards(self) -> Sequence[readers.Shard]:
    return (readers.Shard(0, self.file),)

  @property
  def unused(self) -> list[str]:
    return []

  def read(self, shard: readers.Shard) -> Iterator[readers.Batch]:
    found, start = iter(_objects(shard.path)), 0
    while rows := list(itertools.islice(found, _BATCH)):
      yield self._batch(shard.path, rows, start)
      start += len(rows)

  def _batch(
    self, path: epath.Path, rows: Sequence[tuple[int, dict[str, Any]]], start: int
  ) -> readers.Batch:
    user, item, time, rating, *event = self.names.values()
    users, items, counts, ratings, events = [], [], [], [], []
    for number, row in rows:
      try:
        users.append(records.identifier(row.get(user), user))
        items.append(records.identifier(row.get(item), item))
        counts.append(records.integer(row.get(time), time, 'seconds or milliseconds since 1970'))
        ratings.append(records.rating(row.get(rating)))
        if event:
          events.append(records.identifier(row.get(event[0]), event[0]))
      except ValueError as error:
        raise ValueError(f'{path}:{number}: {error}') from None
    return readers.Batch(
      Ids.of(users),
      Ids.of(items),
      times.Times(np.array(counts, np.int64), 'integer'),
      np.array(ratings, np.float32),
      Ids.of(events) if event else None,
      Rows(path, {}, lambda row: f'{path}:{_line(path, start + row)}'),
    )


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
