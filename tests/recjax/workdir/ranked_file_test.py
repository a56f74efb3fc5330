"""Ranked files: the same rows as JSON lines, compressed and Parquet, from every kind of input."""

import datetime
import decimal
import gzip
import io
import json
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recjax.data.histories import Reader
from recjax.data.history_files import HistoryFile
from recjax.data.requests import Recommendation
from recjax.workdir import ranked_file

DATASET = types.SimpleNamespace(items=[{'id': f'i{n:02}'} for n in range(24)], event_names=[])
RANKED = [
  [Recommendation('i01', 'One', -0.5), Recommendation('i02', None, -1.25)],
  [],
  [Recommendation('i03', 'x', -2.0)],
]
LINES = [
  {'user': 'ann', 'history': ['i03', 'gone', 'i01'], 'times': [1, 2, 3]},
  {'user': 'bob', 'history': [], 'age': 7},
  {'history': [5, 'i07'], 'age': 7.5, 'tags': [{'a': 1}]},
]


def ranked(file, out, parts=2, skip_unknown=True):
  """Ranks a file of three histories in parts; returns the bytes of the output."""
  reader = Reader(DATASET, ('times',))
  writer = ranked_file.writer(out, file, skip_unknown)
  paths = []
  for n, part in enumerate(file.parts(reader, parts, skip_unknown)):
    paths.append(out.with_name(f'{n}'))
    paths[-1].write_bytes(writer.encoded(part, RANKED[n * parts :][: len(part.rows)]))
  stream = io.BytesIO()
  writer.join(paths, stream)
  return stream.getvalue()


def given(tmp_path, kind):
  path = tmp_path / f'h.{kind}'
  if kind == 'jsonl':
    path.write_text(''.join(json.dumps(line) + '\n' for line in LINES))
  else:
    columns = {
      'user': ['ann', 'bob', None],
      'history': pa.array([['i03', 'gone', 'i01'], [], ['5', 'i07']], pa.large_list(pa.string())),
      'age': pa.array([None, 7, 7.5]),
      'times': [[1, 2, 3], None, None],
      'tags': pa.array([None, None, [{'a': 1}]]),
    }
    pq.write_table(pa.table(columns), path)
  return HistoryFile(path, ('times',))


def plain(rows):
  """Returns rows without absent values."""
  return [{name: value for name, value in row.items() if value is not None} for row in rows]


@pytest.mark.parametrize('kind', ['jsonl', 'parquet'])
@pytest.mark.parametrize('parts', [1, 2, 3])
def test_all_formats_hold_the_same_rows(tmp_path, kind, parts):
  file = given(tmp_path, kind)
  expected = [
    LINES[0] | {'history': ['i03', 'i01'], 'times': [1, 3], 'unknown': ['gone']},
    LINES[1],
    LINES[2] | {'history': ['i07'], 'unknown': ['5']},
  ]
  expected = [
    row | {'recommendations': [e._asdict() for e in items]}
    for row, items in zip(expected, RANKED, strict=True)
  ]
  lines = ranked(file, tmp_path / 'o.jsonl', parts)
  assert plain(map(json.loads, lines.splitlines())) == expected
  assert gzip.decompress(ranked(file, tmp_path / 'o.jsonl.gz', parts)) == lines
  table = pq.read_table(pa.BufferReader(ranked(file, tmp_path / 'o.parquet', parts)))
  assert plain(table.to_pylist()) == expected
  assert table.schema.field('recommendations').type.value_type.field('score').type == pa.float32()


def test_other_columns_keep_their_types(tmp_path):
  columns = {
    'day': pa.array([datetime.date(2024, 5, 1)]),
    'at': pa.array([1_700_000_000_123_456_789], pa.timestamp('ns')),
    'price': pa.array([decimal.Decimal('1.50')]),
    'weight': pa.array([float('nan')]),
    'key': pa.array([b'\x01\xff']),
    'wait': pa.array([datetime.timedelta(seconds=90)]),
    'history': [['i03']],
    'recommendations': ['an earlier column'],
  }
  pq.write_table(pa.table(columns), tmp_path / 'h.parquet')
  file = HistoryFile(tmp_path / 'h.parquet')
  (line,) = ranked(file, tmp_path / 'o.jsonl', skip_unknown=False).splitlines()
  row = json.loads(line, parse_constant=pytest.fail)
  row.pop('recommendations')
  assert row == {
    'day': '2024-05-01', 'at': '2023-11-14T22:13:20.123456', 'price': '1.50', 'weight': None, 'key': '01ff',
    'wait': 90.0, 'history': ['i03'],
  }  # fmt: skip
  table = pq.read_table(pa.BufferReader(ranked(file, tmp_path / 'o.pq', skip_unknown=False)))
  assert table.schema.names == list(columns)
  assert table.drop_columns(['recommendations']).schema == file.schema.remove(7)


def test_a_key_with_values_of_several_types_is_named(tmp_path):
  path = tmp_path / 'h.jsonl'
  path.write_text('{"history": [], "user": 1}\n{"history": [], "user": "ann"}\n')
  with pytest.raises(
    ValueError, match=r"h.jsonl:1 and the following lines: the values of 'user' must have one type"
  ):
    ranked_file.writer(tmp_path / 'o.parquet', HistoryFile(path), False)
