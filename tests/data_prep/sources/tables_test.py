"""Tables, delimited and Parquet, in one file and in parts; invalid rows are rejected with their line."""

import gzip
import re

from etils import epath
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_prep.sources import columns, delimited, tables

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


@pytest.mark.parametrize('name', ['t.csv', 't.csv.gz'])
def test_csv_cells_with_quotes_commas_line_ends_and_bom(tmp_path, name):
  text = '\ufeffuser,item,extra\r\n"a, b",é,1\r\n\r\n"say ""hi""\nto me",x,2\r\n,y,3'
  rows = read(csv(tmp_path, text, name), ('user', 'item'), REQUIRED)
  assert {name: values.to_pylist() for name, values in rows.columns.items()} == {
    'user': ['a, b', 'say "hi"\nto me', ''],
    'item': ['é', 'x', 'y'],
  }
  assert [rows.place(row).rpartition(':')[2] for row in range(3)] == ['2', '4', '6']


def test_tabs_without_quotes(tmp_path):
  path = csv(tmp_path, 'user\titem\n"a\tb, c"\n')
  (found,) = delimited.batches(path, ('user', 'item'), '\t', quoted=False)
  assert found['user'].to_pylist() == ['"a']
  assert found['item'].to_pylist() == ['b, c"']


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
    ('user,item\n"a,b\n', ':2: a quote'),
    ('user,item\na,b\rc\n', ':[23]: must '),
  ],
)
def test_an_invalid_csv_file_is_rejected_with_the_line(tmp_path, content, message):
  path = csv(tmp_path, content)
  with pytest.raises(ValueError, match=f'{re.escape(str(path))}{message}') as error:
    read(path, ('user', 'item'), REQUIRED)
  assert len(str(error.value)) < 500


def test_all_missing_columns_are_named_at_once(tmp_path):
  required = REQUIRED | {'item': 'data.item_column'}
  message = (
    r":1: must have columns 'user', 'item'; it has 'client'\. "
    r'Set --config\.data\.user_column, --config\.data\.item_column$'
  )
  with pytest.raises(ValueError, match=message):
    read(csv(tmp_path, 'client\na\n'), ('user', 'item'), required)


def test_an_invalid_parquet_file_is_rejected(tmp_path):
  path = parquet(tmp_path, user=['a'] * 1000)
  whole = path.read_bytes()
  for broken in (whole[:-10], whole[: len(whole) // 2], b'', b'user,item\na,b\n'):
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r't\.parquet: must be a complete Parquet file'):
      read(path, ('user',), REQUIRED)
  with pytest.raises(ValueError, match=r"t\.parquet: must have a column 'user'; it has 'item'"):
    read(parquet(tmp_path, item=['a']), ('user',), REQUIRED)
  doubled = pa.Table.from_arrays([pa.array(['a'])] * 2, ['user', 'user'])
  pyarrow.parquet.write_table(doubled, path)
  with pytest.raises(ValueError, match=r't\.parquet: must name each column once'):
    read(path, ('user',), REQUIRED)


def test_parts_are_concatenated_in_order(tmp_path):
  for name, rows in (
    ('a', 'item,user\n1,x\n'),
    ('b', 'user;item\n'),
    ('c', 'user\titem\ny\t2\n\nz\t\n'),
  ):
    csv(tmp_path, rows, f'{name}.csv')
  paths = [epath.Path(tmp_path) / f'{name}.csv' for name in 'abc']
  rows = tables.read(paths, ('user', 'item'), REQUIRED)
  assert rows.columns['user'].to_pylist() == ['x', 'y', 'z']
  assert [rows.place(row) for row in range(3)] == [
    f'{paths[0]}:2',
    f'{paths[2]}:2',
    f'{paths[2]}:4',
  ]
  with pytest.raises(
    ValueError, match=r"c\.csv:4: item must be a string that is not empty; got ''"
  ):
    columns.ids(rows, 'item')


@pytest.mark.parametrize(
  ('kinds', 'expected'),
  [
    ((pa.int32(), pa.int64()), ['1', '2']),
    ((pa.string(), pa.large_string()), ['1', '2']),
    ((pa.string(), pa.string_view()), ['1', '2']),
    ((pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string())), ['1', '2']),
  ],
)
def test_parts_of_compatible_types_are_promoted(tmp_path, kinds, expected):
  paths = []
  for n, kind in enumerate(kinds, 1):
    value = n if pa.types.is_integer(kind) else str(n)
    pyarrow.parquet.write_table(
      pa.table({'user': pa.array([value], kind)}), tmp_path / f'{n}.parquet'
    )
    paths.append(epath.Path(tmp_path) / f'{n}.parquet')
  rows = tables.read(paths, ('user',), REQUIRED)
  assert columns.ids(rows, 'user').tolist() == expected


def test_parts_of_incompatible_types_or_columns_are_rejected(tmp_path):
  paths = [epath.Path(tmp_path) / f'{n}.parquet' for n in range(2)]
  for path, values in zip(paths, ({'user': [1]}, {'user': ['x']}), strict=True):
    pyarrow.parquet.write_table(pa.table(values), path)
  with pytest.raises(
    ValueError, match=r'1\.parquet: column user must be of the same type in all parts; it is string'
  ):
    tables.read(paths, ('user',), REQUIRED)


def write_parts(folder, *tables_of_parts):
  paths = [epath.Path(folder) / f'{n}.parquet' for n in range(len(tables_of_parts))]
  for path, values in zip(paths, tables_of_parts, strict=True):
    pyarrow.parquet.write_table(pa.table(values), path)
  return paths


def test_a_column_that_a_part_lacks_is_null_there(tmp_path):
  paths = write_parts(tmp_path, {'user': ['a']}, {'user': ['b'], 'rating': [2.5]})
  rows = tables.read(paths, ('user', 'rating'), REQUIRED)
  assert rows.columns['rating'].to_pylist() == [None, 2.5]
  assert rows.columns['user'].to_pylist() == ['a', 'b']


def test_parts_of_descriptive_columns_may_differ_in_type(tmp_path):
  paths = write_parts(
    tmp_path,
    {'user': ['a'], 'price': [1.5]},
    {'user': ['b', 'c'], 'price': ['$3', None]},
    {'user': ['d'], 'price': [['x', 'y']]},
  )
  rows = tables.read(paths, ('user', 'price'), REQUIRED, loose=('price',))
  assert columns.texts(rows, 'price') == [1.5, '$3', None, ['x', 'y']]


def test_parts_with_and_without_a_dictionary_and_instants_of_several_zones(tmp_path):
  zones = [pa.array([0], pa.timestamp('ms', zone)) for zone in ('UTC', 'Asia/Tokyo')]
  users = pa.array(['a']), pa.array(['b']).dictionary_encode()
  paths = write_parts(
    tmp_path, *({'user': user, 'time': zone} for user, zone in zip(users, zones, strict=True))
  )
  rows = tables.read(paths, ('user', 'time'), REQUIRED)
  assert columns.ids(rows, 'user').names == ['a', 'b']
  assert rows.columns['time'].type == pa.timestamp('ms', 'UTC')


@pytest.mark.parametrize('kind', ['csv', 'parquet'])
def test_folders_of_a_partition_are_columns(tmp_path, kind):
  folder = tmp_path / 'event=a%20b' / 'user=__HIVE_DEFAULT_PARTITION__' / 'year=2024'
  folder.mkdir(parents=True)
  path = epath.Path(folder) / f'0.{kind}'
  if kind == 'csv':
    path.write_text('item,user\n1,x\n2,y\n')
  else:
    pyarrow.parquet.write_table(pa.table({'item': ['1', '2'], 'user': ['x', 'y']}), path)
  rows = tables.read([path], ('user', 'item', 'event'), {'event': 'data.event_column'})
  assert {name: values.to_pylist() for name, values in rows.columns.items()} == {
    'item': ['1', '2'],
    'user': ['x', 'y'],  # the file's own column counts
    'event': ['a b', 'a b'],
  }


def test_columns_that_are_not_wanted_may_share_a_name(tmp_path):
  path = csv(tmp_path, 'user,x,x,,\na,1,2,,\n')
  assert read(path, ('user',), REQUIRED).columns['user'].to_pylist() == ['a']
  values = pa.Table.from_arrays([pa.array(['a']), pa.array([1]), pa.array([2])], ['user', 'x', 'x'])
  path = epath.Path(tmp_path) / 't.parquet'
  pyarrow.parquet.write_table(values, path)
  assert read(path, ('user',), REQUIRED).columns['user'].to_pylist() == ['a']
  with pytest.raises(ValueError, match=r't\.parquet: must name each column once'):
    read(path, ('user', 'x'), REQUIRED)


def test_a_broken_parquet_file_is_named_in_one_line(tmp_path):
  path = parquet(tmp_path, user=['a'] * 100)
  content = path.read_bytes()
  path.write_bytes(content[:5] + b'\xff' * 30 + content[35:])
  with pytest.raises(
    ValueError, match=r't\.parquet: must be a complete Parquet file; .*fetch it'
  ) as error:
    read(path, ('user',), REQUIRED)
  assert '\n' not in str(error.value)
