"""Published tables: read, written, and what is refused."""

import collections
import json

import numpy as np
import pytest

from recjax.sids import published
from tests.shared_data import SHARED, needs_shared


def write(tmp_path, table):
  path = tmp_path / 'table.json'
  path.write_text(table if isinstance(table, str) else json.dumps(table))
  return path


def test_tokens_and_numbers_are_read_in_item_order(tmp_path):
  path = write(tmp_path, {'z': ['<a_3>', '<b_0>'], 'x': [0, 11], 'gone': [1, 1], 'y': ['<a_1>', 7]})
  got = published.read(path, ['x', 'y', 'z'], (4, 12))
  assert got.dtype == np.int32
  assert got.tolist() == [[0, 11], [1, 7], [3, 0]]


def test_a_written_table_is_read_back(tmp_path):
  rng = np.random.default_rng(0)
  ids = [f'item "{n}" é' for n in range(50)]
  codes = rng.integers(0, (5, 300, 2), (50, 3)).astype(np.int32)
  published.write(tmp_path / 'out.json', ids, codes)
  order = rng.permutation(50)
  got = published.read(tmp_path / 'out.json', [ids[i] for i in order], (5, 300, 2))
  np.testing.assert_array_equal(got, codes[order])
  assert [path.name for path in tmp_path.iterdir()] == ['out.json']
  first = json.loads((tmp_path / 'out.json').read_text())[ids[0]]
  assert first == [f'<{letter}_{code}>' for letter, code in zip('abc', codes[0], strict=True)]


@pytest.mark.parametrize(
  ('table', 'message'),
  [
    ({'x': [1, 1], 'y': [1]}, r"item 'y': .* one token for each of the 2 levels .* got 1 tokens"),
    ({'x': [1, 1, 1], 'y': [1, 1, 1]}, r"item 'x': .* got 3 tokens\. Set --config\.sids\.codes"),
    ({'x': [1, 1], 'y': '<a_1><b_1>'}, r"item 'y': .* got \"<a_1><b_1>\""),
    ({'x': [1, 1], 'y': None}, r"item 'y': .* got null"),
    ({'x': [1, 1], 'y': ['<b_1>', '<a_1>']}, r"item 'y': token 1 must be such as '<a_12>'"),
    ({'x': [1, 1], 'y': ['<a_1>', '<a_1>']}, r"item 'y': token 2 must be such as '<b_12>'"),
    ({'x': [1, 1], 'y': ['<a_1>', '<b_x>']}, r'got "<b_x>"'),
    ({'x': [1, 1], 'y': ['<a_1>', '<b_-1>']}, r'got "<b_-1>"'),
    ({'x': [1, 1], 'y': [1, True]}, r'token 2 must be .* got true'),
    ({'x': [1, 1], 'y': [1, 1.0]}, r'got 1\.0'),
    ({'x': [1, 1], 'y': ['<a_4>', '<b_1>']}, r"item 'y': the code of token 1 .*\[0, 4\).*got 4"),
    ({'x': [1, 1], 'y': [1, -1]}, r'token 2 must be in \[0, 4\), the size of its level; got -1'),
    ({'x': [1, 1]}, r"of 2 items it lacks 1: 'y'\. Complete the file"),
    ({}, r"of 2 items it lacks 2: 'x', 'y'\. Complete the file"),
    ([['x', [1, 1]]], r'must hold one object .* it holds a list'),
    ('{"x": [1, 1], "y": [1, 1], "x": [2, 2]}', r"every item once; 'x' occurs more than once"),
    ('{"x": [1, 1], "y": [1', r'must be JSON'),
  ],
)
def test_a_wrong_table_is_refused_with_file_and_item(tmp_path, table, message):
  path = write(tmp_path, table)
  with pytest.raises(ValueError, match=message) as error:
    published.read(path, ['x', 'y'], (4, 4))
  assert str(error.value).startswith(str(path))


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
  (tmp_path / 'table.json').write_bytes(b'{"x\xff": [1]}')
  with pytest.raises(ValueError, match='must be JSON'):
    published.read(tmp_path / 'table.json', [], (4,))


def test_many_missing_items_are_counted_and_three_are_named(tmp_path):
  path = write(tmp_path, {'b': [0]})
  with pytest.raises(ValueError, match=r"of 6 items it lacks 5: 'a', 'c', 'd', …\."):
    published.read(path, list('abcdef'), (4,))


PUBLISHED = [  # file, levels, items, distinct SIDs, items that share one
  ('amazon2014/beauty/letter_sids.json', 4, 12_101, 12_088, 24),
  ('amazon2018/industrial/index/Industrial_and_Scientific.index.json', 3, 3_686, 3_670, 31),
  ('amazon2018/scientific/rkmeans_native.index.json', 4, 4_344, 3_469, 1_326),
  ('amazon2018/scientific/rqvae_native.index.json', 4, 4_344, 3_790, 887),
]


@pytest.mark.parametrize(('file', 'levels', 'items', 'distinct', 'sharing'), PUBLISHED)
@needs_shared('amazon2014/beauty')
@needs_shared('amazon2018')
def test_published_tables_are_read(file, levels, items, distinct, sharing):
  ids = sorted(json.loads((SHARED / file).read_text()))
  got = published.read(SHARED / file, ids, (256,) * levels)
  assert got.shape == (items, levels)
  groups = collections.Counter(map(tuple, got.tolist()))
  assert len(groups) == distinct
  assert sum(n for n in groups.values() if n > 1) == sharing
