"""The same log, written in the layout of every source, is read back equal."""

import csv
import gzip
import json

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_prep import sources
from data_prep.log import interactions
from tests.data_prep.sources.reading import changes, tidied

USERS, ITEMS, LENGTH = 12, 9, 7
TITLES = [f'Thing {n}: "red", & big (199{n})' for n in range(ITEMS)]


@pytest.fixture(scope='module')
def rows():
  """(user, item, rating, time), users and items from 1, times without ties, not in order of time."""
  rng = np.random.default_rng(0)
  times = 881_250_000 + rng.permutation(USERS * LENGTH)
  items = rng.integers(1, ITEMS + 1, USERS * LENGTH)
  items[:ITEMS] = np.arange(1, ITEMS + 1)
  ratings = rng.integers(1, 6, USERS * LENGTH)
  return [
    (n % USERS + 1, int(item), int(rating), int(time))
    for n, (item, rating, time) in enumerate(zip(items, ratings, times, strict=True))
  ]


def lines(path, objects):
  content = ''.join(json.dumps(row) + '\n' for row in objects).encode()
  path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)


def table(path, header, values, **dialect):
  with path.open('w', newline='', encoding='utf-8') as f:
    writer = csv.writer(f, **dialect)
    writer.writerows([header, *values])


def amazon(folder, rows, reviews, meta, user, item, time, rating, scale=1):
  lines(
    folder / reviews,
    [{user: str(u), item: str(i), rating: float(r), time: t * scale} for u, i, r, t in rows],
  )
  lines(folder / meta, [{item: str(n), 'title': title} for n, title in enumerate(TITLES, 1)])


def amazon2014(folder, rows):
  names = ('reviewerID', 'asin', 'unixReviewTime', 'overall')
  amazon(folder, rows, 'reviews_X_5.json.gz', 'meta_X.json', *names)


def amazon2018(folder, rows):
  names = ('reviewerID', 'asin', 'unixReviewTime', 'overall')
  amazon(folder, rows, 'X_5.json.gz', 'meta_X.json.gz', *names)


def amazon2023(folder, rows):
  names = ('user_id', 'parent_asin', 'timestamp', 'rating')
  amazon(folder, rows, 'X.jsonl', 'meta_X.jsonl.gz', *names, scale=1000)


def amazon2023_benchmark(folder, rows):
  amazon2023(folder, rows)
  (folder / 'X.jsonl').unlink()
  header = ('user_id', 'parent_asin', 'rating', 'timestamp')
  table(folder / 'X.csv', header, [(u, i, float(r), t * 1000) for u, i, r, t in rows])


def movielens_100k(folder, rows):
  (folder / 'u.data').write_text(''.join('\t'.join(map(str, row)) + '\n' for row in rows))
  movies = [f'{n}|{title}||||1|0\n' for n, title in enumerate(TITLES, 1)]
  (folder / 'u.item').write_text(''.join(movies), encoding='latin-1')
  (folder / 'u.genre').write_text('unknown|0\nDrama|1\n\n')


def movielens_1m(folder, rows):
  (folder / 'ratings.dat').write_text(''.join('::'.join(map(str, row)) + '\n' for row in rows))
  movies = [f'{n}::{title}::Drama|War\n' for n, title in enumerate(TITLES, 1)]
  (folder / 'movies.dat').write_text(''.join(movies), encoding='latin-1')


def movielens_csv(folder, rows):
  table(folder / 'ratings.csv', ('userId', 'movieId', 'rating', 'timestamp'), rows)
  movies = [(n, title, 'Drama') for n, title in enumerate(TITLES, 1)]
  table(folder / 'movies.csv', ('movieId', 'title', 'genres'), movies)


def recbole(folder, rows):
  names = ['user_id:token', 'item_id:token', 'rating:float', 'timestamp:float']
  content = ['\t'.join(names), *('\t'.join(map(str, row)) for row in rows)]
  (folder / 'X.inter').write_text('\n'.join(content))
  items = ['item_id:token\ttitle:token_seq', *(f'{n}\t{t}' for n, t in enumerate(TITLES, 1))]
  (folder / 'X.item').write_text('\n'.join(items))


def sequences_json(folder, rows):
  sequences = {}
  for user, item, _, _ in sorted(rows, key=lambda row: row[3]):
    sequences.setdefault(str(user), []).append(item)
  (folder / 'X.inter.json').write_text(json.dumps(sequences))
  items = {str(n): {'title': title} for n, title in enumerate(TITLES, 1)}
  (folder / 'X.item.json').write_text(json.dumps(items))


def table_csv(folder, rows):
  table(folder / 'interactions.csv', ('user', 'item', 'rating', 'time'), rows)
  items = [(n, title) for n, title in enumerate(TITLES, 1)]
  table(folder / 'items.csv', ('item', 'title'), items, lineterminator='\n')


def table_parquet(folder, rows):
  names = ('user', 'item', 'rating', 'time')
  columns = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
  pyarrow.parquet.write_table(pa.table(columns), folder / 'interactions.parquet', row_group_size=10)
  items = {'item': list(range(1, ITEMS + 1)), 'title': TITLES}
  pyarrow.parquet.write_table(pa.table(items), folder / 'items.parquet')


LAYOUTS = [
  ('amazon2014', 'X', amazon2014),
  ('amazon2018', 'X', amazon2018),
  ('amazon2023', 'X', amazon2023),
  ('amazon2023', 'X', amazon2023_benchmark),
  ('movielens', 'ml-100k', movielens_100k),
  ('movielens', 'ml-1m', movielens_1m),
  ('movielens', 'ml-32m', movielens_csv),
  ('recbole', 'X', recbole),
  ('sequences_json', 'X', sequences_json),
  ('table', '', table_csv),
  ('table', '', table_parquet),
]


@pytest.mark.parametrize(('source', 'category', 'write'), LAYOUTS)
def test_every_layout_gives_the_same_log(tmp_path, rows, source, category, write):
  write(tmp_path, rows)
  data = sources.get(source)(source=source, name='x', category=category)
  raw = data.load(epath.Path(tmp_path))
  titles = {item: record['title'] for item, record in raw.item_records.items()}
  assert titles == {str(n): title for n, title in enumerate(TITLES, 1)}
  if raw.ratings is not None:
    assert raw.ratings.tolist() == [rating for _, _, rating, _ in rows]
  log = interactions.clean(raw, 0)
  for u, user in enumerate(log.user_ids):
    expected = sorted((time, str(i)) for who, i, _, time in rows if str(who) == user)
    found = log.items[log.offsets[u] : log.offsets[u + 1]]
    assert [log.item_ids[i] for i in found] == [item for _, item in expected]
  assert len(log.user_ids) == USERS
  assert (raw.ratings is None) == (source == 'sequences_json')


ODD = [
  {'title': '<script>var a = 1;</script>'},
  {'title': 'Soap ' + 'x' * 13_000},
  {'title': 'a\ud800b\x07c'},
  {'title': 1984, 'price': 'call us'},
  {'title': {'nested': [1]}, 'price': {'amount': 1}},
  {'title': ['two', 'parts'], 'price': '—'},
  {'title': '<b>bold</b>', 'price': float('nan')},
  {'title': 'Soap', 'price': '12,99', 'description': 5},
  {'title': 'Oil', 'price': '$1,299.00', 'brand': {}, 'description': [[1]]},
]
CLEAN = {
  '2': {'title': 'Soap ' + 'x' * 9_995},
  '3': {'title': 'a b c'},
  '4': {'title': '1984'},
  '6': {'title': 'two parts'},
  '7': {'title': 'bold'},
  '8': {'title': 'Soap', 'price': 12.99, 'description': '5'},
  '9': {'title': 'Oil', 'price': 1299.0},
}


def odd_amazon(folder, rows, source):
  {'amazon2014': amazon2014, 'amazon2018': amazon2018, 'amazon2023': amazon2023}[source](
    folder, rows
  )
  item = {'amazon2023': 'parent_asin'}.get(source, 'asin')
  meta = next(folder.glob('meta_X*'))
  lines(meta, [{item: str(n), **fields} for n, fields in enumerate(ODD, 1)])


def odd_json(folder, rows, source):
  del source
  sequences_json(folder, rows)
  items = {str(n): fields for n, fields in enumerate(ODD, 1)}
  (folder / 'X.item.json').write_text(json.dumps(items))


@pytest.mark.parametrize(
  ('source', 'write'),
  [
    ('amazon2014', odd_amazon),
    ('amazon2018', odd_amazon),
    ('amazon2023', odd_amazon),
    ('sequences_json', odd_json),
  ],
)
def test_invalid_descriptive_fields_are_counted_equally_in_all_layouts(
  tmp_path, rows, source, write
):
  write(tmp_path, rows, source)
  data = sources.get(source)(source=source, name='x', category='X')
  records = data.load(epath.Path(tmp_path)).item_records
  has_prices = source != 'sequences_json'
  expected = {
    item: {name: value for name, value in fields.items() if name != 'price' or has_prices}
    for item, fields in CLEAN.items()
  }
  assert {item: record for item, record in tidied(records).items() if record} == expected
  counts = {'brand_dropped': 1} if source != 'amazon2023' else {}  # named store there
  counts |= {
    'description_dropped': 1,
    'title_cleaned': 1,
    'title_cut': 1,
    'title_dropped': 2,
  }
  assert changes(records) == counts | ({'price_dropped': 4} if has_prices else {})


@pytest.mark.parametrize('source', ['table', 'recbole'])
@pytest.mark.parametrize('price', ['—', 'NaN', 'call us', 'x' * 13_000, '<td>', '1,2,3', '\x07'])
def test_invalid_descriptive_cells_of_tables_raise_no_error(tmp_path, rows, source, price):
  (table_csv if source == 'table' else recbole)(tmp_path, rows)
  names = ('item', 'title', 'price')
  if source == 'recbole':
    names = ('item_id:token', 'title:token', 'price:float')
  values = [(n, price, price) for n in range(1, ITEMS + 1)]
  path = tmp_path / ('items.csv' if source == 'table' else 'X.item')
  if source == 'table':
    table(path, names, values)
  else:
    path.write_text('\n'.join('\t'.join(map(str, row)) for row in (names, *values)))
  data = sources.get(source)(source=source, name='x', category='X')
  records = data.load(epath.Path(tmp_path)).item_records
  assert changes(records)['price_dropped'] == ITEMS
  assert all('price' not in record for record in tidied(records).values())


def test_the_layouts_cover_every_source():
  # The other two have separate tests: one has its own split, the other no files.
  assert {source for source, _, _ in LAYOUTS} | {'minionerec', 'synthetic'} == set(sources.SOURCES)
