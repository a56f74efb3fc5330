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


def parquet(tmp_path, **columns):
  """Returns a file of one history for each value of the columns."""
  length = len(next(iter(columns.values())))
  pq.write_table(pa.table({'history': [['i03']] * length, **columns}), tmp_path / 'h.parquet')
  return HistoryFile(tmp_path / 'h.parquet')


def test_nanoseconds_are_cut_at_any_depth(tmp_path):
  at, time = 1_700_000_000_123_456_789, pa.timestamp('ns')
  columns = {
    'list': pa.array([[at]], pa.list_(time)),
    'fixed': pa.array([[at]], pa.list_(time, 1)),
    'struct': pa.array([{'a': [{'b': at}]}], pa.struct([('a', pa.list_(pa.struct([('b', time)])))])),
    'clock': pa.array([1_123_456_789], pa.time64('ns')),
    'wait': pa.array([1_123_456_789], pa.duration('ns')),
    'map': pa.array([[('k', at)]], pa.map_(pa.string(), time)),
  }  # fmt: skip
  file = parquet(tmp_path, **columns)
  (line,) = ranked(file, tmp_path / 'o.jsonl', skip_unknown=False).splitlines()
  row, at = json.loads(line), '2023-11-14T22:13:20.123456'
  assert {name: row[name] for name in columns} == {
    'list': [at], 'fixed': [at], 'struct': {'a': [{'b': at}]}, 'clock': '00:00:01.123456', 'wait': 1.123456,
    'map': [['k', at]],
  }  # fmt: skip


def test_a_date_that_python_lacks_is_named_before_the_ranking(tmp_path):
  file = parquet(tmp_path, at=pa.array([0, 10**12], pa.timestamp('s')))
  with pytest.raises(ValueError, match=r"h.parquet, row 2: 'at' must have dates of the years 1 to"):
    ranked_file.writer(tmp_path / 'o.jsonl', file, False)
  ranked_file.writer(tmp_path / 'o.parquet', file, False)
  file = parquet(tmp_path, at=pa.array([0, 0], pa.timestamp('us', 'Nowhere/City')))
  with pytest.raises(ValueError, match=r"row 1: 'at' must have dates .* in a known time zone"):
    ranked_file.writer(tmp_path / 'o.jsonl', file, False)


@pytest.mark.parametrize('is_deep', [False, True])
def test_text_that_is_not_unicode_is_named_before_the_ranking(tmp_path, is_deep):
  text = pa.array([b'a', b'\xff'], pa.binary()).view(pa.string())
  column = pa.StructArray.from_arrays([text], ['x']) if is_deep else text
  file = parquet(tmp_path, note=column)
  with pytest.raises(ValueError, match=r"h.parquet, row 2: 'note' must have text in UTF-8 to be"):
    ranked_file.writer(tmp_path / 'o.jsonl', file, False)


@pytest.mark.parametrize(
  ('lines', 'message'),
  [
    (
      f'{{"history": [], "deep": {"[" * 60}{"]" * 60}}}\n',
      "h.jsonl: 'deep' must have values that Parquet can hold",
    ),
    (
      '{"history": [], "context": {}}\n',
      "h.jsonl: 'context' must have values that Parquet can hold",
    ),
    (
      '{"history": []}\n{"history": [], "note": "\\ud800"}\n',
      "h.jsonl:2: 'note' must be Unicode text to be written as Parquet; got the lone surrogate",
    ),
    ('{"history": ["\\udfff"]}\n', "h.jsonl:1: 'history' must be Unicode text"),
    ('{"history": [], "\\ud800": 1}\n', 'h.jsonl:1: .* must be Unicode text'),
    (
      '{"history": [], "n": 9007199254740993}\n' * 1000 + '{"history": [], "n": 0.5}\n',
      "h.jsonl:1 and the following lines: the values of 'n' must have one type",
    ),
  ],
)
def test_values_that_parquet_lacks_are_named_before_the_ranking(tmp_path, lines, message):
  (tmp_path / 'h.jsonl').write_text(lines)
  file = HistoryFile(tmp_path / 'h.jsonl')
  with pytest.raises(ValueError, match=message) as error:
    ranked_file.writer(tmp_path / 'o.parquet', file, True)
  assert type(error.value) is ValueError
  ranked_file.writer(tmp_path / 'o.jsonl', file, True)


def test_a_key_unknown_of_another_type_is_replaced(tmp_path):
  (tmp_path / 'h.jsonl').write_text(
    '{"history": ["i03", "gone"], "unknown": 3, "recommendations": {}}\n'
  )
  content = ranked(HistoryFile(tmp_path / 'h.jsonl'), tmp_path / 'o.parquet')
  (row,) = pq.read_table(pa.BufferReader(content)).to_pylist()
  assert (row['history'], row['unknown'], len(row['recommendations'])) == (['i03'], ['gone'], 2)


def test_aligned_columns_of_any_type_lose_unknown_items(tmp_path):
  at = [1_700_000_000_123_456_789 + n for n in range(3)]
  kinds = (pa.list_(pa.timestamp('ns')), pa.large_list(pa.timestamp('ns')))
  for kind in kinds:
    histories = [['i03', 'gone', 'i01'], ['gone'], ['i02']]
    pq.write_table(
      pa.table({'history': histories, 'times': pa.array([at, None, at[:1]], kind)}),
      tmp_path / 'h.parquet',
    )
    file = HistoryFile(tmp_path / 'h.parquet', ('times',))
    table = pq.read_table(pa.BufferReader(ranked(file, tmp_path / 'o.parquet')))
    assert table['history'].to_pylist() == [['i03', 'i01'], [], ['i02']]
    times = table['times'].cast(pa.list_(pa.int64())).to_pylist()
    assert times == [[at[0], at[2]], None, at[:1]]


def test_numbers_that_are_not_finite_become_null(tmp_path):
  nan = float('nan')
  file = parquet(tmp_path, vector=[[1.0, nan]], nested=[{'a': [nan, 2.0]}])
  rows = [ranked(file, tmp_path / 'o.jsonl', skip_unknown=False)]
  (tmp_path / 'h.jsonl').write_text(
    '{"history": ["i03"], "vector": [1.0, NaN], "nested": {"a": [-Infinity, 2.0]}}\n'
  )
  rows.append(ranked(HistoryFile(tmp_path / 'h.jsonl'), tmp_path / 'o.jsonl', skip_unknown=False))
  for line in rows:
    row = json.loads(line, parse_constant=pytest.fail)
    assert (row['vector'], row['nested']) == ([1.0, None], {'a': [None, 2.0]})
