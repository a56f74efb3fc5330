"""Shards of a log: read in any order, they give the rows and the errors of the whole table."""

import re

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_prep import sources
from data_prep.log import interactions
from data_prep.sources import parquet, readers
from data_prep.sources.table import Table

DATA = Table(source='table', name='x')


def write(folder, *tables, groups=4, ending='parquet'):
  for n, columns in enumerate(tables):
    path = folder / f'interactions-{n:05d}-of-{len(tables):05d}.{ending}'
    if ending == 'parquet':
      pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=groups)
    else:
      rows = [
        ','.join(columns),
        *(','.join(map(str, row)) for row in zip(*columns.values(), strict=True)),
      ]
      path.write_text('\n'.join(rows) + '\n')
  (folder / 'items.csv').write_text('item\na\nb\nc\n')
  return DATA.reader(epath.Path(folder))


def rows(seed, count=10, **more):
  rng = np.random.default_rng(seed)
  columns = {
    'user': [f'u{n}' for n in rng.integers(0, 5, count)],
    'item': rng.choice(['a', 'b', 'c'], count).tolist(),
    'time': (1_600_000_000 + 100 * seed + rng.permutation(count)).tolist(),
  }
  return columns | more


@pytest.mark.parametrize('ending', ['parquet', 'csv'])
def test_shards_in_any_order_hold_the_rows_of_the_log(tmp_path, monkeypatch, ending):
  monkeypatch.setattr(parquet, 'GROUPS', 6)
  parts = [rows(n, rating=[float(n)] * 10, event=['buy'] * 10) for n in range(3)]
  reader = write(tmp_path, *parts, ending=ending)
  assert len(reader.shards) == (6 if ending == 'parquet' else 3)
  found, facts = {}, readers.Facts()
  for shard in reversed(reader.shards):
    batches = list(reader.read(shard))
    found[shard.number] = batches
    facts = sum((batch.facts for batch in batches), facts)
  form = reader.form(facts)
  batches = [batch for number in sorted(found) for batch in found[number]]
  for name in ('user', 'item', 'event'):
    column = [text for batch in batches for text in getattr(batch, f'{name}s').rows().to_pylist()]
    assert column == [text for part in parts for text in part[name]]
  times = np.concatenate([form.times(batch.times) for batch in batches])
  assert times.tolist() == [time for part in parts for time in part['time']]
  assert form.ticks_per_second == 1 and form.has_ratings
  line = {'parquet': 'row 3', 'csv': '4'}[ending]
  assert reader.place(22).endswith(
    f'interactions-00002-of-00003.{ending}:{" " * (line[0] == "r")}{line}'
  )
  raw = DATA.load(epath.Path(tmp_path))
  assert raw.users.tolist() == [user for part in parts for user in part['user']]
  assert raw.ratings.tolist() == [rating for part in parts for rating in part['rating']]


def iso(part, zone=''):
  return part | {'time': [f'2024-01-02T03:04:{n:02d}{zone}' for n in range(10)]}


@pytest.mark.parametrize('ending', ['csv', 'parquet'])
@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda part: iso(part, 'Z'), r"00001-of-00002.*time must .* got '2024.*Z', while .*00000-of-"),
    (lambda part: part | {'time': range(10)}, r'0000[01]-of-00002.*, while .*0000[01]-of-00002'),
  ],
)
def test_times_of_another_form_in_one_shard_are_named(tmp_path, ending, change, message):
  write(tmp_path, iso(rows(0)), change(rows(1)), ending=ending)
  if ending == 'parquet' and 'Z' not in message:
    message = '00001-of-00002.parquet: column time must be of the same type in all parts'
  with pytest.raises(ValueError, match=message):
    DATA.load(epath.Path(tmp_path))


def test_a_time_zone_and_a_unit_in_one_shard_alone_are_named(tmp_path):
  stamps = pa.array(range(10), pa.timestamp('us'))
  write(tmp_path, rows(0, time=stamps), rows(1, time=stamps.cast(pa.timestamp('us', 'UTC'))))
  message = r'00001-of-00002\.parquet: column time must be of the same type in all parts; it is timestamp\[us, tz=UTC\]'
  with pytest.raises(ValueError, match=message):
    DATA.load(epath.Path(tmp_path))
  millis = [1000 * time for time in rows(1)['time']]
  write(tmp_path, rows(0), rows(1, time=millis))
  message = r'00001-of-00002\.parquet: row 1: time must be in one unit .*, while .*00000-of-00002\.parquet: row 1'
  with pytest.raises(ValueError, match=message):
    DATA.load(epath.Path(tmp_path))


def test_shards_that_lack_a_column_or_have_another_type_are_named(tmp_path):
  write(tmp_path, rows(0), rows(1))
  path = tmp_path / 'interactions-00001-of-00002.parquet'
  for change, message in (
    ({'item': [1.5] * 10}, 'column item must be of the same type in all parts; it is double'),
    ({'user': None}, "must have a column 'user'; it has 'item', 'time'"),
  ):
    columns = {name: column for name, column in (rows(1) | change).items() if column is not None}
    pyarrow.parquet.write_table(pa.table(columns), path)
    with pytest.raises(ValueError, match=re.escape(f'{path}: {message}')):
      DATA.load(epath.Path(tmp_path))
  path.unlink()
  with pytest.raises(FileNotFoundError, match=r'00001-of-00002\.parquet must be in'):
    DATA.load(epath.Path(tmp_path))


def test_a_key_in_two_shards_names_both(tmp_path):
  second = rows(1)
  first = rows(0)
  for name in first:
    second[name][4] = first[name][2]
  write(tmp_path, first, second)
  raw = DATA.load(epath.Path(tmp_path))
  message = r'00001-of-00002\.parquet: row 5: no two .* repeats .*00000-of-00002\.parquet: row 3'
  with pytest.raises(ValueError, match=message):
    interactions.clean(raw, 0)


def test_sources_without_shards_are_read_as_a_whole():
  data = sources.get('synthetic')(source='synthetic', name='x')
  assert data.reader(epath.Path('.')) is None
