"""RecBole's atomic files, hand-made in the official format."""

import dataclasses

from etils import epath
import pytest

from data_prep import sources
from tests.data_prep.sources.reading import cleaned, tidied

DATA = sources.get('recbole')(source='recbole', name='x', category='X')
INTER = 'user_id:token\titem_id:token\trating:float\ttimestamp:float\n'


def load(folder):
  return DATA.load(epath.Path(folder))


def write(folder, inter, item='item_id:token\na\nb\n'):
  (folder / 'X.inter').write_bytes(inter if isinstance(inter, bytes) else inter.encode())
  (folder / 'X.item').write_text(item)


def test_reads_movies(tmp_path):
  write(
    tmp_path,
    INTER + '196\t242\t3\t881250949\n186\t302\t3.5\t891717742.0\n',
    'item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n'
    '242\t"Kolya" Story\t1996\tComedy Drama\n302\tL.A. Confidential\t1997\t\n',
  )
  log = load(tmp_path)
  assert log.users.tolist() == ['196', '186']
  assert log.items.tolist() == ['242', '302']
  assert log.times.tolist() == [881250949, 891717742]
  assert log.ratings.tolist() == [3, 3.5]
  assert log.item_records == {
    '242': {'title': '"Kolya" Story', 'categories': [['Comedy'], ['Drama']]},
    '302': {'title': 'L.A. Confidential'},
  }


def test_reads_products_without_ratings(tmp_path):
  write(
    tmp_path,
    'timestamp:float\titem_id:token\tuser_id:token\n5\ta\tu\n4\tb\tv\n',
    'item_id:token\ttitle:token\tprice:float\tbrand:token\tcategories:token_seq\tsales_rank:float\n'
    "a\tSoap\t2.50\tAcme\t'Home & Garden', 'Bath'\t7\nb\tOil\t\t\tTools Lamps\t\n",
  )
  log = load(tmp_path)
  assert log.users.tolist() == ['u', 'v']
  assert log.ratings is None
  assert tidied(log.item_records) == {
    'a': {
      'title': 'Soap',
      'brand': 'Acme',
      'price': 2.5,
      'categories': [['Home & Garden', 'Bath']],
    },
    'b': {'title': 'Oil', 'categories': [['Tools', 'Lamps']]},
  }


@pytest.mark.parametrize(
  ('inter', 'message'),
  [
    ('', r'X\.inter:1: the first line must name the columns'),
    (INTER, r'X\.inter must hold interactions; it holds none'),
    ('user_id\titem_id\ttimestamp\n', ":1: a column must be name:type .*; got 'user_id'"),
    ('user_id:str\titem_id:token\n', ":1: a column must be name:type .*; got 'user_id:str'"),
    (
      'user_id:token\titem_id:token\nu\ta\n',
      ":1: must have a column 'timestamp'; it has 'user_id', 'item_id'.*time_column",
    ),
    (INTER + 'u\ta\t1\t5\nu\ta\t1\n', ':3: must have 4 columns, as the first line; got 3'),
    (INTER + 'u\ta\t1\t5\nu\tc\t1\t6\n', r":3: an item must be in X\.item; got 'c'"),
    (INTER + 'u\ta\t1\tx\n', ":2: timestamp must be an integer.*got 'x'"),
    (INTER.encode() + b'\xff\ta\t1\t1\n', ':2: must be text in UTF-8'),
  ],
)
def test_invalid_interactions_are_rejected_with_file_and_line(tmp_path, inter, message):
  write(tmp_path, inter)
  with pytest.raises(ValueError, match=message) as error:
    cleaned(load(tmp_path))
  assert len(str(error.value)) < 500


@pytest.mark.parametrize(
  ('item', 'message'),
  [
    (
      'title:token\nx\n',
      r"X\.item:1: must have a column 'item_id'; it has 'title'.*data\.item_id_column",
    ),
    ('item_id:token\na\nb\na\n', r"X\.item:4: an item must be listed once; 'a' is repeated"),
  ],
)
def test_invalid_items_are_rejected_with_file_and_line(tmp_path, item, message):
  write(tmp_path, INTER + 'u\ta\t1\t5\n', item)
  with pytest.raises(ValueError, match=message):
    load(tmp_path)


def test_missing_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'^X\.inter and X\.item must be in.*data\.raw_dir'):
    load(tmp_path)


def test_the_config_can_name_other_columns(tmp_path):
  """RecBole's Steam data set has such names."""
  write(
    tmp_path,
    'who:token\tproduct_id:token\twhen:float\tkind:token\nu\ta\t5\tview\n',
    'product_id:token\tapp_name:token\tcost:token\nx\tX\t1\na\tGame\t$4.99\n',
  )
  names = {'user_column': 'who', 'item_column': 'product_id', 'time_column': 'when'}
  data = dataclasses.replace(
    DATA, **names, event_column='kind', title_column='app_name', price_column='cost'
  )
  log = data.load(epath.Path(tmp_path))
  assert (log.users.tolist(), log.items.tolist(), log.events.tolist()) == (['u'], ['a'], ['view'])
  assert tidied(log.item_records)['a'] == {'title': 'Game', 'price': 4.99}
  assert not log.ignored_columns
  for field in ('user', 'item', 'time', 'rating', 'event', 'title', 'price'):
    wrong = dataclasses.replace(data, **{f'{field}_column': 'no'})
    with pytest.raises(ValueError, match=rf":1: must have a column 'no'.*data\.{field}_column"):
      wrong.load(epath.Path(tmp_path))


def test_short_column_names_replace_the_usual_names(tmp_path):
  write(tmp_path, 'user:token\titem:token\ttime:float\nu\ta\t5\n', 'item:token\na\n')
  assert load(tmp_path).users.tolist() == ['u']


def test_columns_without_a_use_are_listed(tmp_path):
  write(
    tmp_path,
    'user:token\titem_id:token\ttimestamp:float\tx:token\nu\ta\t5\tx\n',
    'item_id:token\tname:token\ttitle:token\tyear:float\na\tA\tB\t1999\n',
  )
  # The title is the first of the usual columns, so `name` has no use.
  assert load(tmp_path).ignored_columns == {'interactions': ['x'], 'items': ['name', 'year']}


def test_a_column_that_is_named_twice_is_refused(tmp_path):
  write(tmp_path, 'user_id:token\titem_id:token\tuser_id:float\ttimestamp:float\n')
  with pytest.raises(
    ValueError, match=r"\.inter:1: must name each column once; got 'user_id:token' and"
  ):
    load(tmp_path)
