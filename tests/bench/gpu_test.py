"""Runs every part of the GPU benchmark with small shapes on CPU, and checks its figures."""

import json
import os
import subprocess
import sys

import pytest

from tests.folders import ROOT

PARTS = 'attention,search,decode,gemma2_2b,resume,beauty,profile'


@pytest.mark.soak
def test_every_part_runs_with_small_shapes(tmp_path):
  out = tmp_path / 'tiny.json'
  command = ['-m', 'bench.gpu', '--tiny', f'--parts={PARTS}', '--commit=none', '--limit=900']
  done = subprocess.run(
    [sys.executable, *command, f'--out={out}', f'--scratch={tmp_path / "scratch"}'],
    cwd=ROOT,
    env={name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  results = json.loads(out.read_text())
  about = results['circumstances']
  assert about['command'] == f'python {" ".join(command)} --out=OUT --scratch=SCRATCH'
  assert (about['commit'], about['backend']) == ('none', 'cpu')
  assert 'failed' not in str(results), done.stderr
  attention = results['attention']['tiny']
  assert attention['auto'] == 'plain'
  for path in ('plain', 'xla'):  # bfloat16 against float32: eight bits of mantissa
    assert 0 < attention[f'{path}_difference'] < 0.02
    assert 0 < attention[f'{path}_gradient_difference'] < 0.02
  search = results['search']
  assert search['items'] == 64
  assert search['search_users_per_sec'] == 4 / search['search_seconds']
  (trained,) = [result for result in results['gemma2_2b'] if 'model' in result]
  assert trained['recjax_tokens_per_sec'] == 2 * 32 / trained['recjax_seconds']
  speed = trained['flops_per_step'] / trained['recjax_seconds']
  share = speed / trained['matmul_ceiling_flops_per_sec']
  assert abs(trained['recjax_share_of_ceiling'] / share - 1) < 1e-6
  assert trained['host_peak_bytes'] > 0  # the device's peak beside it on a GPU
  assert results['decode']['transformers']  # left out without torch, otherwise measured
  assert results['resume']['starts']['resume, cached']['first_step_after'] > 0
  assert len(results['resume']['saves_blocked_seconds']) == 1
  beauty = results['beauty']
  assert beauty['metrics']['test']['recall@10'] > 0 and beauty['goodput']['steps'] > 0
  assert beauty['last']['tokens_per_sec'] > 0
  assert list((tmp_path / 'scratch/profile/profile').rglob('*.trace.json.gz'))


@pytest.mark.soak
def test_a_part_that_fails_or_takes_too_long_does_not_lose_the_others(tmp_path):
  out = tmp_path / 'tiny.json'
  command = ['-m', 'bench.gpu', '--parts=sports,beauty', '--commit=none', '--limit=1']
  done = subprocess.run(
    [sys.executable, *command, f'--out={out}', f'--scratch={tmp_path}', '--data=sports=none'],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert 'no part ended well' in done.stderr
  results = json.loads(out.read_text())
  assert results['sports']['failed'] == results['beauty']['failed'] == 'reached the limit of 1 s'
