"""The tasks of a preparation on Beam, without Beam: logs, splits and messages equal those of the local engine."""

import json

import pyarrow as pa
import pytest

from data_prep import sources
from data_prep.beam import log as beam_log
from data_prep.beam import ranges, reading
from tests.data_prep.beam import world
from tests.data_prep.beam.plain import PlainPhases


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  monkeypatch.setattr(ranges, '_SMALL', 60)
  monkeypatch.setattr(ranges, 'SAMPLE', 16)
  monkeypatch.setattr(reading, 'BLOCK_ROWS', 70)


def prepare(tmp_path, data, seed=0):
  folder = tmp_path / 'raw'
  local = tmp_path / f'joined{seed}'
  local.mkdir()
  job = world.job(data, folder, tmp_path / f'work{seed}')
  return beam_log.Preparation(job, PlainPhases(job, seed), local).run()


@pytest.mark.parametrize(
  ('kind', 'fields'),
  [
    ('csv', {}),
    ('parquet', {'k_core': 0, 'split': 'global_time', 'catalogue': 'all', 'unknown_items': 'keep'}),
    ('parquet', {'split': 'global_time', 'context_events': ('view', 'cart'), 'max_history': 4, 'k_core': 2}),
    ('parquet', {'context_events': ('view',), 'catalogue': 'all', 'k_core': 4}),
    ('parquet', {'events': ('buy', 'view'), 'split': 'global_time', 'split_shares': (0.5, 0.2, 0.3)}),
    ('parquet', {'events': ('buy',), 'context_events': ('view',), 'k_core': 3}),
  ],
)  # fmt: skip
def test_the_log_equals_that_of_the_local_engine(tmp_path, kind, fields):
  world.write(tmp_path / 'raw', world.table(), kind=kind)
  data = world.section(tmp_path / 'raw', duplicates='drop', **({'unknown_items': 'drop'} | fields))
  found = prepare(tmp_path, data)
  expected = world.local(data, tmp_path / 'raw')
  assert found[0].duplicates and found[0].ids_alike
  world.assert_same(found, expected)


def test_a_core_of_many_rounds(tmp_path):
  # A path: user n has the items n and n + 1, so that a round of the 2-core drops its two ends alone.
  pairs = [(f'u{n:03}', f'p{m:03}') for n in range(40) for m in (n, n + 1)]
  pairs += [(f'v{n}', f'i{m}') for n in range(3) for m in range(3)]
  users, items = zip(*pairs, strict=True)
  log = pa.table({'user': users, 'item': items, 'time': range(len(pairs))})
  world.write(tmp_path / 'raw', log)
  data = world.section(tmp_path / 'raw', k_core=2, unknown_items='keep', split='global_time')
  found = prepare(tmp_path, data)
  assert found[0].user_ids == ['v0', 'v1', 'v2']
  world.assert_same(found, world.local(data, tmp_path / 'raw'))


def test_a_source_that_is_read_as_a_whole(tmp_path):
  data = sources.get('synthetic')(
    source='synthetic', name='demo', k_core=3, synthetic_users=130, synthetic_items=120
  )
  found = prepare(tmp_path, data)
  world.assert_same(found, world.local(data, tmp_path))


def test_a_source_with_its_own_split_is_refused(tmp_path):
  folders = {'train': 3, 'valid': 1, 'test': 1}
  for folder, rows in folders.items():
    (tmp_path / 'raw' / folder).mkdir(parents=True)
    lines = ['user_id,item_id,item_asin,history_item_id,history_item_title,item_title']
    lines += [f'u{n},1,a1,"[0]","[\'zero\']",one' for n in range(rows)]
    (tmp_path / 'raw' / folder / 'shop.csv').write_text('\n'.join(lines) + '\n')
  (tmp_path / 'raw' / 'index').mkdir()
  items = {str(n): {'title': str(n), 'description': ''} for n in range(2)}
  (tmp_path / 'raw' / 'index' / 'shop.item.json').write_text(json.dumps(items))
  data = sources.get('minionerec')(
    source='minionerec', name='shop', category='shop', k_core=0, split='source'
  )
  with pytest.raises(ValueError) as error:
    prepare(tmp_path, data)
  assert str(error.value) == (
    "data.engine must be local for data.source='minionerec', which has its own validation and test rows; got 'beam'. "
    'Set --config.data.engine=local'
  )


def _changed(log, name, values):
  return log.set_column(log.column_names.index(name), name, [values])


@pytest.mark.parametrize(
  ('fields', 'change'),
  [
    ({}, None),  # repeats are refused
    ({'unknown_items': 'refuse', 'duplicates': 'drop'}, None),
    ({'events': ('bought',)}, None),
    ({'context_events': ('view', 'cart', 'buy')}, None),
    ({'k_core': 60, 'duplicates': 'drop'}, None),
    ({'k_core': 1, 'duplicates': 'drop', 'events': ('cart',)}, None),  # users without three interactions
    ({'k_core': 0, 'duplicates': 'drop', 'split': 'source'}, None),
    ({'duplicates': 'drop', 'split': 'global_time', 'split_shares': (1 - 2e-7, 1e-7, 1e-7)}, None),
    ({'duplicates': 'drop'}, lambda log: _changed(log, 'item', pa.array(['i1'] * len(log)))),
    ({'item_column': 'event'}, None),  # none of the items is listed
    ({'rating_column': 'user'}, None),
    ({'k_core': 70, 'context_events': ('view',), 'duplicates': 'drop'}, None),
  ],
)  # fmt: skip
def test_messages_are_those_of_the_local_engine(tmp_path, fields, change):
  log = world.table()
  world.write(tmp_path / 'raw', change(log) if change else log)
  data = world.section(tmp_path / 'raw', **({'unknown_items': 'drop'} | fields))
  with pytest.raises(ValueError) as expected:
    world.local(data, tmp_path / 'raw')
  with pytest.raises(ValueError) as found:
    prepare(tmp_path, data)
  assert str(found.value) == str(expected.value)
