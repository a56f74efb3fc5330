"""Files of histories: JSON lines, compressed ones and Parquet; a part at a time; the errors of bad files."""

import datetime
import gzip
import json
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recjax.data.histories import Reader
from recjax.data.history_files import HistoryFile, check_histories

DATASET = types.SimpleNamespace(
  items=[{'id': f'i{n:02}'} for n in range(24)], event_names=['buy', 'view']
)
HISTORIES = [[f'i{n % 24:02}'] * (n % 4) for n in range(50)]


def written(folder, kind):
  """Writes HISTORIES as one kind of file."""
  lines = b''.join(
    json.dumps({'user': n, 'history': h}).encode() + b'\n' for n, h in enumerate(HISTORIES)
  )
  if kind == 'parquet':
    table = pa.table({'user': range(50), 'history': pa.array(HISTORIES, pa.list_(pa.string()))})
    pq.write_table(table, folder / 'h', row_group_size=7)
  else:
    (folder / 'h').write_bytes(gzip.compress(lines, mtime=0) if kind == 'gz' else lines)
  return HistoryFile(folder / 'h')


@pytest.mark.parametrize('kind', ['jsonl', 'gz', 'parquet'])
@pytest.mark.parametrize(('size', 'first'), [(1, 0), (8, 0), (8, 16), (50, 3), (64, 0), (10, 50)])
def test_parts_are_consecutive_in_every_format(tmp_path, kind, size, first):
  file, reader = written(tmp_path, kind), Reader(DATASET)
  parts = list(file.parts(reader, size, first=first))
  assert [len(part.rows) for part in parts] == [
    len(HISTORIES[n : n + size]) for n in range(first, 50, size)
  ]
  rows = [row for part in parts for row in part.rows]
  assert [row.fields['history'] for row in rows] == HISTORIES[first:]
  if kind == 'parquet':
    assert [user for part in parts for user in part.table['user'].to_pylist()] == [
      *range(first, 50)
    ]
  else:
    assert [row.fields['user'] for row in rows] == [*range(first, 50)]
  assert file.check(reader) == (50, 0, 0)


def test_lines_end_at_line_feeds_only(tmp_path):
  path = tmp_path / 'h.jsonl'
  path.write_bytes('\ufeff{"history": ["i03"], "note": "a\u2028b"}\r\n\n{"history": []}'.encode())
  (_, first), (place, second) = HistoryFile(path).objects()
  assert (first['history'], first['note']) == (['i03'], 'a\u2028b')
  assert place == f'{path}:3' and second == {'history': []}


def test_columns_of_parquet_may_have_several_types(tmp_path):
  noon = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
  columns = {
    'history': pa.array([[3], [1]], pa.large_list(pa.int64())),
    'times': pa.array([[noon], None], pa.list_(pa.timestamp('us', 'UTC'))),
    'events': pa.array([['buy'], ['view']]).cast(pa.list_(pa.dictionary(pa.int8(), pa.string()))),
  }
  pq.write_table(pa.table(columns), tmp_path / 'h.parquet')
  names = [str(n) for n in range(9)]
  dataset = types.SimpleNamespace(items=[{'id': n} for n in names], event_names=['buy', 'view'])
  reader = Reader(dataset, ('events', 'times'))
  (part,) = HistoryFile(tmp_path / 'h.parquet', ('events', 'times')).parts(reader, 9)
  first, second = part.rows
  assert (first.items.tolist(), first.known['times'].tolist()) == ([3], [int(noon.timestamp())])
  assert first.known['events'].tolist() == [0] and second.known['events'].tolist() == [1]
  assert 'times' not in second.known


def test_unknown_items_are_counted(tmp_path):
  (tmp_path / 'h').write_text(
    '{"history": ["i03", "x", "y"]}\n{"history": ["z"]}\n{"history": []}\n'
  )
  file = HistoryFile(tmp_path / 'h')
  assert file.check(Reader(DATASET), skip_unknown=True) == (3, 3, 2)
  with pytest.raises(
    ValueError, match=r"h:1: every item must .*; 'x', 'y' are not. Set --skip_unknown"
  ):
    file.check(Reader(DATASET))


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'h.jsonl must hold at least one history; it is empty. Set --histories'),
    ('\n \n', 'must hold at least one history'),
    ('{"history": []}\nno JSON\n', 'h.jsonl:2: a line must be a JSON object; Expecting value'),
    ('["i03"]\n', 'h.jsonl:1: a line must be an object with a list "history"'),
    ('{"items": ["i03"]}\n', 'h.jsonl:1: a line must be an object with a list "history"'),
    ('{"history": "i03"}\n', 'h.jsonl:1: a line must be an object with a list "history"'),
    ('[' * 100_000, 'h.jsonl:1: a line must be a JSON object'),
    (b'\xff\n', 'h.jsonl:1: a line must be a JSON object'),
    (
      gzip.compress(b'{"history": []}\n' * 50, mtime=0)[:-9],
      'h.jsonl must be a whole gzip file; it is damaged',
    ),
    (b'PAR1 and no more', 'h.jsonl must be a whole Parquet file'),
  ],
)
def test_bad_files_are_refused_without_the_data_set(tmp_path, text, message):
  path = tmp_path / 'h.jsonl'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(ValueError, match=message):
    check_histories(path)


@pytest.mark.parametrize(
  ('columns', 'message'),
  [
    ({'items': [['i03']]}, 'h.parquet must have a column history of lists of item ids; it has items'),
    ({'history': ['i03']}, 'h.parquet: the column history must hold lists of item ids; got string'),
    ({'history': [['i03'], None]}, 'h.parquet, row 2: a row must have a list in the column history'),
    ({'history': pa.array([], pa.list_(pa.string()))}, 'must hold at least one history'),
  ],
)  # fmt: skip
def test_bad_columns_are_named(tmp_path, columns, message):
  pq.write_table(pa.table(columns), tmp_path / 'h.parquet')
  with pytest.raises(ValueError, match=message):
    check_histories(tmp_path / 'h.parquet')


def test_two_columns_of_one_name_are_refused(tmp_path):
  columns = [pa.array([['i03']]), pa.array([1]), pa.array([2])]
  table = pa.Table.from_arrays(columns, ['history', 'age', 'age'])
  pq.write_table(table, tmp_path / 'h.parquet')
  with pytest.raises(
    ValueError, match=r"every column must have a name of its own; 'age' is the name of 2"
  ):
    HistoryFile(tmp_path / 'h.parquet')


def test_a_missing_or_damaged_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'--histories must be a file; .*none.jsonl does not'):
    check_histories(tmp_path / 'none.jsonl')
  (tmp_path / 'h.parquet').write_text('{"history": []}')
  with pytest.raises(ValueError, match=r'h.parquet must be a whole Parquet file'):
    check_histories(tmp_path / 'h.parquet')
