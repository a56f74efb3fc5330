"""Histories as item indices: columns, ids, unknown items, and the errors of bad ones."""

import types

import pytest

from recjax.data.histories import Reader

DATASET = types.SimpleNamespace(
  items=[{'id': f'i{n:02}'} for n in range(24)], event_names=['buy', 'view']
)


def read(columns=(), skip_unknown=False, dataset=DATASET, **fields):
  return Reader(dataset, columns).row(fields, 'h.jsonl:1', skip_unknown, 'Remedy')


def test_times_and_events_are_read_on_request():
  fields = {'history': ['i03', 'i01'], 'times': [5, 7.5], 'events': ['buy', 'view']}
  row = read(('events', 'times'), user='ann', **fields)
  assert row.items.tolist() == [3, 1]
  assert row.known['times'].tolist() == [5, 7]
  assert row.known['events'].tolist() == [0, 1]
  assert row.fields['user'] == 'ann'
  assert read(**fields).known == {}


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'history': ['i03', 'i99']}, r"h.jsonl:1: every item must be in the catalogue; 'i99' is not"),
    ({'history': [['i03']]}, r'every item must be in the catalogue'),
    (
      {'history': ['i03'], 'times': [1, 2]},
      r'times must be a list with one value per item of the history \(1\); got 2 values',
    ),
    ({'history': ['i03'], 'times': ['noon']}, r'times must be numbers of seconds'),
    ({'history': ['i03'], 'times': [float('nan')]}, r'h.jsonl:1: times must be numbers of seconds'),
    ({'history': ['i03'], 'events': ['look']}, r"every event must be in the log; 'look' is not"),
  ],
)
def test_errors_name_the_history(row, message):
  with pytest.raises(ValueError, match=message):
    read(('events', 'times'), **row)


def test_ids_may_be_numbers():
  dataset = types.SimpleNamespace(items=[{'id': str(n)} for n in range(20)], event_names=())
  row = read(skip_unknown=True, dataset=dataset, history=[7, '3', 1.0, 9999])
  assert row.items.tolist() == [7, 3]
  assert row.unknown == row.fields['unknown'] == [1.0, '9999']


def test_unknown_items_may_be_left_out():
  row = read(('times',), True, history=['gone', 'i03', 'i99', 'i01'], times=[1, 2, 3, 4])
  assert row.items.tolist() == [3, 1]
  assert row.known['times'].tolist() == [2, 4]
  assert row.fields['unknown'] == ['gone', 'i99']
  assert row.is_known == [False, True, False, True]
  row = read(skip_unknown=True, history=['i03'], unknown=5)  # a key of the user
  assert row.unknown == [] and row.fields['unknown'] == 5


def test_the_items_of_a_catalogue_are_looked_up():
  reader = Reader(DATASET)
  assert reader.known(['i03', 'gone', 4, None, ['i01'], 'i01']).tolist() == [3, 1]
  assert reader.indices(iter(['i05', 'i05']), 'candidates').tolist() == [5, 5]
  with pytest.raises(
    ValueError, match=r"^candidates: every item must be in the catalogue; 'a', 'b' are not$"
  ):
    reader.indices(['a', 'i03', 'b'], 'candidates')
