"""Runs the benchmark of data preparation on small inputs; `prep_logs_test` has its logs."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bench import prep
from recjax.data.cooccurrence import cooccurrence_counts
from recjax.data.sequences import Sequences
from tests.folders import ROOT
from tests.shared_data import SHARED, needs_shared


def test_the_peer_loop_counts_the_same_pairs():
  rng = np.random.default_rng(0)
  users = [rng.integers(0, 20, rng.integers(0, 12)).tolist() for _ in range(50)]
  counts = cooccurrence_counts(Sequences.from_lists(users), 20, 5, 'none')
  looped = prep.loop_counts(users, 5)
  assert {(i, j): n for i, row in looped.items() for j, n in row.items()} == dict(counts.todok())


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
