"""Runs the benchmark of the preparation on small logs."""

import os
import subprocess
import sys

from etils import epath
import numpy as np
import pytest

from bench import own_memory, prep_logs
from data_prep import sources
from data_prep.log import interactions


def test_the_5_core_filter_keeps_most_of_the_random_log(tmp_path, monkeypatch):
  monkeypatch.setattr(prep_logs, 'ROWS', 15_000)
  prep_logs.write_raw(tmp_path, 40_000)
  assert len(list(tmp_path.glob('interactions-*-of-00003.parquet'))) == 3
  log = sources.get('table')(source='table', name='x').load(epath.Path(tmp_path))
  assert len(log.users) == len(log.items) == len(log.times) == 40_000
  assert len(log.items.texts) == pytest.approx(4_000, rel=0.02) and len(log.item_records) == 4_000
  assert len(log.users.texts) == pytest.approx(4_000 + 3_460, rel=0.02)
  clean = interactions.clean(log, 5, 'drop')
  assert 0.6 * 40_000 < len(clean.items) < 40_000
  assert 0.5 * 4_000 < len(clean.item_ids) < 4_000
  counts = np.sort(np.bincount(clean.items))[::-1]
  assert counts[0] > 50 * np.median(counts)


def test_measured_parts_of_a_log_sum_to_the_total(tmp_path):
  raw, place = tmp_path / 'raw', tmp_path / 'prepared'
  raw.mkdir()
  prep_logs.write_raw(raw, 20_000)
  result = prep_logs.measure(str(raw), str(place))
  assert 20_000 > result['kept']['interactions'] > 12_000
  parts = result['parts']
  inner = [parts[name]['seconds'] for name in ('read', '5-core, sorted', 'split', 'artifacts')]
  assert sum(inner) < parts['the log stage']['seconds'] < result['seconds']
  assert all(0.05 < part['peak_gib'] < 8 for part in result['parts'].values())
  train = np.load(place / 'interactions' / 'train_items.npy')
  assert len(train) == result['kept']['interactions'] - 2 * result['kept']['users']
  items = np.load(place / 'relations' / 'collaborative_items.npy')
  offsets = np.load(place / 'relations' / 'collaborative_offsets.npy')
  assert len(offsets) == result['kept']['items'] + 1 and offsets[-1] == len(items)
  assert 'CPU s per million' in prep_logs.text({'interactions': 20_000} | result)


def test_the_peak_memory_is_measured_per_part():
  meter = prep_logs.Meter()
  for name, mib in (('large', 300), ('small', 1)):
    with meter.part(name):
      np.ones(mib << 17)  # 8 bytes each
  assert meter.parts['large']['peak_gib'] - meter.parts['small']['peak_gib'] > 0.2


def test_the_memory_of_workers_is_added_up():
  program = 'import time; held = bytearray(100 << 20); print(flush=True); time.sleep(60)'
  before = own_memory.workers_bytes()
  command = [sys.executable, '-S', '-c', program]
  workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
  for worker in workers:
    worker.stdout.readline()
  try:
    assert 200 << 20 < own_memory.workers_bytes() - before < 260 << 20
  finally:
    for worker in workers:
      worker.kill()
      worker.communicate()


def test_engines_that_wrote_other_bytes_are_noticed(tmp_path, monkeypatch):
  def measure(raw_dir, place, name, workers):
    folder = epath.Path(place) / 'interactions'
    folder.mkdir(parents=True)
    (folder / 'manifest.json').write_text(f'{{"sha256": {workers}}}')
    part = dict.fromkeys(('seconds', 'cpu_seconds', 'peak_gib', 'workers_gib'), 1.0)
    parts = {'the log stage': part, 'co-occurrence, top 10': part}
    return {'engine': name, 'workers': workers, 'parts': parts}

  monkeypatch.setattr(prep_logs, 'measure', measure)
  engines = [('local', 1), ('beam', 1)]

  def call(function, *args):
    return function(*args)

  found = list(prep_logs.measured(call, [300, 600], engines, os.fspath(tmp_path)))
  assert [(log['interactions'], log['engine']) for log in found] == [
    (300, 'local'),
    (300, 'beam'),
    (600, 'local'),
    (600, 'beam'),
  ]
  with pytest.raises(AssertionError, match='beam must write the bytes of local'):
    list(prep_logs.measured(call, [300], [('local', 1), ('beam', 2)], os.fspath(tmp_path)))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('text', ['spark', 'local:2', 'beam:x', ''])
def test_other_engines_are_refused(text):
  with pytest.raises(ValueError, match='--engines must be of local, beam, beam:4'):
    prep_logs.parsed(text)
