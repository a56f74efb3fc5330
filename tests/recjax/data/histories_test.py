"""Files of histories: columns, ids, unknown items, and the errors of bad lines."""

import json
import pathlib
import types

import pytest

from recjax.data.histories import Reader, check_histories, read_histories

DATASET = types.SimpleNamespace(
  items=[{'id': f'i{n:02}'} for n in range(24)], event_names=['buy', 'view']
)


def write(tmp_path: pathlib.Path, **row) -> pathlib.Path:
  path = tmp_path / 'h.jsonl'
  path.write_text(json.dumps(row) + '\n')
  return path


def test_times_and_events_are_read_on_request(tmp_path):
  path = write(tmp_path, user='ann', history=['i03', 'i01'], times=[5, 7.5], events=['buy', 'view'])
  (row,) = read_histories(path, Reader(DATASET, ('events', 'times')))
  assert row.items.tolist() == [3, 1]
  assert row.known['times'].tolist() == [5, 7]
  assert row.known['events'].tolist() == [0, 1]
  assert row.fields['user'] == 'ann'
  (row,) = read_histories(path, Reader(DATASET))
  assert row.known == {}


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'history': ['i03', 'i99']}, r"h.jsonl:1: every item must be in the catalogue; 'i99' is not"),
    ({'history': [['i03']]}, r'every item must be in the catalogue'),
    ({'history': ['i03'], 'times': [1, 2]}, r'times must be a list with one value per item'),
    ({'history': ['i03'], 'times': ['noon']}, r'times must be numbers of seconds'),
    ({'history': ['i03'], 'times': [float('nan')]}, r'h.jsonl:1: times must be numbers of seconds'),
    ({'history': ['i03'], 'events': ['look']}, r"every event must be in the log; 'look' is not"),
  ],
)
def test_errors_name_the_line(tmp_path, row, message):
  path = write(tmp_path, **row)
  check_histories(path)  # these errors need the data set
  with pytest.raises(ValueError, match=message):
    read_histories(path, Reader(DATASET, ('events', 'times')))


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'h.jsonl must hold at least one history; it is empty. Set --histories'),
    ('\n \n', 'must hold at least one history'),
    ('{"history": []}\nno JSON\n', 'h.jsonl:2: a line must be a JSON object; Expecting value'),
    ('["i03"]\n', 'h.jsonl:1: a line must be an object with a list "history"'),
    ('{"items": ["i03"]}\n', 'h.jsonl:1: a line must be an object with a list "history"'),
    ('{"history": "i03"}\n', 'h.jsonl:1: a line must be an object with a list "history"'),
  ],
)
def test_bad_files_are_refused_without_the_data_set(tmp_path, text, message):
  path = tmp_path / 'h.jsonl'
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    check_histories(path)
  with pytest.raises(ValueError, match=message):
    read_histories(path, Reader(DATASET))


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'--histories must be a file; .*none.jsonl does not'):
    check_histories(tmp_path / 'none.jsonl')


def test_lines_end_at_line_feeds_only(tmp_path):
  path = tmp_path / 'h.jsonl'
  path.write_bytes('\ufeff{"history": ["i03"], "note": "a\u2028b"}\r\n\n{"history": []}'.encode())
  first, second = read_histories(path, Reader(DATASET))
  assert (first.items.tolist(), first.fields['note']) == ([3], 'a\u2028b')
  assert not len(second.items)


def test_ids_may_be_numbers(tmp_path):
  dataset = types.SimpleNamespace(items=[{'id': str(n)} for n in range(20)], event_names=())
  path = write(tmp_path, history=[7, '3', 1.0, 9999])
  (row,) = read_histories(path, Reader(dataset), skip_unknown=True)
  assert row.items.tolist() == [7, 3]
  assert row.fields['unknown'] == [1.0, '9999']


def test_unknown_items_may_be_left_out(tmp_path):
  path = write(tmp_path, history=['gone', 'i03', 'i99', 'i01'], times=[1, 2, 3, 4])
  (row,) = read_histories(path, Reader(DATASET, ('times',)), skip_unknown=True)
  assert row.items.tolist() == [3, 1]
  assert row.known['times'].tolist() == [2, 4]
  assert row.fields['unknown'] == ['gone', 'i99']
