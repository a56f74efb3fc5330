"""Columns of CSV and Parquet: every kind of id, time and number, and every broken row by its line."""

import datetime
import gzip
import re

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_prep.sources import columns

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


def times(folder, *cells):
  path = csv(folder, 'user,time\n' + ''.join(f'u,{cell}\n' for cell in cells))
  return columns.times(columns.read(path, ('time',), {}), 'time')[0]


@pytest.mark.parametrize('name', ['t.csv', 't.csv.gz'])
def test_csv_cells_with_quotes_commas_line_ends_and_bom(tmp_path, name):
  text = '\ufeffuser,item,extra\r\n"a, b",é,1\r\n\r\n"say ""hi""\nto me",x,2\r\n,y,3'
  rows = columns.read(csv(tmp_path, text, name), ('user', 'item'), REQUIRED)
  assert {name: values.to_pylist() for name, values in rows.columns.items()} == {
    'user': ['a, b', 'say "hi"\nto me', ''],
    'item': ['é', 'x', 'y'],
  }
  assert [rows.place(row).rpartition(':')[2] for row in range(3)] == ['2', '4', '6']


def test_tabs_without_quotes(tmp_path):
  path = csv(tmp_path, 'user\titem\n"a\tb, c"\n')
  rows = columns.read_csv(path, ('user', 'item'), '\t', quoted=False)
  assert rows.columns['user'].to_pylist() == ['"a']
  assert rows.columns['item'].to_pylist() == ['b, c"']


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('', ':1: the first line must name the columns'),
    ('\n\n', ':1: the first line must name the columns'),
    ('user,user\na,b\n', ':1: the first line must name the columns, each once'),
    (
      'item,time\na,b\n',
      r":1: must have a column 'user'; it has 'item', 'time'.*data\.user_column",
    ),
    ('user,item\na,b\nc\n', r":3: must have 2 columns, as the first line; got 1: 'c'"),
    ('user,item\na,b\n\nc,d,e\n', ':4: must have 2 columns, as the first line; got 3'),
    ('user,item\n"a\nb",c\nd\n', ':4: must have 2 columns'),
    (b'user,item\na,b\n\xe9,c\n', ':3: must be text in UTF-8'),
    (
      'user,item\na,b\n'.encode('utf-16'),
      ':1: must have a column|:1: the first line|:1: must be text',
    ),
    ('user,item\n"a,b\n', ':2: must have 2 columns'),
    ('user,item\na,b\rc\n', ':[23]: must '),
  ],
)
def test_a_broken_csv_is_named_by_its_line(tmp_path, content, message):
  path = csv(tmp_path, content)
  with pytest.raises(ValueError, match=f'{re.escape(str(path))}{message}') as error:
    columns.read(path, ('user', 'item'), REQUIRED)
  assert len(str(error.value)) < 500


def test_a_broken_parquet_is_named(tmp_path):
  path = parquet(tmp_path, user=['a'] * 1000)
  whole = path.read_bytes()
  for broken in (whole[:-10], whole[: len(whole) // 2], b'', b'user,item\na,b\n'):
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r't\.parquet: must be a whole Parquet file'):
      columns.read(path, ('user',), REQUIRED)
  with pytest.raises(ValueError, match=r"t\.parquet: must have a column 'user'; it has 'item'"):
    columns.read(parquet(tmp_path, item=['a']), ('user',), REQUIRED)
  doubled = pa.Table.from_arrays([pa.array(['a'])] * 2, ['user', 'user'])
  pyarrow.parquet.write_table(doubled, path)
  with pytest.raises(ValueError, match=r't\.parquet: must name each column once'):
    columns.read(path, ('user',), REQUIRED)


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
  rows = columns.read(parquet(tmp_path, user=values), ('user',), REQUIRED)
  ids = columns.ids(rows, 'user')
  assert ids.strings().tolist() == ['b', 'a', 'b']
  assert sorted(ids.names) == ['a', 'b']


def test_unused_entries_of_a_dictionary_are_no_ids(tmp_path):
  path = epath.Path(tmp_path) / 't'
  values = pa.DictionaryArray.from_arrays(pa.array([2, 0]), pa.array(['a', ' ', 'c']))
  rows = columns.Rows(path, {'user': pa.chunked_array([values])}, str)
  ids = columns.ids(rows, 'user')
  assert ids.names == ['c', 'a']
  columns.known(rows, ids, {'a', 'c'}, path)


def test_ids_of_integers(tmp_path):
  path = parquet(tmp_path, user=np.array([7, -1, 7], np.int64), item=np.array([1, 2, 3], np.uint8))
  rows = columns.read(path, ('user', 'item'), REQUIRED)
  assert columns.ids(rows, 'user').strings().tolist() == ['7', '-1', '7']
  assert columns.ids(rows, 'item').strings().tolist() == ['1', '2', '3']


def test_ids_of_no_rows(tmp_path):
  for path in (csv(tmp_path, 'user\n'), parquet(tmp_path, user=pa.array([], pa.string()))):
    assert columns.ids(columns.read(path, ('user',), REQUIRED), 'user').strings().tolist() == []


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
  rows = columns.read(parquet(tmp_path, user=values), ('user',), REQUIRED)
  with pytest.raises(ValueError, match=message):
    columns.ids(rows, 'user')


def test_unknown_items_are_named_by_their_first_row(tmp_path):
  rows = columns.read(csv(tmp_path, 'user\na\nb\nc\nb\n'), ('user',), REQUIRED)
  ids = columns.ids(rows, 'user')
  columns.known(rows, ids, {'a', 'b', 'c'}, epath.Path('items.csv'))
  with pytest.raises(ValueError, match=r"t\.csv:3: an item must be in items\.csv; got 'b'"):
    columns.known(rows, ids, {'a': {}}, epath.Path('items.csv'))


def test_times_in_every_spelling(tmp_path):
  seconds = int(datetime.datetime(2018, 1, 2, 3, 4, 5, tzinfo=datetime.UTC).timestamp())
  cases = {
    (10, 9, 2**62): [10, 9, 2**62],
    (1.0, '2e3', 3): [1, 2000, 3],
    (1.5, 2, -0.25): [1_500_000, 2_000_000, -250_000],
    ('2018-01-02T03:04:05', '2018-01-02 03:04:06.5'): [
      seconds * 10**6,
      seconds * 10**6 + 1_500_000,
    ],
    ('2018-01-02', '2018-01-03'): [1514851200 * 10**6, 1514937600 * 10**6],
    ('2018-01-02T03:04:05Z', '2018-01-02T05:04:05+02:00'): [seconds * 10**6] * 2,
    ('2018-01-02T03:04:05.123456789',): [seconds * 10**9 + 123456789],
  }
  for cells, expected in cases.items():
    values = times(tmp_path, *cells)
    assert values.tolist() == expected, cells
    assert values.dtype == np.int64


@pytest.mark.parametrize(
  ('cells', 'per_second'),
  [
    (('1514851200', '-5'), 1),
    (('99999999999', '0'), 1),
    (('1514851200000', '5'), 10**3),
    (('1514851200000.0', '5'), 10**3),
    (('1514851200000000', '5'), 10**6),
    (('1514851200000000000', '5'), 10**9),
  ],
)
def test_whole_numbers_too_large_for_seconds_are_of_a_smaller_unit(tmp_path, cells, per_second):
  path = csv(tmp_path, 'user,time\n' + ''.join(f'u,{cell}\n' for cell in cells))
  got, ticks = columns.times(columns.read(path, ('time',), {}), 'time')
  assert ticks == per_second
  assert got.tolist() == [int(float(cell)) for cell in cells]


@pytest.mark.parametrize(
  ('cells', 'row', 'got'),
  [
    (('1', '2', 'x'), 4, "'x'"),
    (('1', ''), 3, "''"),
    (('x', '1'), 2, "'x'"),
    (('1', '2018-01-02'), 3, "'2018-01-02'"),
    (('2018-01-02', '1'), 3, "'1'"),
    (('2018-01-02', '2018-13-01'), 3, "'2018-13-01'"),
    (('2018-01-02', '2018-01-02T00:00:00Z'), 3, "'2018-01-02T00:00:00Z'"),
    (('02/01/2018',), 2, "'02/01/2018'"),
    (('1', ' 2'), 3, "' 2'"),
  ],
)
def test_what_is_no_time(tmp_path, cells, row, got):
  message = (
    f'{row}: time must be an integer, a number or a date of ISO 8601, in all rows alike; got {got}'
  )
  with pytest.raises(ValueError, match=f':{re.escape(message)}'):
    times(tmp_path, *cells)


@pytest.mark.parametrize('cells', [('1', 'nan'), ('1', 'inf'), ('1', '1e30'), ('1.5', '9' * 25)])
def test_times_that_no_integer_holds(tmp_path, cells):
  with pytest.raises(ValueError, match=':3: time must be a time that 64 bits can hold'):
    times(tmp_path, *cells)


def test_times_of_parquet(tmp_path):
  moment = datetime.datetime(2018, 1, 2, tzinfo=datetime.UTC)
  for values, expected, ticks in (
    (pa.array([5, 6], pa.int32()), [5, 6], 1),
    (pa.array([5, 6], pa.uint64()), [5, 6], 1),
    (pa.array([5.0, 6.5]), [5_000_000, 6_500_000], 10**6),
    (pa.array([moment], pa.timestamp('us', 'UTC')), [1514851200 * 10**6], 10**6),
    (pa.array([moment], pa.timestamp('ns')), [1514851200 * 10**9], 10**9),
    (pa.array([moment.date()]), [1514851200 * 10**3], 10**3),
    (pa.array(['2018-01-02']), [1514851200 * 10**6], 10**6),
  ):
    rows = columns.read(parquet(tmp_path, time=values), ('time',), {})
    got, per_second = columns.times(rows, 'time')
    assert (got.tolist(), per_second) == (expected, ticks), values.type
  for values, message in (
    (pa.array([True]), r't\.parquet: column time must hold times; got bool'),
    (pa.array([1, None]), 'row 2: time must be there; got none'),
    (pa.array([1.0, np.nan]), 'row 2: time must be a time that 64 bits can hold; got .*nan'),
  ):
    rows = columns.read(parquet(tmp_path, time=values), ('time',), {})
    with pytest.raises(ValueError, match=message):
      columns.times(rows, 'time')


def test_numbers(tmp_path):
  rows = columns.read(csv(tmp_path, 'user,rating\na,1\na,2.5\na,-3e2\n'), ('rating',), {})
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
    rows = columns.read(csv(tmp_path, f'user,rating\na,1\na,{cell}\n'), ('rating',), {})
    with pytest.raises(ValueError, match=f':3: rating must be a finite number.*{got}'):
      columns.numbers(rows, 'rating')
  for values, expected in (([1, 2], [1, 2]), (pa.array([1, 2]).cast(pa.decimal128(20, 1)), [1, 2])):
    rows = columns.read(parquet(tmp_path, rating=values), ('rating',), {})
    assert columns.numbers(rows, 'rating').tolist() == expected
  rows = columns.read(parquet(tmp_path, rating=[True]), ('rating',), {})
  with pytest.raises(ValueError, match='column rating must hold numbers; got bool'):
    columns.numbers(rows, 'rating')


def test_the_first_broken_row_among_many_is_found(tmp_path):
  rng = np.random.default_rng(0)
  for _ in range(20):
    cells = rng.integers(0, 10**9, 1000).astype(str)
    broken = np.sort(rng.choice(1000, 3, replace=False))
    cells[broken] = 'x'
    with pytest.raises(ValueError, match=rf'\.csv:{broken[0] + 2}: time must be'):
      times(tmp_path, *cells)
