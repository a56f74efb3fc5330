"""MiniOneRec's tables: rebuilt sequences against a brute-force cut, broken rows, the published counts."""

import csv
import json

from etils import epath
import numpy as np
import pytest

from data_prep import sources
from data_prep.sources import minionerec
from tests.data_prep.sources.reading import tidied
from tests.shared_data import SHARED, needs_shared

HEADER = ['user_id', 'history_item_title', 'item_title', 'history_item_id', 'item_id', 'item_sid']
ITEMS = {str(n): {'title': f'item {n}', 'description': "['a', 'b']"} for n in range(30)}


def load(folder, category='X'):
  data = sources.get('minionerec')(source='minionerec', name='x', category=category)
  return data.load(epath.Path(folder))


def row(user, history, item):
  return [user, str([f'title, of "{n}"' for n in history]), 'a\nb', str(history), item, '<a_1>']


def write(folder, train, valid=None, test=None, items=ITEMS):
  one = [row('z', [1], 2)]
  for part, rows in (('train', train), ('valid', valid or one), ('test', test or one)):
    (folder / part).mkdir(exist_ok=True)
    with (folder / part / 'X_5_2016-10-2018-11.csv').open('w', newline='') as f:
      csv.writer(f).writerows([HEADER, *rows])
  (folder / 'index').mkdir(exist_ok=True)
  (folder / 'index' / 'X.item.json').write_text(json.dumps(items))


def test_reads_the_three_tables(tmp_path):
  train = [row('b', [3], 4), row('a', [1, 2], 1), row('b', [3, 4], 3), row('b', [9], 8)]
  held_out = [row('a', [1, 2, 1], 5), row('a', [2, 1, 5], 6)]
  write(tmp_path, train, held_out, [row('new', [7], 0)])
  log = load(tmp_path)
  assert log.users.tolist() == ['b', 'b', 'b', 'b#2', 'b#2', 'a', 'a', 'a']
  assert log.items.tolist() == ['3', '4', '3', '9', '8', '1', '2', '1']
  assert np.all(np.diff(log.times) > 0)
  assert tidied(log.item_records)['29'] == {'title': 'item 29', 'description': 'a b'}
  validation, test = log.held_out['validation'], log.held_out['test']
  assert validation.users.tolist() == ['a', 'a']
  assert validation.histories == [['1', '2', '1'], ['2', '1', '5']]
  assert validation.targets.tolist() == ['5', '6']
  assert (test.users.tolist(), test.histories, test.targets.tolist()) == (['new'], [['7']], ['0'])


@pytest.mark.parametrize('seed', range(5))
def test_rebuild_restores_the_original_sequences(seed):
  # Cut as MiniOneRec does, every position with at most ten items before it; rows of users interleaved.
  rng = np.random.default_rng(seed)
  whole = {f'u{u}': [str(n) for n in rng.integers(0, 5, rng.integers(2, 40))] for u in range(20)}
  cut = [
    (n, (user, items[max(0, n - 10) : n], items[n]))
    for user, items in whole.items()
    for n in range(1, len(items))
  ]
  rows = [example for _, example in sorted(cut, key=lambda pair: pair[0])]
  assert minionerec.rebuild(rows) == dict(
    sorted(whole.items(), key=lambda pair: list(whole).index(pair[0]))
  )


def test_a_gap_starts_a_new_sequence():
  rows = [
    ('a', ['1'], '2'),
    ('a', ['1', '2', '3'], '4'),  # 3 was never a target
    ('a', ['1', '2', '3', '4'], '5'),
    ('a', ['1'], '2'),
    ('b', ['2'], '2'),
  ]
  assert minionerec.rebuild(rows) == {
    'a': ['1', '2'],
    'a#2': ['1', '2', '3', '4', '5'],
    'a#3': ['1', '2'],
    'b': ['2', '2'],
  }
  with pytest.raises(
    ValueError, match=r"user 'a' has 2 sequences; .* 'a#2', which is the id of another"
  ):
    minionerec.rebuild([('a', ['1'], '2'), ('a#2', ['1'], '2'), ('a', ['3'], '4')])


@pytest.mark.parametrize(
  ('history', 'item', 'message'),
  [
    ('[1, 2', 3, r"history_item_id must be a list such as \[1, 2\].*; got '\[1, 2'"),
    ('__import__("os").getcwd()', 3, 'history_item_id must be a list'),
    ('[x for x in (1,)]', 3, 'history_item_id must be a list'),
    ('(1, 2)', 3, 'history_item_id must be a list'),
    ('[' * 5000, 3, 'history_item_id must be a list'),
    ('[' + '1, ' * 400_000 + ']', 3, r'history_item_id must be a list .* at most 1,000,000 char'),
    ('[]', 3, 'history_item_id must hold at least one item'),
    ('[1, 2.5]', 3, 'an item must be an index; got 2.5'),
    ('[1, 99]', 3, r"an item must be in X\.item\.json; got '99'"),
    ('[1]', 99, r"an item must be in X\.item\.json; got '99'"),
    ('[1]', '', "an item must be in .*; got ''"),
  ],
)
@pytest.mark.parametrize('part', ['train', 'test'])
def test_a_broken_row_is_named_by_file_and_line(tmp_path, part, history, item, message):
  # Every row takes two lines, because a title does.
  rows = [row('a', [1], 2), ['a', '[]', 'a\nb', history, item, '']]
  write(tmp_path, **{'train': [row('a', [1], 2)], part: rows})
  with pytest.raises(ValueError, match=rf'{part}/X_5_2016-10-2018-11\.csv:4: {message}') as error:
    load(tmp_path)
  assert len(str(error.value)) < 500


def test_invalid_tables_are_rejected_with_the_file(tmp_path):
  write(tmp_path, [row('a', [1], 2)])
  table = tmp_path / 'valid' / 'X_5_2016-10-2018-11.csv'
  for content, message in (
    ('user_id,item_id\n', r"\.csv:1: must have a column 'history_item_id'"),
    ('user_id,item_id,history_item_id\n', r'\.csv must hold rows; it holds none'),
    ('user_id,item_id,history_item_id\na,1,[2]\na,1\n', r'\.csv:3: must have 3 columns'),
    ('user_id,item_id,history_item_id\n,1,[2]\n', r'\.csv:2: user_id must be a string'),
    ('', r'\.csv:1: the first line must name the columns'),
  ):
    table.write_text(content)
    with pytest.raises(ValueError, match=message):
      load(tmp_path)
  (tmp_path / 'valid' / 'X_other.csv').write_text('')
  with pytest.raises(
    ValueError, match=r'valid must hold one table of X; it holds X_5.*, X_other\.csv'
  ):
    load(tmp_path)


def test_missing_files_are_named(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'^train/X\*\.csv and valid.*index/X\.item\.json must be'
  ):
    load(tmp_path)


@needs_shared('amazon2018/industrial')
def test_published_counts(capsys):
  log = load(SHARED / 'amazon2018' / 'industrial', 'Industrial_and_Scientific')
  assert len(log.item_records) == 3686
  assert [len(log.held_out[part].targets) for part in ('validation', 'test')] == [4532, 4533]
  assert [len(log.held_out[part].histories) for part in ('validation', 'test')] == [4532, 4533]
  # The mean history lengths of the published files.
  means = [
    np.mean([len(h) for h in log.held_out[part].histories]) for part in ('validation', 'test')
  ]
  assert means == pytest.approx([4.64, 4.96], abs=0.005)
  # This copy's training part: every row is a target of a sequence, and each sequence has one item more.
  names, lengths = np.unique(log.users, return_counts=True)
  assert (lengths - 1).sum() == 10_393
  assert len(names) == 2625
  assert '10,393 rows of 2,625 users make 2,625 sequences' in capsys.readouterr().out
