"""McAuley's files: both kinds of lines, every kind of broken line, and the published counts."""

import gzip
import json
import re

from etils import epath
import numpy as np
import pytest

from data_prep import interactions, sources
from recjax import config
from tests.shared_data import SHARED, needs_shared

REVIEWS, META = 'reviews_X_5.json.gz', 'meta_X.json.gz'
REVIEW = {'reviewerID': 'A1', 'asin': 'B1', 'overall': 5.0, 'unixReviewTime': 1318896000}
DATA = config.Data(source='amazon2014', name='x', category='X')


def write(folder, reviews, meta, suffix='.gz'):
  for name, lines in ((REVIEWS, reviews), (META, meta)):
    content = ''.join(line + '\n' for line in lines).encode()
    path = folder / name.removesuffix('.gz')
    if suffix:
      path.with_name(path.name + suffix).write_bytes(gzip.compress(content))
    else:
      path.write_bytes(content)


def load(folder, data=DATA):
  return sources.get('amazon2014').load(data, epath.Path(folder))


@pytest.mark.parametrize('suffix', ['.gz', ''])
@pytest.mark.parametrize('spell', [json.dumps, repr])
def test_reads_json_and_python_literals_gzipped_or_plain(tmp_path, spell, suffix):
  meta = [
    {'asin': 'B1', 'title': 'Dr. Scholl\'s "bath" é', 'categories': [['a', 'b']], 'price': 3},
    {'asin': 'B2', 'brand': 'x', 'related': {'also_bought': ['B1']}, 'price': 2.5},
    {'asin': 'B3', 'title': None},
  ]
  write(tmp_path, [spell(REVIEW), '', spell(REVIEW | {'asin': 'B2'})], map(spell, meta), suffix)
  log = load(tmp_path)
  assert log.users.tolist() == ['A1', 'A1']
  assert log.items.tolist() == ['B1', 'B2']
  assert log.times.tolist() == [1318896000] * 2
  assert log.times.dtype == np.int64
  assert log.item_records == {
    'B1': {key: meta[0][key] for key in ('title', 'price', 'categories')},
    'B2': {'brand': 'x', 'price': 2.5},
    'B3': {},
  }


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
    ({'title': 'x' * 50_000}, 'a title must have at most 10,000 characters; got 50,000'),
    ({'title': ['x']}, 'title must be a string'),
    ({'price': 'cheap'}, "price must be a number; got 'cheap'"),
    ({'categories': ['a']}, 'categories must be a list of lists of strings'),
    ({'asin': None}, 'asin must be a string'),
  ],
)
def test_a_broken_item_is_named_by_file_and_line(tmp_path, fields, message):
  write(tmp_path, [json.dumps(REVIEW)], ['{"asin": "B0"}', json.dumps({'asin': 'B1'} | fields)])
  with pytest.raises(ValueError, match=rf'{re.escape(META)}:2: {message}'):
    load(tmp_path)


@pytest.mark.parametrize('keep', [5, 60, 2000, -4])
def test_a_truncated_gzip_is_named(tmp_path, keep):
  rng = np.random.default_rng(0)
  rows = [REVIEW | {'asin': f'B{n}'} for n in rng.integers(0, 10**9, 3000)]
  write(tmp_path, map(json.dumps, rows), [])
  path = tmp_path / REVIEWS
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match=rf'{re.escape(REVIEWS)}:\d+: the gzip file must be whole'):
    load(tmp_path)


def test_a_file_that_is_no_gzip_is_named(tmp_path):
  write(tmp_path, [json.dumps(REVIEW)], [])
  (tmp_path / REVIEWS).write_bytes(b'<html>not found</html>')
  with pytest.raises(ValueError, match=rf'{re.escape(REVIEWS)}:1: the gzip file must be whole'):
    load(tmp_path)


def test_no_reviews_is_an_error(tmp_path):
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
    load(tmp_path, config.Data(source='amazon2014', name='x'))


def test_an_unknown_source_is_an_error():
  with pytest.raises(ValueError, match=r"amazon2014, synthetic; got 'x'.*--config\.data\.source"):
    sources.get('x')


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
  data = config.Data(source='amazon2014', name=folder, category=category)
  log = interactions.clean(load(SHARED / 'amazon2014' / folder, data), data.k_core)
  assert (len(log.user_ids), len(log.item_ids), len(log.items)) == counts
