"""The files of the `interactions` stage, compared with values worked out by hand."""

import json

from etils import epath
import numpy as np
import pytest

from data_prep.log import interactions, log_writer, raw_log, splits


def write(folder, log, kind='leave_one_out', catalogue='interacted', duplicates='refuse'):
  cleaned = interactions.clean(log, 0, duplicates, catalogue)
  arrays = splits.split(cleaned, kind, (0.5, 0.25, 0.25), 0)
  statistics = log_writer.write(cleaned, arrays, log.item_records, epath.Path(folder))
  assert statistics == json.loads((folder / 'statistics.json').read_text())
  return statistics, {path.stem: np.load(path) for path in folder.glob('*.npy')}


def read_items(folder):
  return [json.loads(line) for line in (folder / 'items.jsonl').read_text().splitlines()]


USERS = ['b', 'a', 'b', 'a', 'b', 'a', 'b']
ITEMS = ['y', 'x', 'x', 'y', 'x', 'z', 'w']
TIMES = [4, 7, 1, 7, 2, 7, 3]
RECORDS = {
  'x': {'title': 'Soap &amp; \n water', 'brand': 'B'},
  'y': {'title': 'half \ud800', 'price': 2.5},
  'z': {'title': None, 'brand': ''},
  'unseen': {'title': 'never bought'},
}


def raw(**fields):
  return raw_log.RawLog(np.array(USERS), np.array(ITEMS), np.array(TIMES), RECORDS, **fields)


@pytest.mark.usefixtures('sizes')
def test_leave_one_out_files_equal_values_by_hand(tmp_path):
  statistics, arrays = write(tmp_path, raw())
  assert json.loads((tmp_path / 'users.json').read_text()) == ['a', 'b']
  # a: x y z at one time, in file order. b: x x w y.
  assert {name: array.tolist() for name, array in arrays.items()} == {
    'train_items': [1, 1, 1],
    'train_times': [7, 1, 2],
    'train_offsets': [0, 1, 3],
    'validation_items': [2, 0],
    'validation_times': [7, 3],
    'test_items': [3, 2],
    'test_times': [7, 4],
  }
  assert arrays['train_items'].dtype == arrays['test_items'].dtype == np.int32
  assert arrays['train_offsets'].dtype == arrays['train_times'].dtype == np.int64
  assert not (tmp_path / 'events.json').exists()
  assert read_items(tmp_path) == [
    {'id': 'w', 'text': ''},
    {'id': 'x', 'title': 'Soap & water', 'brand': 'B', 'text': 'Soap & water. B'},
    {'id': 'y', 'title': 'half', 'price': 2.5, 'text': 'half'},
    {'id': 'z', 'text': ''},
  ]
  assert statistics == {
    'users': 2,
    'items': 4,
    'interactions': 7,
    'mean_length': 3.5,
    'max_length': 4,
    'repeated_interactions': 1,
    'items_without_record': 1,
    'items_without_title': 2,
    'items_without_text': 2,
    'equal_times': 2,
    'unreachable_targets': {'validation': 0, 'test': 0},
  }


@pytest.mark.usefixtures('sizes')
def test_ratings_and_events_are_split_like_items(tmp_path):
  ratings = np.array([1, 2, 3, 4, 5, 2.5, 0.5], np.float32)
  events = np.array(['view', 'buy', 'view', 'buy', 'buy', 'view', 'view'])
  _, arrays = write(tmp_path, raw(ratings=ratings, events=events))
  assert json.loads((tmp_path / 'events.json').read_text()) == ['buy', 'view']
  assert arrays['train_ratings'].dtype == np.float32
  assert arrays['train_events'].dtype == np.int32
  found = {name: array.tolist() for name, array in arrays.items() if name[-1] == 's'}
  assert found['train_ratings'] == [2, 3, 5]
  assert found['validation_ratings'] == [4, 0.5]
  assert found['test_ratings'] == [2.5, 1]
  assert found['train_events'] == [0, 1, 0]
  assert found['validation_events'] == [0, 1]
  assert found['test_events'] == [1, 1]


@pytest.mark.usefixtures('sizes')
def test_global_time_files_equal_values_by_hand(tmp_path):
  # Targets in order of time: b at 2, 3, 4, then a's y and z at 7. Half of the five are two.
  statistics, arrays = write(tmp_path, raw(), 'global_time')
  assert {name: array.tolist() for name, array in arrays.items()} == {
    'train_items': [1, 1, 0],
    'train_times': [1, 2, 3],
    'train_offsets': [0, 0, 3],  # a begins after the cut: nothing of a is trained on
    'validation_users': [1],
    'validation_items': [2],
    'validation_times': [4],
    'validation_history_items': [1, 1, 0],
    'validation_history_times': [1, 2, 3],
    'validation_history_offsets': [0, 3],
    'test_users': [0, 0],
    'test_items': [2, 3],
    'test_times': [7, 7],
    'test_history_items': [1, 1, 2],
    'test_history_times': [7, 7, 7],
    'test_history_offsets': [0, 1, 3],
  }
  assert statistics['interactions'] == 7
  assert statistics['training_interactions'] == 3
  assert (statistics['validation_rows'], statistics['test_rows']) == (1, 2)


def test_duplicates_and_items_without_interaction_are_counted(tmp_path):
  log = raw_log.RawLog(
    np.array([*USERS, 'b']), np.array([*ITEMS, 'w']), np.array([*TIMES, 3]), RECORDS
  )
  statistics, arrays = write(tmp_path, log, catalogue='all', duplicates='drop')
  assert statistics['duplicates_dropped'] == 1
  assert statistics['items'] == 5
  assert statistics['items_without_interaction'] == 1
  assert [row['id'] for row in read_items(tmp_path)] == ['unseen', 'w', 'x', 'y', 'z']
  assert arrays['train_items'].tolist() == [2, 2, 2]


def test_users_and_items_of_a_sources_held_out_rows_are_numbered(tmp_path):
  rows = raw_log.HeldOutRows(np.array(['c']), [['w', 'unseen']], np.array(['v']))
  log = raw(held_out={'validation': rows, 'test': rows})
  statistics, arrays = write(tmp_path, log, 'source')
  assert json.loads((tmp_path / 'users.json').read_text()) == ['a', 'b', 'c']
  assert [row['id'] for row in read_items(tmp_path)] == ['unseen', 'v', 'w', 'x', 'y', 'z']
  assert arrays['train_offsets'].tolist() == [0, 3, 7, 7]
  assert arrays['test_history_items'].tolist() == [2, 0]
  assert (statistics['users'], statistics['test_rows']) == (3, 1)
  assert 'items_without_interaction' not in statistics


@pytest.mark.parametrize('kind', ['leave_one_out', 'global_time'])
def test_a_catalogue_without_texts_is_allowed(tmp_path, kind):
  log = raw_log.RawLog(np.array(USERS), np.array(ITEMS), np.array(TIMES), {})
  statistics, _ = write(tmp_path, log, kind)
  assert statistics['items_without_text'] == statistics['items_without_record'] == 4
