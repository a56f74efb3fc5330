"""MovieLens in its three layouts, encodings, broken lines, and the published counts."""

import re

from etils import epath
import numpy as np
import pytest

from data_prep import sources
from tests.data_prep.sources.reading import cleaned
from tests.shared_data import SHARED, needs_shared

RATINGS = [('1', '10', '5', '881250949'), ('2', '20', '3.5', '881250948')]


def make(category='ml-100k', **fields):
  return sources.get('movielens')(source='movielens', name='x', category=category, **fields)


def load(folder, data):
  return data.load(epath.Path(folder))


def write_100k(folder, ratings=None, movies=None, encoding='latin-1'):
  rows = [('1', '10', '5', '881250949'), ('2', '20', '3', '881250948')]
  movies = movies or [
    '10|Misérables, Les (1995)|01-Jan-1995||http://x|0|1|1',
    '20|unknown||||1|0|0',
  ]
  ratings = ratings or ['\t'.join(row) for row in rows]
  # The official u.genre ends with a blank line.
  for name, lines in (
    ('u.data', ratings),
    ('u.item', movies),
    ('u.genre', ['unknown|0', 'Drama|1', 'Musical|2', '']),
  ):
    (folder / name).write_bytes('\n'.join([*lines, '']).encode(encoding))


@pytest.mark.parametrize('encoding', ['latin-1', 'utf-8'])
def test_reads_100k(tmp_path, encoding):
  write_100k(tmp_path, encoding=encoding)
  log = load(tmp_path, make())
  assert log.users.tolist() == ['1', '2']
  assert log.items.tolist() == ['10', '20']
  assert log.times.tolist() == [881250949, 881250948]
  assert log.ratings.tolist() == [5, 3]
  assert log.ratings.dtype == np.float32
  assert log.item_records == {
    '10': {'title': 'Misérables, Les (1995)', 'categories': [['Drama'], ['Musical']]},
    '20': {'title': 'unknown', 'categories': [['unknown']]},
  }


@pytest.mark.parametrize('encoding', ['latin-1', 'utf-8'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_reads_1m(tmp_path, encoding, end):
  movies = [
    "10::Star Trek: Génération (1994)::Action|Children's",
    '20::X (1995)::Drama',
    '30::Y::War',
  ]
  ratings = ['::'.join(row) for row in RATINGS]
  for name, lines in (('ratings.dat', ratings), ('movies.dat', movies)):
    (tmp_path / name).write_bytes((end.join(lines) + end).encode(encoding))
  log = load(tmp_path, make('ml-1m'))
  assert log.users.tolist() == ['1', '2']
  assert log.times.tolist() == [881250949, 881250948]
  assert log.ratings.tolist() == [5, 3.5]
  assert log.item_records == {
    '10': {'title': 'Star Trek: Génération (1994)', 'categories': [['Action'], ["Children's"]]},
    '20': {'title': 'X (1995)', 'categories': [['Drama']]},
    '30': {'title': 'Y', 'categories': [['War']]},
  }


def test_reads_csv(tmp_path):
  rows = ['userId,movieId,rating,timestamp', *map(','.join, RATINGS)]
  (tmp_path / 'ratings.csv').write_text('\n'.join(rows))
  (tmp_path / 'movies.csv').write_text(
    'movieId,title,genres\n'
    '10,"American President, The (1995)",Comedy|Sci-Fi\n20,Évita,(no genres listed)\n'
  )
  log = load(tmp_path, make('ml-25m'))
  assert log.users.tolist() == ['1', '2']
  assert log.ratings.tolist() == [5, 3.5]
  assert log.item_records == {
    '10': {'title': 'American President, The (1995)', 'categories': [['Comedy'], ['Sci-Fi']]},
    '20': {'title': 'Évita'},
  }
  (tmp_path / 'ratings.csv').write_text('\n'.join([*rows, '3,40,1,1']))
  with pytest.raises(ValueError, match=r"ratings\.csv:4: an item must be in movies\.csv; got '40'"):
    cleaned(load(tmp_path, make('ml-25m')))
  (tmp_path / 'movies.csv').write_text('movieId,title,genres\n10,a,b\n20,a,b\n10,a,b\n')
  with pytest.raises(
    ValueError, match=r"movies\.csv:4: an item must be listed once; '10' is repeated"
  ):
    load(tmp_path, make('ml-25m'))


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('1\t10\t5', r"must have 4 values separated by '\\t'; got 3"),
    ('1::10::5::881250949', 'must have 4 values'),
    ('', 'must have 4 values'),
    ('1\t10\t5\tlater', "timestamp must be an integer.*got 'later'"),
    (
      '1\t10\t5\t881250949000',
      r'timestamp must be in one unit.*milliseconds.*u\.data:1 has 881250949',
    ),
    ('1\t11\t5\t881250949', r"an item must be in u\.item; got '11'"),
    ('\t10\t5\t881250949', "userId must be a string that is not empty; got ''"),
    ('1\t10\t5\t88\0', 'must be text in UTF-8 or latin-1; it holds a zero byte'),
  ],
)
def test_a_broken_rating_is_named_by_file_and_line(tmp_path, line, message):
  good = '1\t10\t5\t881250949'
  write_100k(tmp_path, ratings=[good, line, good])
  with pytest.raises(ValueError, match=rf'u\.data:2: {message}') as error:
    cleaned(load(tmp_path, make()))
  assert len(str(error.value)) < 500


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('20|title|||0|0|1', 'must have 8 values'),
    ('20|title||||0|0|2', r'flags of genres must be 0 or 1; got 0\|0\|2'),
    ('10|title||||0|0|1', "an item must be listed once; '10' is repeated"),
    (' |title||||0|0|1', "an item's id must be a string that is not empty"),
  ],
)
def test_a_broken_movie_is_named_by_file_and_line(tmp_path, line, message):
  write_100k(tmp_path, movies=['10|title||||0|0|1', line])
  with pytest.raises(ValueError, match=rf'u\.item:2: {message}'):
    load(tmp_path, make())


def test_a_utf16_file_is_rejected(tmp_path):
  write_100k(tmp_path)
  (tmp_path / 'u.item').write_bytes('10|title||||0|0|1\n'.encode('utf-16'))
  with pytest.raises(ValueError, match=r'u\.item:1: must be text in UTF-8 or latin-1'):
    load(tmp_path, make())


def test_a_file_without_ratings_is_rejected(tmp_path):
  write_100k(tmp_path)
  (tmp_path / 'u.data').write_bytes(b'')
  with pytest.raises(ValueError, match=r'u\.data must hold ratings; it holds none'):
    load(tmp_path, make())


def test_missing_files_and_unknown_categories_are_rejected(tmp_path):
  write_100k(tmp_path)
  (tmp_path / 'u.item').unlink()
  with pytest.raises(
    FileNotFoundError, match=r'^u\.item must be in .*ml-100k\.zip.*data\.download'
  ):
    load(tmp_path, make())
  for category in ('', 'ml-10m'):
    with pytest.raises(
      ValueError, match=rf'ml-100k.*; got {re.escape(repr(category))}.*data\.category'
    ):
      load(tmp_path, make(category))


@needs_shared('movielens/ml-100k')
def test_published_counts():
  log = load(SHARED / 'movielens' / 'ml-100k', make())
  assert len(np.unique(log.users)) == 943
  assert len(np.unique(log.items)) == len(log.item_records) == 1682
  assert len(log.items) == len(log.ratings) == 100_000
  # The histogram of `cut -f3 u.data | sort | uniq -c`.
  assert np.unique(log.ratings, return_counts=True)[1].tolist() == [
    6110,
    11370,
    27144,
    34175,
    21201,
  ]
  assert log.item_records['1'] == {
    'title': 'Toy Story (1995)',
    'categories': [['Animation'], ["Children's"], ['Comedy']],
  }
