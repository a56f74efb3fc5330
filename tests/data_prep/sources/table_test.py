"""The source `table`, as CSV and Parquet, with named columns; invalid rows are rejected."""

import dataclasses
import datetime
import gzip

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_prep import sources
from data_prep.log import interactions
from tests.data_prep.sources.reading import cleaned, tidied

DATA = sources.get('table')(source='table', name='x')
LOG = {
  'user': ['u1', 'u2', 'u1'],
  'item': ['7', '8', '7'],
  'time': [30, 10, 20],
  'rating': [1.0, 2.5, 5.0],
  'event': ['view', 'buy', 'view'],
}
ITEMS = {
  'item': ['7', '8'],
  'title': ['Soap, wet', ''],
  'price': ['2.50', ''],
  'colour': ['red', 'blue'],
}


def load(folder, data=DATA):
  return data.load(epath.Path(folder))


def write_csv(folder, name, table):
  rows = [list(table), *zip(*table.values(), strict=True)]
  text = ''.join(
    ','.join(f'"{cell}"' if ',' in str(cell) else str(cell) for cell in row) + '\n' for row in rows
  )
  content = text.encode()
  (folder / name).write_bytes(gzip.compress(content) if name.endswith('.gz') else content)


def write_parquet(folder, name, table):
  pyarrow.parquet.write_table(pa.table(table), folder / name)


@pytest.mark.parametrize('items', ['items.csv', 'items.csv.gz', 'items.parquet'])
@pytest.mark.parametrize('log', ['interactions.csv', 'interactions.csv.gz', 'interactions.parquet'])
def test_reads_every_kind_of_table(tmp_path, log, items):
  for name, table in ((log, LOG), (items, ITEMS)):
    (write_parquet if name.endswith('parquet') else write_csv)(tmp_path, name, table)
  raw = load(tmp_path)
  assert raw.users.tolist() == LOG['user']
  assert raw.items.tolist() == LOG['item']
  assert raw.times.tolist() == LOG['time']
  assert raw.ratings.tolist() == LOG['rating']
  assert raw.ratings.dtype == np.float32
  assert raw.events.tolist() == LOG['event']
  assert tidied(raw.item_records) == {'7': {'title': 'Soap, wet', 'price': 2.5}, '8': {}}


def test_the_config_can_name_other_columns(tmp_path):
  data = dataclasses.replace(
    DATA, user_column='visitor', item_column='sku', time_column='at', event_column='what'
  )
  log = dict(zip(('visitor', 'sku', 'at', 'stars', 'what'), LOG.values(), strict=True))
  write_csv(tmp_path, 'interactions.csv', log)
  write_csv(tmp_path, 'items.csv', {'sku': ['7', '8'], 'item': ['x', 'y']})
  raw = load(tmp_path, data)
  assert raw.users.tolist() == LOG['user']
  assert raw.ratings is None
  assert raw.events.tolist() == LOG['event']
  assert raw.item_records == {'7': {}, '8': {}}
  for field in ('user', 'item', 'time', 'rating', 'event'):
    with pytest.raises(ValueError, match=rf"csv:1: must have a column 'no'.*data\.{field}_column"):
      load(tmp_path, dataclasses.replace(data, **{f'{field}_column': 'no'}))


def test_equal_column_names_are_rejected(tmp_path):
  write_csv(tmp_path, 'interactions.csv', LOG)
  write_csv(tmp_path, 'items.csv', ITEMS)
  with pytest.raises(
    ValueError, match=r'data\.user_column and data\.item_column must .*both\. Set --config\.'
  ):
    load(tmp_path, dataclasses.replace(DATA, item_column='user'))


def test_parquet_columns_of_various_types_are_read(tmp_path):
  moments = [datetime.datetime(2024, 1, day) for day in (3, 1, 2)]
  write_parquet(
    tmp_path,
    'interactions.parquet',
    {
      'user': [5, 6, 5],
      'item': pa.array(['7', '8', '7']).dictionary_encode(),
      'time': moments,
      'rating': pa.array([1, 2, 5], pa.int8()),
    },
  )
  write_parquet(
    tmp_path,
    'items.parquet',
    {
      'item': [7, 8],
      'title': ['Soap', None],
      'brand': ['Acme', None],
      'description': [None, 'Oily'],
      'categories': [['Home', 'Bath'], None],
      'price': [2.5, None],
    },
  )
  raw = load(tmp_path)
  assert raw.users.tolist() == ['5', '6', '5']
  assert raw.items.tolist() == ['7', '8', '7']
  assert np.argsort(raw.times).tolist() == [1, 2, 0]
  assert tidied(raw.item_records) == {
    '7': {'title': 'Soap', 'brand': 'Acme', 'categories': [['Home', 'Bath']], 'price': 2.5},
    '8': {'description': 'Oily'},
  }


def test_categories_are_read_from_every_format(tmp_path):
  write_csv(tmp_path, 'interactions.csv', LOG)
  spelled = ['Toys > Puzzles | Gifts', '']
  expected = {'7': {'categories': [['Toys', 'Puzzles'], ['Gifts']]}, '8': {}}
  write_csv(tmp_path, 'items.csv', {'item': ['7', '8'], 'categories': spelled})
  assert tidied(load(tmp_path).item_records) == expected
  (tmp_path / 'items.csv').unlink()
  for values in (spelled, [[['Toys', 'Puzzles'], ['Gifts']], None]):
    write_parquet(tmp_path, 'items.parquet', {'item': ['7', '8'], 'categories': values})
    assert tidied(load(tmp_path).item_records) == expected


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'user': ['u1', '', 'u1']},
      "interactions.csv:3: user must be a string that is not empty; got ''",
    ),
    ({'item': ['7', '8', '']}, 'interactions.csv:4: item must be a string that is not empty'),
    ({'item': ['7', '9', '9']}, r"interactions.csv:3: an item must be in items\.csv; got '9'"),
    ({'time': [1, 2, '']}, "interactions.csv:4: time must be an integer.*; got ''"),
    (
      {'time': [1, 'yesterday', 2]},
      "interactions.csv:3: time must be an integer.*; got 'yesterday'",
    ),
    (
      {'event': ['view', 'buy', '']},
      'interactions.csv:4: event must be a string that is not empty',
    ),
  ],
)
def test_a_broken_interaction_is_named_by_file_and_line(tmp_path, change, message):
  write_csv(tmp_path, 'interactions.csv', LOG | change)
  write_csv(tmp_path, 'items.csv', ITEMS)
  with pytest.raises(ValueError, match=message):
    cleaned(load(tmp_path))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'item': ['7', '7']}, "items.csv:3: an item must be listed once; '7' is repeated"),
    ({'item': ['7', '']}, 'items.csv:3: item must be a string that is not empty'),
  ],
)
def test_a_broken_item_is_named_by_file_and_line(tmp_path, change, message):
  write_csv(tmp_path, 'interactions.csv', LOG)
  write_csv(tmp_path, 'items.csv', ITEMS | change)
  with pytest.raises(ValueError, match=message):
    load(tmp_path)


@pytest.mark.parametrize('value', ['good', 'inf', '1e300', '4,500'])
def test_an_unreadable_rating_drops_all_ratings(tmp_path, capsys, value):
  write_csv(tmp_path, 'interactions.csv', LOG | {'rating': [1, value, 2]})
  write_csv(tmp_path, 'items.csv', ITEMS)
  raw = load(tmp_path)
  assert raw.ratings is None
  assert raw.unreadable_ratings == 1
  assert 'interactions.csv:3: rating is not a finite number' in capsys.readouterr().out
  write_csv(tmp_path, 'interactions.csv', {**LOG, 'stars': [1, value, 2]})
  with pytest.raises(ValueError, match=r'interactions\.csv:3: stars must be a finite number'):
    load(tmp_path, dataclasses.replace(DATA, rating_column='stars'))


@pytest.mark.parametrize('value', ['', 'nan', 'NULL', '—', ' N/A '])
def test_rows_without_a_rating_are_kept(tmp_path, value):
  write_csv(tmp_path, 'items.csv', ITEMS)
  for name in ('rating', 'stars'):
    write_csv(tmp_path, 'interactions.csv', {**LOG, name: [1, value, 2]})
    raw = load(tmp_path, dataclasses.replace(DATA, rating_column=name))
    np.testing.assert_array_equal(raw.ratings, [1, np.nan, 2])
    assert raw.unreadable_ratings == 0
  write_csv(tmp_path, 'interactions.csv', {**LOG, 'stars': [value] * 3, 'rating': [value] * 3})
  assert load(tmp_path).ratings is None
  with pytest.raises(
    ValueError, match=r'interactions\.csv: stars must be a number in at least one'
  ):
    load(tmp_path, dataclasses.replace(DATA, rating_column='stars'))


def test_empty_ambiguous_and_missing_tables_are_rejected(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'^interactions and items must be in .*parquet'):
    load(tmp_path)
  write_csv(tmp_path, 'interactions.csv', {name: [] for name in LOG})
  write_csv(tmp_path, 'items.csv', ITEMS)
  with pytest.raises(ValueError, match=r'interactions\.csv must hold interactions; it holds none'):
    load(tmp_path)
  write_parquet(tmp_path, 'interactions.parquet', LOG)
  with pytest.raises(
    ValueError, match=r'one of interactions\.csv and interactions\.parquet, not both'
  ):
    load(tmp_path)


@pytest.mark.parametrize(
  ('cell', 'paths'),
  [
    ("['Toys' 'Puzzles']", [['Toys', 'Puzzles']]),
    ("['Toys'\n \"Girls' toys\"]", [['Toys', "Girls' toys"]]),
    ("['Toys', 'Puzzles']", [['Toys', 'Puzzles']]),
    ('["Toys", null]', [['Toys']]),
    ("[['A'], ['B', 'C']]", [['A'], ['B', 'C']]),
    ('[Toys]', [['[Toys]']]),
  ],
)
def test_lists_of_categories_in_text(tmp_path, cell, paths):
  write_parquet(tmp_path, 'interactions.parquet', LOG)
  write_parquet(tmp_path, 'items.parquet', {'item': ['7', '8'], 'categories': [cell, None]})
  assert tidied(load(tmp_path).item_records)['7'] == {'categories': paths}


def test_values_of_a_partition_are_part_of_the_identity(tmp_path):
  write_parquet(tmp_path, 'items.parquet', ITEMS)
  for event in ('buy', 'view'):
    folder = tmp_path / 'interactions' / f'event={event}'
    folder.mkdir(parents=True)
    write_parquet(folder, '0.parquet', {name: LOG[name] for name in ('user', 'item', 'time')})
  assert load(tmp_path).events.tolist() == ['buy'] * 3 + ['view'] * 3
  assert sorted(DATA.input_files(epath.Path(tmp_path))) == [
    'interactions/event=buy/00000',
    'interactions/event=view/00001',
    'items',
  ]


@pytest.mark.parametrize('name', ['interactions.CSV', 'interactions.xlsx', 'Interactions.csv.bz2'])
def test_a_table_of_another_ending_is_named(tmp_path, name):
  write_csv(tmp_path, 'items.csv', ITEMS)
  (tmp_path / name).write_text('x')
  with pytest.raises(FileNotFoundError, match=rf'interactions must be in .*\. {name} is not read'):
    load(tmp_path)


def test_columns_without_a_use_are_listed_also_those_of_folders(tmp_path):
  write_parquet(tmp_path, 'items.parquet', ITEMS | {'colour': ['red'] * len(ITEMS['item'])})
  for day in ('1', '2'):
    folder = tmp_path / 'interactions' / f'day={day}'
    folder.mkdir(parents=True)
    write_parquet(folder, '0.parquet', LOG | {f'only_{day}': ['x'] * len(LOG['user'])})
  assert load(tmp_path).ignored_columns == {
    'interactions': ['only_1', 'day', 'only_2'], 'items': ['colour']
  }  # fmt: skip


def test_usual_and_joined_columns_of_items(tmp_path):
  write_csv(tmp_path, 'interactions.csv', LOG)
  table = {'item': ['7', '8'], 'name': ['Soap', 'Oil'], 'category': ['Home > Bath', '']}
  write_csv(tmp_path, 'items.csv', table)
  expected = {'7': {'title': 'Soap', 'categories': [['Home', 'Bath']]}, '8': {'title': 'Oil'}}
  assert tidied(load(tmp_path).item_records) == expected
  table |= {'title': ['S', ''], 'l1': ['A', 'B'], 'l2': ['C', ''], 'size': [12, 'nan']}
  write_csv(tmp_path, 'items.csv', table)
  options = {'category_column': 'l1+l2', 'description_column': 'size + name'}
  records = tidied(load(tmp_path, dataclasses.replace(DATA, **options)).item_records)
  assert records['7'] == {'title': 'S', 'description': '12 Soap', 'categories': [['A', 'C']]}
  assert records['8'] == {'description': 'Oil', 'categories': [['B']]}
  with pytest.raises(ValueError, match=r"column 'l3'; .*Set --config\.data\.category_column"):
    load(tmp_path, dataclasses.replace(DATA, category_column='l1+l3'))
  for option, value in (
    ('price_column', 'l1+l2'),
    ('title_column', 'l1+'),
    ('brand_column', 'size'),
  ):
    data = dataclasses.replace(DATA, **options | {option: value})
    with pytest.raises(ValueError, match=rf'(must name|may be named once).*{option}'):
      load(tmp_path, data)


def test_an_empty_item_table_and_a_column_twice_are_refused(tmp_path):
  write_csv(tmp_path, 'interactions.csv', LOG)
  (tmp_path / 'items.csv').write_text('item,title\n')
  with pytest.raises(ValueError, match=r'items\.csv must hold items; it holds none'):
    load(tmp_path)
  (tmp_path / 'items.csv').write_text('item,title,colour,title\n7,a,b,c\n')
  with pytest.raises(ValueError, match=r"items\.csv:1: .*each once; got 'title' several times"):
    load(tmp_path)


def test_kinds_of_events_need_a_column_of_events(tmp_path):
  write_csv(tmp_path, 'items.csv', ITEMS)
  write_csv(tmp_path, 'interactions.csv', {name: LOG[name] for name in ('user', 'item', 'time')})
  with pytest.raises(
    ValueError, match=r"interactions\.csv:1: must have a column 'event'.*event_col"
  ):
    load(tmp_path, dataclasses.replace(DATA, events=('buy',)))


@pytest.mark.parametrize('name', ['interactions.csv.gz', 'parts'])
def test_equal_and_unknown_rows_are_named_by_file_and_line(tmp_path, name):
  """The messages come after the rows were sorted."""
  log = {column: LOG[column] for column in ('user', 'item', 'time')}
  if name == 'parts':
    (tmp_path / 'interactions').mkdir()
    write_parquet(tmp_path, 'interactions/part-0.parquet', log)
    write_parquet(tmp_path, 'interactions/part-1.parquet', {c: v[1:2] for c, v in log.items()})
    later, earlier = r'part-1\.parquet: row 1', r'part-0\.parquet: row 2'
  else:
    write_csv(tmp_path, name, {column: values + values[1:2] for column, values in log.items()})
    later, earlier = r'interactions\.csv\.gz:5', r'interactions\.csv\.gz:3'
  write_csv(tmp_path, 'items.csv', ITEMS)
  with pytest.raises(ValueError, match=rf'{later}: no two .*repeats .*{earlier}: user .u2.'):
    interactions.clean(load(tmp_path), 0)
  write_csv(tmp_path, 'items.csv', {'item': ['7'], 'title': ['x']})
  with pytest.raises(ValueError, match=rf"{earlier}: an item must be .*'8'. 2 interactions have 1"):
    interactions.clean(load(tmp_path), 0)
