"""Times in every format and unit; two units in a column are rejected."""

import datetime
import gzip
import re

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_prep.sources import tables
from data_prep.sources import times as times_lib

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


def times(folder, *cells):
  path = csv(folder, 'user,time\n' + ''.join(f'u,{cell}\n' for cell in cells))
  return times_lib.read(read(path, ('time',), {}), 'time')[0]


def test_other_dates_need_a_format_that_the_error_names(tmp_path):
  cells = ['03.12.2025 06:07', '28.02.2025 23:59']
  path = csv(
    tmp_path, ''.join(f'u,{cell}\n' for cell in ('time', *cells)).replace('u,', 'user,', 1)
  )
  rows = read(path, ('time',), {})
  with pytest.raises(ValueError, match=r't\.csv:2: .*06:07\W+Set --config\S+=(.*)$') as error:
    times_lib.read(rows, 'time')
  time_format = '%d.%m.%Y %H:%M'
  assert str(error.value).endswith(f'time_format={time_format!r}')
  values, ticks = times_lib.read(rows, 'time', time_format)
  expected = [datetime.datetime.strptime(cell + 'Z', f'{time_format}%z') for cell in cells]
  assert values.tolist() == [time.timestamp() for time in expected] and ticks == 1

  days = csv(tmp_path, 'user,time\nu,01/02/2025\nu,03/02/2025\n')
  both = r"='%m/%d/%Y' or --config\.data\.time_format='%d/%m/%Y'$"
  with pytest.raises(ValueError, match=both):
    times_lib.read(read(days, ('time',), {}), 'time')
  wrong = csv(tmp_path, 'user,time\nu,01.03.2025\nu,31.02.2025\nu,\n')
  with pytest.raises(ValueError, match=r"t\.csv:3: .*like %d\.%m\.%Y.*'31\.02\.2025'.*time_format"):
    times_lib.read(read(wrong, ('time',), {}), 'time', '%d.%m.%Y')
  number = parquet(tmp_path, time=[1, 2])
  with pytest.raises(ValueError, match=r'must hold text, which data\.time_format=%Y'):
    times_lib.read(read(number, ('time',), {}), 'time', '%Y')


@pytest.mark.parametrize(
  ('cell', 'time_format', 'named'),
  [
    ('2024-05-17 13:45 CET', '%Y-%m-%d %H:%M %Z', '%Z'),
    ('2024-W20-5', '%G-W%V-%u', '%G %V %u'),
    ('2024-05-17 5', '%Y-%m-%d %u', '%u'),
  ],
)
def test_directives_that_would_be_ignored_are_refused(tmp_path, cell, time_format, named):
  rows = read(csv(tmp_path, f'user,time\nu,{cell}\n'), ('time',), {})
  with pytest.raises(ValueError, match=rf'data\.time_format must have none of .* with {named}\. '):
    times_lib.read(rows, 'time', time_format)


def test_an_offset_and_a_percent_sign_are_read(tmp_path):
  rows = read(csv(tmp_path, 'user,time\nu,2024-05-17 13:45 %Z +0200\n'), ('time',), {})
  values, _ = times_lib.read(rows, 'time', '%Y-%m-%d %H:%M %%Z %z')
  assert values.tolist() == [
    datetime.datetime(2024, 5, 17, 11, 45, tzinfo=datetime.UTC).timestamp()
  ]


def test_times_are_read_from_every_text_format(tmp_path):
  seconds = int(datetime.datetime(2018, 1, 2, 3, 4, 5, tzinfo=datetime.UTC).timestamp())
  cases = {
    (2**61, 2**62): [2**61, 2**62],
    (1.0, '2e3', 3): [1, 2000, 3],
    (1.5, 2, -0.25): [1_500_000, 2_000_000, -250_000],
    ('2018-01-02T03:04:05', '2018-01-02 03:04:06.5'): [
      seconds * 10**6,
      seconds * 10**6 + 1_500_000,
    ],
    ('2018-01-02 03:04:05 UTC', '2018-01-02T03:04:05Z'): [seconds * 10**6] * 2,
    ('2018-01-02', '2018-01-03'): [1514851200 * 10**6, 1514937600 * 10**6],
    ('2018-01-02T03:04:05Z', '2018-01-02T05:04:05+02:00'): [seconds * 10**6] * 2,
    ('2018-01-02T03:04:05.123456789',): [seconds * 10**9 + 123456789],
  }
  for cells, expected in cases.items():
    values = times(tmp_path, *cells)
    assert values.tolist() == expected, cells
    assert values.dtype == np.int64


@pytest.mark.parametrize(
  ('cells', 'per_second'),
  [
    (('1514851200', '-5'), 1),
    (('99999999999', '0'), 1),
    (('1514851200000', '0'), 10**3),
    (('1514851200000.0', '0', '-1514851200000'), 10**3),
    (('1514851200000000', '1514851200000001'), 10**6),
    (('1514851200000000000',), 10**9),
  ],
)
def test_the_unit_of_whole_numbers_follows_from_their_size(tmp_path, cells, per_second):
  path = csv(tmp_path, 'user,time\n' + ''.join(f'u,{cell}\n' for cell in cells))
  got, ticks = times_lib.read(read(path, ('time',), {}), 'time')
  assert ticks == per_second
  assert got.tolist() == [int(float(cell)) for cell in cells]


@pytest.mark.parametrize(
  ('cells', 'expected', 'per_second'),
  [
    (('1600935935.5', '1'), [1600935935500000, 1000000], 10**6),
    (('1600935935123.5', '1600935935124'), [1600935935123500, 1600935935124000], 10**6),
    (('1600935935123456.5', '1600935935123457'), [1600935935123456, 1600935935123457], 10**6),
  ],
)
def test_the_unit_of_fractions_follows_from_their_size(tmp_path, cells, expected, per_second):
  path = csv(tmp_path, 'user,time\n' + ''.join(f'u,{cell}\n' for cell in cells))
  assert times_lib.read(read(path, ('time',), {}), 'time')[1] == per_second
  assert times(tmp_path, *cells).tolist() == expected


SECONDS, MILLISECONDS = '1600935935', '1600935935000'


@pytest.mark.parametrize(
  ('cells', 'message'),
  [
    ((SECONDS, SECONDS, MILLISECONDS),
     r'csv:4: time must be in one unit in all rows; got 1600935935000 \(milliseconds\), while .*csv:2 has '
     r'1600935935 \(seconds\)'),
    ((MILLISECONDS, SECONDS, SECONDS),
     r'csv:3: .* got 1600935935 \(seconds\), while .*csv:2 has 1600935935000 \(milliseconds\)'),
    ((MILLISECONDS, '0', '-5'), r'csv:4: .* got -5 \(seconds\), while .*csv:2 has'),
    ((MILLISECONDS, MILLISECONDS + '000'), r'csv:3: .* \(microseconds\), while .*csv:2 has .* \(milli'),
    (('1600935935000000', MILLISECONDS + '000000'), r'csv:3: .* \(nanoseconds\), while .*csv:2 has .* \(micro'),
    ((SECONDS + '.5', MILLISECONDS), r'csv:3: .* got 1600935935000.0 \(milliseconds\), while .*csv:2 has'),
    ((SECONDS, '2020-09-24'), r"csv:3: .* the same in all rows; got '2020-09-24', while .*csv:2 has '1600935935'"),
    (('2020-09-24T00:00:00Z', MILLISECONDS), r"csv:3: .* in all rows; got '1600935935000', while .*csv:2 has '2020-"),
  ],
)  # fmt: skip
def test_two_units_in_a_column_are_rejected_with_a_row_of_each(tmp_path, cells, message):
  with pytest.raises(ValueError, match=message) as error:
    times(tmp_path, *cells)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', [pa.int64(), pa.float64(), pa.uint64(), pa.decimal128(20, 0)])
def test_two_units_in_a_parquet_column_are_rejected(tmp_path, kind):
  values = pa.array([int(SECONDS), int(MILLISECONDS)], pa.int64()).cast(kind, safe=False)
  rows = read(parquet(tmp_path, time=values), ('time',), {})
  with pytest.raises(ValueError, match=r'row 2: time must be in one unit.*: row 1 has'):
    times_lib.read(rows, 'time')


@pytest.mark.parametrize(
  ('cells', 'row', 'got'),
  [
    (('1', '2', 'x'), 4, "'x'"),
    (('1', ''), 3, "''"),
    (('x', '1'), 2, "'x'"),
    (('1', '2018-01-02'), 3, "'2018-01-02'"),
    (('2018-01-02', '1'), 3, "'1'"),
    (('2018-01-02', '2018-13-01'), 3, "'2018-13-01'"),
    (('2018-01-02', '2018-01-02T00:00:00Z'), 3, "'2018-01-02T00:00:00Z'"),
    (('02/01/2018',), 2, "'02/01/2018'"),
    (('1', ' 2'), 3, "' 2'"),
  ],
)
def test_invalid_times_are_rejected_with_their_row(tmp_path, cells, row, got):
  message = f'{row}: time must be an integer, a number or a date of ISO 8601, the same in all rows; got {got}'
  with pytest.raises(ValueError, match=f':{re.escape(message)}'):
    times(tmp_path, *cells)


@pytest.mark.parametrize('cells', [('1', 'nan'), ('1', 'inf'), ('1', '1e30'), ('1.5', '9' * 25)])
def test_times_beyond_64_bits_are_rejected(tmp_path, cells):
  with pytest.raises(ValueError, match=':3: time must be a time that fits into 64 bits'):
    times(tmp_path, *cells)


def test_times_are_read_from_every_parquet_type(tmp_path):
  moment = datetime.datetime(2018, 1, 2, tzinfo=datetime.UTC)
  for values, expected, ticks in (
    (pa.array([5, 6], pa.int32()), [5, 6], 1),
    (pa.array([5, 6], pa.uint64()), [5, 6], 1),
    (pa.array([5.0, 6.5]), [5_000_000, 6_500_000], 10**6),
    (pa.array([moment], pa.timestamp('us', 'UTC')), [1514851200 * 10**6], 10**6),
    (pa.array([moment], pa.timestamp('ns')), [1514851200 * 10**9], 10**9),
    (pa.array([moment.date()]), [1514851200 * 10**3], 10**3),
    (pa.array(['2018-01-02']), [1514851200 * 10**6], 10**6),
    (pa.array(['2018-01-02'], pa.string_view()), [1514851200 * 10**6], 10**6),
    (pa.array([b'1514851200']), [1514851200], 1),
    (pa.array(['5', '6']).dictionary_encode(), [5, 6], 1),
    (pa.array([5, 6]).cast(pa.decimal128(38, 0)), [5, 6], 1),
    (pa.array([moment], pa.timestamp('ms', 'Europe/Berlin')), [1514851200 * 10**3], 10**3),
    (pa.array([moment], pa.timestamp('s')), [1514851200 * 10**3], 10**3),
  ):
    rows = read(parquet(tmp_path, time=values), ('time',), {})
    got, per_second = times_lib.read(rows, 'time')
    assert (got.tolist(), per_second) == (expected, ticks), values.type
  for values, message in (
    (pa.array([True]), r't\.parquet: column time must hold times; got bool'),
    (pa.array([1, None]), 'row 2: time must not be missing'),
    (pa.array([1.0, np.nan]), 'row 2: time must be a time that fits into 64 bits; got .*nan'),
  ):
    rows = read(parquet(tmp_path, time=values), ('time',), {})
    with pytest.raises(ValueError, match=message):
      times_lib.read(rows, 'time')


def test_the_first_broken_row_among_many_is_found(tmp_path):
  rng = np.random.default_rng(0)
  for _ in range(20):
    cells = rng.integers(0, 10**9, 1000).astype(str)
    broken = np.sort(rng.choice(1000, 3, replace=False))
    cells[broken] = 'x'
    with pytest.raises(ValueError, match=rf'\.csv:{broken[0] + 2}: time must be'):
      times(tmp_path, *cells)


@pytest.mark.parametrize('kind', [pa.uint64(), pa.decimal128(38, 0), pa.decimal128(38, 3)])
def test_whole_times_of_any_type_keep_every_digit(tmp_path, kind):
  counts = [1700000000000000001, 1700000000000000002]
  values = (
    pa.array(counts, pa.decimal128(19, 0)).cast(kind)
    if kind != pa.uint64()
    else pa.array(counts, kind)
  )
  rows = read(parquet(tmp_path, time=values), ('time',), {})
  got, ticks = times_lib.read(rows, 'time')
  assert (got.tolist(), ticks) == (counts, 10**9)


def test_a_refused_time_is_shown_as_a_plain_number_with_its_field(tmp_path):
  path = csv(tmp_path, 'user,time\nu,1\nu,nan\n')
  with pytest.raises(ValueError, match=r':3: time must .*; got nan\. Correct .*data\.time_column'):
    times_lib.read(read(path, ('time',), {'time': 'data.time_column'}), 'time')
