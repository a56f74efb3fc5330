"""Runs the GPU benchmark with small shapes on CPU, and checks the figures of every part."""

import json
import os
import subprocess
import sys

import pytest

from tests.folders import ROOT


@pytest.mark.soak
def test_every_part_runs_with_small_shapes(tmp_path):
  out = tmp_path / 'tiny.json'
  command = ['-m', 'bench.gpu', '--tiny', '--parts=attention,search,gemma2_2b', '--commit=none']
  done = subprocess.run(
    [sys.executable, *command, f'--out={out}'],
    cwd=ROOT,
    env={name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  results = json.loads(out.read_text())
  about = results['circumstances']
  assert about['command'] == f'python {" ".join(command)} --out=OUT'
  assert (about['commit'], about['backend']) == ('none', 'cpu')
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
