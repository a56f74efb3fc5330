"""McAuley's files: both kinds of lines, every kind of broken line, and the published counts."""

import dataclasses
import gzip
import json
import re

from etils import epath
import numpy as np
import pytest

from data_prep import sources
from data_prep.log import interactions
from tests.data_prep.sources.reading import tidied
from tests.shared_data import SHARED, needs_shared

REVIEWS, META = 'reviews_X_5.json.gz', 'meta_X.json.gz'
REVIEW = {'reviewerID': 'A1', 'asin': 'B1', 'overall': 5.0, 'unixReviewTime': 1318896000}
DATA = sources.get('amazon2014')(source='amazon2014', name='x', category='X')


def write(folder, reviews, meta, suffix='.gz'):
  for name, lines in ((REVIEWS, reviews), (META, meta)):
    content = ''.join(line + '\n' for line in lines).encode()
    path = folder / name.removesuffix('.gz')
    if suffix:
      path.with_name(path.name + suffix).write_bytes(gzip.compress(content))
    else:
      path.write_bytes(content)


def load(folder, data=DATA):
  return data.load(epath.Path(folder))


@pytest.mark.parametrize('suffix', ['.gz', ''])
@pytest.mark.parametrize('spell', [json.dumps, repr])
def test_reads_json_and_python_literals_gzipped_or_plain(tmp_path, spell, suffix):
  meta = [
    {'asin': 'B1', 'title': 'Dr. Scholl\'s "bath" é', 'categories': [['a', 'b']], 'price': 3},
    {'asin': 'B2', 'brand': 'x', 'related': {'also_bought': ['B1']}, 'price': 2.5},
    {'asin': 'B3', 'title': None},
  ]
  write(tmp_path, [spell(REVIEW), '', spell(REVIEW | {'asin': 'B2'})], map(spell, meta), suffix)
  log = load(tmp_path, dataclasses.replace(DATA, catalogue='all'))
  assert log.users.tolist() == ['A1', 'A1']
  assert log.items.tolist() == ['B1', 'B2']
  assert log.times.tolist() == [1318896000] * 2
  assert log.times.dtype == np.int64
  assert log.item_records == {
    'B1': {key: meta[0][key] for key in ('title', 'price', 'categories')},
    'B2': {'brand': 'x', 'price': 2.5},
    'B3': {},
  }
  assert set(load(tmp_path).item_records) == {'B1', 'B2'}  # those with an interaction


def test_the_gzipped_copy_of_a_file_is_preferred(tmp_path):
  write(tmp_path, [json.dumps(REVIEW)], [])
  write(tmp_path, ['broken'], ['broken'], suffix='')
  assert load(tmp_path).items.tolist() == ['B1']


def test_texts_of_items_that_are_not_utf8_end_no_run(tmp_path):
  write(tmp_path, [json.dumps(REVIEW)], [])
  meta = next(path for path in tmp_path.iterdir() if path.name.startswith('meta'))
  meta.write_bytes(gzip.compress(b'{"asin": "B1", "title": "Caf\xe9"}\n'))
  assert load(tmp_path).item_records == {'B1': {'title': 'Caf\ufffd'}}
  meta.write_bytes(gzip.compress(b'{"asin": "B1\xe9", "title": "x"}\n'))
  with pytest.raises(ValueError, match=r':1: asin must be text in UTF-8'):
    load(tmp_path)


def test_ratings_are_optional(tmp_path):
  rated = [json.dumps(REVIEW | {'overall': rating}) for rating in (5, 2.5)]
  write(tmp_path, rated, [])
  ratings = load(tmp_path).ratings
  assert ratings.tolist() == [5, 2.5]
  assert ratings.dtype == np.float32
  write(tmp_path, [*rated, without('overall'), json.dumps(REVIEW | {'overall': None})], [])
  np.testing.assert_array_equal(load(tmp_path).ratings, [5, 2.5, np.nan, np.nan])
  write(tmp_path, [without('overall')] * 2, [])
  assert load(tmp_path).ratings is None


@pytest.mark.parametrize('rating', ['good', 1e300, float('inf'), [5], True])
def test_an_unreadable_rating_drops_all_ratings(tmp_path, capsys, rating):
  lines = [json.dumps(REVIEW), json.dumps(REVIEW | {'overall': rating})]
  write(tmp_path, lines, [])
  log = load(tmp_path)
  assert log.ratings is None
  assert log.unreadable_ratings == 1
  assert len(log.users) == 2
  assert f'{REVIEWS}:2: overall is not a finite number' in capsys.readouterr().out
  renamed = [line.replace('overall', 'stars') for line in lines]
  write(tmp_path, renamed, [])
  with pytest.raises(ValueError, match=rf'{REVIEWS}:2: stars must be a finite number'):
    load(tmp_path, dataclasses.replace(DATA, rating_column='stars'))


def without(field):
  return json.dumps({key: value for key, value in REVIEW.items() if key != field})


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('[1, 2]', r'a line must be a JSON object or a Python dict; got .*\[1, 2\]'),
    ('{"reviewerID": "A1"', 'a line must be a JSON object'),
    ('__import__("os").getcwd()', 'a line must be a JSON object'),
    ('[' * 100_000, 'a line must be a JSON object'),
    (without('asin'), 'asin must be a string that is not empty; got None'),
    (without('reviewerID'), 'reviewerID must be a string'),
    (without('unixReviewTime'), 'unixReviewTime must be an integer'),
    (json.dumps(REVIEW | {'unixReviewTime': 1.5}), 'unixReviewTime must be an integer.*got 1.5'),
    (json.dumps(REVIEW | {'unixReviewTime': 2**64}), 'unixReviewTime must be an integer'),
    (json.dumps(REVIEW | {'asin': ' '}), 'asin must be a string that is not empty'),
    (json.dumps(REVIEW | {'asin': 'B\ud800'}), 'asin must have at most 256 characters'),
    (json.dumps(REVIEW | {'reviewerID': 'x' * 257}), 'reviewerID must have at most 256 characters'),
    (
      json.dumps(REVIEW | {'unixReviewTime': 1318896000000}),
      r'unixReviewTime must be in one unit in all rows; got 1318896000000 \(milliseconds\), while '
      rf'.*{REVIEWS}:1 has 1318896000 \(seconds\)',
    ),
  ],
)
def test_a_broken_review_is_named_by_file_and_line(tmp_path, line, message):
  write(tmp_path, [json.dumps(REVIEW), line], [])
  with pytest.raises(ValueError, match=rf'{re.escape(REVIEWS)}:2: {message}') as error:
    load(tmp_path)
  assert len(str(error.value)) < 500


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'asin': None}, 'asin must be a string'),
    ({'asin': 'x' * 300}, 'asin must have at most 256 characters'),
  ],
)
def test_a_broken_id_of_an_item_is_named_by_file_and_line(tmp_path, fields, message):
  write(tmp_path, [json.dumps(REVIEW)], ['{"asin": "B0"}', json.dumps({'asin': 'B1'} | fields)])
  with pytest.raises(ValueError, match=rf'{re.escape(META)}:2: {message}'):
    load(tmp_path)


@pytest.mark.parametrize('keep', [5, 60, 2000, -4])
def test_a_truncated_gzip_file_is_rejected(tmp_path, keep):
  rng = np.random.default_rng(0)
  rows = [REVIEW | {'asin': f'B{n}'} for n in rng.integers(0, 10**9, 3000)]
  write(tmp_path, map(json.dumps, rows), [])
  path = tmp_path / REVIEWS
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(
    ValueError, match=rf'{re.escape(REVIEWS)}:\d+: the gzip file must be complete'
  ):
    load(tmp_path)


def test_a_file_that_is_no_gzip_file_is_rejected(tmp_path):
  write(tmp_path, [json.dumps(REVIEW)], [])
  (tmp_path / REVIEWS).write_bytes(b'<html>not found</html>')
  with pytest.raises(ValueError, match=rf'{re.escape(REVIEWS)}:1: the gzip file must be complete'):
    load(tmp_path)


def test_a_file_without_reviews_is_rejected(tmp_path):
  write(tmp_path, [], [])
  with pytest.raises(ValueError, match='must hold reviews'):
    load(tmp_path)


def test_missing_files_are_named_with_the_folder_and_the_field(tmp_path):
  with pytest.raises(FileNotFoundError) as error:
    load(tmp_path)
  for part in (REVIEWS, META, str(tmp_path), '--config.data.raw_dir', '--config.data.download'):
    assert part in str(error.value)
  write(tmp_path, [json.dumps(REVIEW)], [])
  (tmp_path / META).unlink()
  with pytest.raises(FileNotFoundError, match=rf'^{re.escape(META)} must be in'):
    load(tmp_path)


def test_a_category_must_be_set(tmp_path):
  with pytest.raises(ValueError, match=r'--config\.data\.category'):
    load(tmp_path, sources.get('amazon2014')(source='amazon2014', name='x'))


@pytest.mark.parametrize('category', ['../X', 'a/b'])
def test_a_category_with_a_slash_is_rejected(tmp_path, category):
  with pytest.raises(ValueError, match=r'--config\.data\.category'):
    load(tmp_path, sources.get('amazon2014')(source='amazon2014', name='x', category=category))


def test_an_unknown_source_is_an_error():
  with pytest.raises(
    ValueError, match=r"amazon2014, amazon2018.*; got 'x'.*--config\.data\.source"
  ):
    sources.get('x')


DATA_2018 = sources.get('amazon2018')(source='amazon2018', name='x', category='X')


def test_reads_2018(tmp_path):
  reviews = [
    {'overall': 5.0, 'verified': True, 'reviewTime': '01 2, 2018', 'reviewerID': 'A1', 'asin': 'B1',
     'unixReviewTime': 1514851200, 'style': {'Color:': ' Red'}, 'reviewText': 'Good.'},
    {'overall': 1.0, 'reviewerID': 'A2', 'asin': 'B2', 'unixReviewTime': 1514851201},
  ]  # fmt: skip
  meta = [
    {'asin': 'B1', 'title': 'Strings', 'brand': 'old', 'price': '$9'},
    {'asin': 'B1', 'title': '<b>Strings</b> &amp; picks', 'brand': 'D\'A', 'price': '$1,012.99 - $9.00',
     'category': ['Musical Instruments', 'Strings', '</span></span></span>', '100% steel'],
     'description': ['One.', '', 'Two.'], 'also_buy': ['B2'], 'rank': '>#1 in Music'},
    {'asin': 'B2', 'title': '', 'brand': '', 'price': '.a-box{color:#fff}', 'category': [],
     'description': []},
  ]  # fmt: skip
  for name, rows in (('X_5.json.gz', reviews), ('meta_X.json.gz', meta)):
    (tmp_path / name).write_bytes(
      gzip.compress(''.join(map(json.dumps, rows)).replace('}{', '}\n{').encode())
    )
  log = load(tmp_path, DATA_2018)
  assert log.users.tolist() == ['A1', 'A2']
  assert log.times.tolist() == [1514851200, 1514851201]
  assert log.ratings.tolist() == [5, 1]
  assert tidied(log.item_records) == {
    'B1': {
      'title': 'Strings & picks',
      'brand': "D'A",
      'price': 1012.99,
      'categories': [['Musical Instruments', 'Strings']],
      'description': 'One. Two.',
    },
    'B2': {},
  }


META_2023 = [
  {'main_category': 'Games', 'title': 'A game', 'store': 'Maker', 'price': 12.5, 'parent_asin': 'B1',
   'categories': ['Video Games', 'PC'], 'description': ['First', 'second'], 'details': {}, 'images': []},
  {'title': 'Another', 'store': None, 'price': 'from $3.99', 'parent_asin': 'B2', 'categories': [],
   'description': []},
]  # fmt: skip
DATA_2023 = sources.get('amazon2023')(source='amazon2023', name='x', category='X')


def write_2023(folder):
  meta = ''.join(json.dumps(row) + '\n' for row in META_2023)
  (folder / 'meta_X.jsonl.gz').write_bytes(gzip.compress(meta.encode()))


@pytest.mark.parametrize('name', ['X.csv', 'X.csv.gz', 'X.jsonl', 'X.jsonl.gz'])
def test_reads_2023(tmp_path, name):
  write_2023(tmp_path)
  rows = [('A1', 'B1', 4.0, 1588687728923), ('A2', 'B2', 1.0, 1588687728924)]
  if '.csv' in name:
    text = 'user_id,parent_asin,rating,timestamp\n'
    text += ''.join(','.join(map(str, row)) + '\n' for row in rows)
  else:
    names = ('user_id', 'parent_asin', 'rating', 'timestamp')
    extra = {'asin': 'variant', 'title': 'Nice', 'images': [], 'verified_purchase': True}
    text = ''.join(json.dumps(dict(zip(names, row, strict=True)) | extra) + '\n' for row in rows)
  content = text.encode()
  (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith('.gz') else content)
  log = load(tmp_path, DATA_2023)
  assert log.users.tolist() == ['A1', 'A2']
  assert log.items.tolist() == ['B1', 'B2']
  assert log.times.tolist() == [1588687728923, 1588687728924]
  assert log.times.dtype == np.int64
  assert log.ratings.tolist() == [4, 1]
  assert tidied(log.item_records) == {
    'B1': {
      'title': 'A game',
      'brand': 'Maker',
      'price': 12.5,
      'categories': [['Video Games', 'PC']],
      'description': 'First second',
    },
    'B2': {'title': 'Another', 'price': 3.99},
  }


def test_two_review_files_of_2023_are_rejected(tmp_path):
  for name in ('X.csv.gz', 'X.jsonl', 'meta_X.jsonl'):
    (tmp_path / name).write_bytes(b'')
  with pytest.raises(ValueError, match=r'must hold one of X\.csv\.gz and X\.jsonl, not both'):
    load(tmp_path, DATA_2023)


def test_missing_files_of_2023_are_named_with_the_alternative(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'^X\.csv\.gz and meta_X\.jsonl\.gz must be .*X\.jsonl'
  ):
    load(tmp_path, DATA_2023)


def test_a_broken_row_of_the_2023_table_is_named(tmp_path):
  write_2023(tmp_path)
  path = tmp_path / 'X.csv'
  path.write_text('user_id,parent_asin,rating,timestamp\nA1,B1,4.0,1588687728923\nA1,B2,5.0,soon\n')
  with pytest.raises(ValueError, match=r"X\.csv:3: timestamp must be an integer.*got 'soon'"):
    load(tmp_path, DATA_2023)
  path.write_text('user_id,asin,rating,timestamp\nA1,B1,4.0,1588687728923\n')
  with pytest.raises(ValueError, match=r"X\.csv:1: must have a column 'parent_asin'"):
    load(tmp_path, DATA_2023)
  whole = gzip.compress(b'user_id,parent_asin,rating,timestamp\n' + b'A1,B1,4.0,1\n' * 10_000)
  path.unlink()
  path.with_name('X.csv.gz').write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match=r'X\.csv\.gz: the gzip file must be complete'):
    load(tmp_path, DATA_2023)


@pytest.mark.parametrize(
  ('folder', 'category', 'counts'),
  [
    pytest.param(
      'beauty', 'Beauty', (22_363, 12_101, 198_502), marks=needs_shared('amazon2014/beauty')
    ),
    pytest.param(
      'sports',
      'Sports_and_Outdoors',
      (35_598, 18_357, 296_337),
      marks=needs_shared('amazon2014/sports'),
    ),
  ],
)
def test_published_counts(folder, category, counts):
  data = sources.get('amazon2014')(source='amazon2014', name=folder, category=category)
  raw = load(SHARED / 'amazon2014' / folder, data)
  assert raw.ratings is None  # this copy has none
  log = interactions.clean(raw, data.k_core)
  assert (len(log.user_ids), len(log.item_ids), len(log.items)) == counts
