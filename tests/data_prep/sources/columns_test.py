"""Columns of ids, numbers and texts, of every type."""

import datetime
import gzip
import math

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_prep.sources import columns, tables
from data_prep.sources import parquet as parquet_lib
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
  assert ids.tolist() == ['b', 'a', 'b']
  assert sorted(ids.names) == ['a', 'b']


def test_unused_dictionary_entries_are_ignored(tmp_path):
  path = epath.Path(tmp_path) / 't'
  values = pa.DictionaryArray.from_arrays(pa.array([2, 0]), pa.array(['a', ' ', 'c']))
  rows = Rows(path, {'user': pa.chunked_array([values])}, str)
  ids = columns.ids(rows, 'user')
  assert ids.names == ['c', 'a']


def test_ids_of_integers(tmp_path):
  path = parquet(tmp_path, user=np.array([7, -1, 7], np.int64), item=np.array([1, 2, 3], np.uint8))
  rows = read(path, ('user', 'item'), REQUIRED)
  assert columns.ids(rows, 'user').tolist() == ['7', '-1', '7']
  assert columns.ids(rows, 'item').tolist() == ['1', '2', '3']


def test_ids_of_an_empty_column(tmp_path):
  for path in (csv(tmp_path, 'user\n'), parquet(tmp_path, user=pa.array([], pa.string()))):
    assert columns.ids(read(path, ('user',), REQUIRED), 'user').tolist() == []


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ([1.0, 2.0], r't\.parquet: column user must hold text or integers; got double'),
    ([True], 'must hold text or integers; got bool'),
    (['a', None], r't\.parquet: row 2: user must not be missing'),
    (['a', 'b', ' '], r't\.parquet: row 3: user must be a string that is not empty'),
    (['a', 'b\tc'], 'row 2: user must have at most 256 characters, none of them a control'),
    (['x' * 300], 'row 1: user must have at most 256 characters'),
  ],
)
def test_invalid_ids_are_rejected_with_their_row(tmp_path, values, message):
  rows = read(parquet(tmp_path, user=values), ('user',), REQUIRED)
  with pytest.raises(ValueError, match=message):
    columns.ids(rows, 'user')


def test_missing_numbers_become_nan_and_unreadable_ones_infinite(tmp_path):
  cells = ['1', '2.5', '-3e2', 'good', '', 'nan', 'inf', '1e300', '—', '"4,5"', '"1,234"']
  path = csv(tmp_path, 'user,rating\n' + ''.join(f'a,{cell}\n' for cell in cells))
  values = columns.numbers(read(path, ('rating',), {}), 'rating')
  assert values.dtype == np.float32
  np.testing.assert_array_equal(
    values, [1, 2.5, -300, np.inf, *[np.nan] * 2, *[np.inf] * 2, np.nan, 4.5, np.inf]
  )
  for values, expected in (
    ([1, 2], [1, 2]),
    (pa.array([1, 2]).cast(pa.decimal128(20, 1)), [1, 2]),
    (pa.array([1, None], pa.int8()), [1, np.nan]),
    (pa.array([1.5, np.nan], pa.float32()), [1.5, np.nan]),
    (pa.array(['1', None], pa.large_string()), [1, np.nan]),
    (pa.array([b'2', b'x', None]), [2, np.inf, np.nan]),
    (pa.array(['3', '4']).dictionary_encode(), [3, 4]),
    ([True, None], [np.inf, np.nan]),
    ([[1], [2]], [np.inf, np.inf]),
  ):
    rows = read(parquet(tmp_path, rating=values), ('rating',), {})
    np.testing.assert_array_equal(columns.numbers(rows, 'rating'), expected)


@pytest.mark.parametrize(
  ('values', 'expected'),
  [
    (pa.array(['b', 'a'], pa.string_view()), ['b', 'a']),
    (pa.array([b'b', 'é'.encode()]), ['b', 'é']),
    (pa.array([b'b', b'a'], pa.large_binary()), ['b', 'a']),
    (pa.array([b'b', b'a'], pa.binary_view()), ['b', 'a']),
    (pa.array([b'bb', b'aa'], pa.binary(2)), ['bb', 'aa']),
    (pa.array([b'b', b'a']).dictionary_encode(), ['b', 'a']),
    (pa.array([7, 8]).dictionary_encode(), ['7', '8']),
    (pa.array([7, 8]).cast(pa.decimal128(38, 0)), ['7', '8']),
    (pa.array([7, -8]).cast(pa.decimal128(38, 2)), ['7', '-8']),
    (pa.array([2**64 - 1, 0], pa.uint64()), ['18446744073709551615', '0']),
    (
      pa.array([b'\1' * 16, b'\2' * 16], pa.uuid()),
      ['01' * 4 + '-0101' * 3 + '-' + '01' * 6, '02' * 4 + '-0202' * 3 + '-' + '02' * 6],
    ),
  ],
)
def test_ids_of_every_type(tmp_path, values, expected):
  rows = read(parquet(tmp_path, user=values), ('user',), REQUIRED)
  assert columns.ids(rows, 'user').tolist() == expected


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    (pa.array([b'a', b'\xff']), r'row 2: user must be text in UTF-8'),
    (
      pa.array(['7.50', '8'], pa.string()).cast(pa.decimal128(20, 2)),
      'row 1: user must be text or an integer; got .*7.50',
    ),
    (pa.array([[1], [2]]), 'must hold text or integers; got list'),
    (pa.array([None, None]), 'column user must hold text or integers; got null'),
    (pa.array([b'a', None]), 'row 2: user must not be missing'),
  ],
)
def test_ids_of_unsupported_types_are_rejected(tmp_path, values, message):
  rows = read(parquet(tmp_path, user=values), ('user',), REQUIRED)
  with pytest.raises(ValueError, match=message):
    columns.ids(rows, 'user')


@pytest.mark.parametrize(
  ('values', 'expected'),
  [
    (pa.array(['é', None], pa.string_view()), ['é', None]),
    (pa.array(['é'.encode(), b'a\xffb']), ['é', 'aÿb']),
    (pa.array([b'gr\xfcn', b'\x81']).cast(pa.string(), safe=False), ['grün', '\ufffd']),
    (pa.array([['a', 'b'], []]), [['a', 'b'], []]),
    (pa.array([{'a': 1}, None]), [{'a': 1}, None]),
    (pa.array([[b'a', None], [b'\xff']]), [['a', None], ['ÿ']]),
    (pa.array([2**62, 1], pa.timestamp('s')), [math.nan, datetime.datetime(1970, 1, 1, 0, 0, 1)]),
    (pa.array(['a', 'b']).dictionary_encode(), ['a', 'b']),
  ],
)
def test_invalid_descriptive_values_do_not_fail_the_column(values, expected):
  rows = Rows(
    epath.Path('t'),
    {'title': pa.chunked_array([parquet_lib.plain(pa.chunked_array([values])).combine_chunks()])},
    str,
  )
  assert columns.texts(rows, 'title') == expected


def test_text_that_is_not_utf8_is_named_by_its_row(tmp_path):
  spoiled = pa.array([b'a', b'\xff']).cast(pa.string(), safe=False)
  rows = read(parquet(tmp_path, user=spoiled, time=spoiled), ('user', 'time'), REQUIRED)
  with pytest.raises(
    ValueError, match=r"t\.parquet: row 2: user must be text in UTF-8; got b'\\xff'"
  ):
    columns.ids(rows, 'user')
  assert np.isinf(columns.numbers(rows, 'time')).all()


def test_a_column_without_rows_holds_no_ids(tmp_path):
  rows = read(parquet(tmp_path, user=pa.nulls(0)), ('user',), REQUIRED)
  assert columns.ids(rows, 'user').names == []


def test_an_unreadable_column_is_refused_with_its_field(tmp_path):
  rows = read(parquet(tmp_path, user=[1.0]), ('user',), REQUIRED)
  with pytest.raises(
    ValueError, match=r'got double\. .*set --config\.data\.user_column to another'
  ):
    columns.ids(rows, 'user')


def test_an_invalid_id_is_rejected_with_its_row_and_field(tmp_path):
  for values in (['a', ' '], ['a', None], [b'a', b'\xff']):
    rows = read(parquet(tmp_path, user=values), ('user',), REQUIRED)
    with pytest.raises(ValueError, match=r'row 2: user must .*set --config\.data\.user_column'):
      columns.ids(rows, 'user')
