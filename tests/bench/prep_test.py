"""Runs the benchmark of data preparation on small inputs."""

import json
import subprocess
import sys

from etils import epath
import numpy as np
import pytest

from bench import prep
from data_prep import sources
from data_prep.log import interactions
from recjax.data.cooccurrence import cooccurrence_counts
from recjax.data.sequences import Sequences
from tests.folders import ROOT
from tests.shared_data import SHARED, needs_shared


def test_the_5_core_filter_keeps_most_of_the_random_log(tmp_path, monkeypatch):
  monkeypatch.setattr(prep, 'ROWS', 15_000)
  prep.write_raw(tmp_path, 40_000)
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


def test_the_peer_loop_counts_the_same_pairs():
  rng = np.random.default_rng(0)
  users = [rng.integers(0, 20, rng.integers(0, 12)).tolist() for _ in range(50)]
  counts = cooccurrence_counts(Sequences.from_lists(users), 20, 5, 'none')
  looped = prep.loop_counts(users, 5)
  assert {(i, j): n for i, row in looped.items() for j, n in row.items()} == dict(counts.todok())


def test_measured_parts_of_a_log_sum_to_the_total(tmp_path):
  result = prep.measure_log(20_000, str(tmp_path))
  assert result['interactions'] == 20_000 > result['kept']['interactions'] > 12_000
  parts = result['parts']
  inner = [parts[name]['seconds'] for name in ('read', '5-core, sorted', 'split', 'artifacts')]
  assert sum(inner) < parts['the log stage']['seconds'] < result['seconds']
  assert all(0.05 < part['peak_gib'] < 8 for part in result['parts'].values())
  train = np.load(tmp_path / 'interactions' / 'train_items.npy')
  assert len(train) == result['kept']['interactions'] - 2 * result['kept']['users']
  items = np.load(tmp_path / 'relations' / 'collaborative_items.npy')
  offsets = np.load(tmp_path / 'relations' / 'collaborative_offsets.npy')
  assert len(offsets) == result['kept']['items'] + 1 and offsets[-1] == len(items)


def test_the_peak_memory_is_measured_per_part():
  meter = prep.Meter()
  for name, mib in (('large', 300), ('small', 1)):
    with meter.part(name):
      np.ones(mib << 17)  # 8 bytes each
  assert meter.parts['large']['peak_gib'] - meter.parts['small']['peak_gib'] > 0.2


def test_semantic_search_has_time_and_memory():
  result = prep.measure_semantic(300, 16)
  assert (result['items'], result['width']) == (300, 16)
  assert result['seconds'] > 0 and result['peak_gib'] > 0.05


@needs_shared('amazon2014/sports')
@pytest.mark.soak
def test_the_command_prints_and_writes_all_parts(tmp_path):
  command = [sys.executable, '-m', 'bench.prep', f'--raw_dir={SHARED / "amazon2014" / "sports"}']
  command += ['--rows=1e4,2e4', '--vectors=300,16', f'--out={tmp_path / "prep.json"}']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
  result = json.loads((tmp_path / 'prep.json').read_text())
  assert result['sports']['pairs'] == 1_160_790
  assert result['sports']['ratio'] > 5  # 20 and more on a quiet machine
  assert [log['interactions'] for log in result['logs']] == [10_000, 20_000]
  assert result['semantic']['items'] == 300
  for line in (
    'ratio',
    'co-occurrence, top 10',
    'CPU s per million',
    'the 10 nearest of 300 × 16',
  ):
    assert line in done.stdout
