"""The source `sequences_json`: small files, invalid files, and the published counts."""

import json

from etils import epath
import numpy as np
import pytest

from data_prep import sources
from tests.data_prep.sources.reading import cleaned, tidied
from tests.shared_data import SHARED, needs_shared

ITEMS = {
  '0': {
    'title': 'Soap & water',
    'brand': 'Acme',
    'description': "['It\\'s wet.', '', 'And clean.']",
    'categories': 'Home & Garden,Bath',
  },
  '1': {'title': 'Oil', 'description': '[sic] thick', 'brand': '', 'categories': ''},
  '2': {},
}


def load(folder, category='X'):
  data = sources.get('sequences_json')(source='sequences_json', name='x', category=category)
  return data.load(epath.Path(folder))


def write(folder, inter, items=ITEMS):
  for name, value in (('X.inter.json', inter), ('X.item.json', items)):
    content = value if isinstance(value, bytes | str) else json.dumps(value)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def test_reads_sequences_in_their_order(tmp_path):
  write(tmp_path, {'b': [2, 0, 2], 'a': ['1', 0], 'c': []})
  log = load(tmp_path)
  assert log.users.tolist() == ['b', 'b', 'b', 'a', 'a']
  assert log.items.tolist() == ['2', '0', '2', '1', '0']
  assert np.all(np.diff(log.times) > 0)
  assert log.ratings is None
  assert log.held_out is None
  assert tidied(log.item_records) == {
    '0': {
      'title': 'Soap & water',
      'brand': 'Acme',
      'description': "It's wet. And clean.",
      'categories': [['Home & Garden', 'Bath']],
    },
    '1': {'title': 'Oil', 'description': '[sic] thick'},
    '2': {},
  }


@pytest.mark.parametrize(
  ('inter', 'message'),
  [
    ('{"a": [0, 1', r'X\.inter\.json:1: must be complete JSON'),
    ('{\n"a": [0],\n"b" [1]}', r'X\.inter\.json:3: must be complete JSON'),
    ('', r'X\.inter\.json:1: must be complete JSON'),
    (b'{"a":\n [0], "\xff": [1]}', r'X\.inter\.json:2: must be text in UTF-8'),
    ('[[0, 1]]', r'X\.inter\.json: must hold one JSON object; got \[\[0, 1\]\]'),
    ('{"a": [0], "a": [1]}', "the key 'a' occurs twice"),
    ('[' * 100_000, r'X\.inter\.json: must be JSON'),
    ('{}', r'X\.inter\.json must hold interactions; it holds none'),
    ({'a': [0, 3]}, r"user 'a', item 2: an item must be in X\.item\.json; got '3'"),
    ({'a': 0}, "user 'a': a sequence must be a list of indices; got 0"),
    ({'a': [0.5]}, "user 'a': an item must be an index; got 0.5"),
    ({'a': [True]}, "user 'a': an item must be an index; got True"),
    ({'a': [None]}, "user 'a': an item must be an index; got None"),
    ({' ': [0]}, "user ' ': a user's id must be a string that is not empty"),
  ],
)
def test_invalid_sequences_are_rejected_with_the_file(tmp_path, inter, message):
  write(tmp_path, inter)
  with pytest.raises(ValueError, match=message) as error:
    cleaned(load(tmp_path))
  assert len(str(error.value)) < 500


@pytest.mark.parametrize(
  ('items', 'message'),
  [
    ({}, 'must hold items; it holds none'),
    ({'0': ['title']}, 'item 0: must be a JSON object; got'),
    ('{"0": {}, "0": {}}', "must be JSON; the key '0' occurs twice"),
  ],
)
def test_invalid_items_are_rejected_with_the_file(tmp_path, items, message):
  write(tmp_path, {'a': [0]}, items)
  with pytest.raises(ValueError, match=rf'X\.item\.json: {message}'):
    load(tmp_path)


def test_missing_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'^X\.inter\.json and X\.item\.json must be in'):
    load(tmp_path)
  with pytest.raises(ValueError, match=r'--config\.data\.category'):
    load(tmp_path, category='')


@needs_shared('amazon2018/scientific')
def test_published_counts():
  log = load(SHARED / 'amazon2018' / 'scientific', 'Scientific')
  assert len(np.unique(log.users)) == 8317
  assert len(np.unique(log.items)) == len(log.item_records) == 4344
  assert len(log.items) == 58_492
  assert log.items[:9].tolist() == [str(n) for n in range(9)]  # user 0 of the file
