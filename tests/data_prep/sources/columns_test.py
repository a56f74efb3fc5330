"""Columns of ids, numbers and texts, of every type."""

import gzip

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_prep.sources import columns, tables
from data_prep.sources.rows import Rows

REQUIRED = {'user': 'data.user_column'}


def csv(folder, content, name='t.csv'):
  path = epath.Path(folder) / name
  content = content.encode() if isinstance(content, str) else content
  path.write_bytes(gzip.compress(content) if name.endswith('.gz') else content)
  return path


def parquet(folder, **values):
  path = epath.Path(folder) / 't.parquet'
  pyarrow.parquet.write_table(pa.table(values), path)
  return path


def read(path, wanted, required):
  return tables.read([path], wanted, required)


@pytest.mark.parametrize(
  'values',
  [
    pa.array(['b', 'a', 'b']),
    pa.array(['b', 'a', 'b'], pa.large_string()),
    pa.array(['b', 'a', 'b']).dictionary_encode(),
    pa.chunked_array([['b', 'a'], ['b']]),
    pa.chunked_array(
      [pa.array(['b', 'a']).dictionary_encode(), pa.array(['b']).dictionary_encode()]
    ),
  ],
)
def test_ids_of_text(tmp_path, values):
  rows = read(parquet(tmp_path, user=values), ('user',), REQUIRED)
  ids = columns.ids(rows, 'user')
  assert ids.strings().tolist() == ['b', 'a', 'b']
  assert sorted(ids.names) == ['a', 'b']


def test_unused_entries_of_a_dictionary_are_no_ids(tmp_path):
  path = epath.Path(tmp_path) / 't'
  values = pa.DictionaryArray.from_arrays(pa.array([2, 0]), pa.array(['a', ' ', 'c']))
  rows = Rows(path, {'user': pa.chunked_array([values])}, str)
  ids = columns.ids(rows, 'user')
  assert ids.names == ['c', 'a']
  columns.known(rows, ids, {'a', 'c'}, path)


def test_ids_of_integers(tmp_path):
  path = parquet(tmp_path, user=np.array([7, -1, 7], np.int64), item=np.array([1, 2, 3], np.uint8))
  rows = read(path, ('user', 'item'), REQUIRED)
  assert columns.ids(rows, 'user').strings().tolist() == ['7', '-1', '7']
  assert columns.ids(rows, 'item').strings().tolist() == ['1', '2', '3']


def test_ids_of_no_rows(tmp_path):
  for path in (csv(tmp_path, 'user\n'), parquet(tmp_path, user=pa.array([], pa.string()))):
    assert columns.ids(read(path, ('user',), REQUIRED), 'user').strings().tolist() == []


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ([1.0, 2.0], r't\.parquet: column user must hold text or integers; got double'),
    ([True], 'must hold text or integers; got bool'),
    (['a', None], r't\.parquet: row 2: user must be there; got none'),
    (['a', 'b', ' '], r't\.parquet: row 3: user must be a string that is not empty'),
    (['a', 'b\tc'], 'row 2: user must have at most 256 characters, none of them a control'),
    (['x' * 300], 'row 1: user must have at most 256 characters'),
  ],
)
def test_what_is_no_id(tmp_path, values, message):
  rows = read(parquet(tmp_path, user=values), ('user',), REQUIRED)
  with pytest.raises(ValueError, match=message):
    columns.ids(rows, 'user')


def test_unknown_items_are_named_by_their_first_row(tmp_path):
  rows = read(csv(tmp_path, 'user\na\nb\nc\nb\n'), ('user',), REQUIRED)
  ids = columns.ids(rows, 'user')
  columns.known(rows, ids, {'a', 'b', 'c'}, epath.Path('items.csv'))
  with pytest.raises(ValueError, match=r"t\.csv:3: an item must be in items\.csv; got 'b'"):
    columns.known(rows, ids, {'a': {}}, epath.Path('items.csv'))


def test_numbers(tmp_path):
  rows = read(csv(tmp_path, 'user,rating\na,1\na,2.5\na,-3e2\n'), ('rating',), {})
  values = columns.numbers(rows, 'rating')
  assert values.tolist() == [1, 2.5, -300]
  assert values.dtype == np.float32
  for cell, got in (
    ('good', "'good'"),
    ('', "''"),
    ('nan', 'nan'),
    ('inf', 'inf'),
    ('1e300', '1e'),
  ):
    rows = read(csv(tmp_path, f'user,rating\na,1\na,{cell}\n'), ('rating',), {})
    with pytest.raises(ValueError, match=f':3: rating must be a finite number.*{got}'):
      columns.numbers(rows, 'rating')
  for values, expected in (([1, 2], [1, 2]), (pa.array([1, 2]).cast(pa.decimal128(20, 1)), [1, 2])):
    rows = read(parquet(tmp_path, rating=values), ('rating',), {})
    assert columns.numbers(rows, 'rating').tolist() == expected
  rows = read(parquet(tmp_path, rating=[True]), ('rating',), {})
  with pytest.raises(ValueError, match='column rating must hold numbers; got bool'):
    columns.numbers(rows, 'rating')
