"""Compares the bytes of one size with values by hand."""

import json
import os
import subprocess
import sys

import pytest

from tests.folders import ROOT

# Published parameters of google/gemma-3-270m, plus the rows of 1,024 SID codes.
PARAMETERS = 268_098_176 + 1024 * 640


@pytest.fixture(scope='module')
def computed(tmp_path_factory):
  """Runs the command in a new process, because flags of all commands have the same names."""
  out = tmp_path_factory.mktemp('memory') / 'memory.json'
  done = subprocess.run(
    [sys.executable, '-m', 'bench.memory', '--sizes=gemma3_270m', '--rank=4', f'--out={out}'],
    cwd=ROOT,
    env={name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert f'| gemma3_270m | {PARAMETERS:,} | 4.3 | 1.1 | 1.1 |' in done.stdout
  return json.loads(out.read_text())['gemma3_270m']


def test_full_training_has_four_numbers_per_parameter(computed):
  full = computed['full']
  assert full['parameters'] == full['gradients'] == 4 * PARAMETERS
  assert 0 <= full['optimizer'] - 8 * PARAMETERS < 100  # two moments, and step counts


def test_only_trained_parameters_have_gradients_and_moments(computed):
  rows = computed['sid_rows']
  assert (rows['parameters'], rows['gradients']) == (4 * PARAMETERS, 4 * 1024 * 640)
  assert 0 <= rows['optimizer'] - 8 * 1024 * 640 < 100
  # Sums of input and output widths of q, out, k, v, gate, up and down, in each of 18 layers.
  sides = (640 + 1024) * 2 + (640 + 256) * 2 + (640 + 2048) * 3
  adapters, lora = 4 * 4 * 18 * sides, computed['lora']
  assert lora['gradients'] == adapters + 4 * 1024 * 640  # SID rows are trained beside adapters
  assert lora['parameters'] == 4 * PARAMETERS + adapters
  assert 0 <= lora['optimizer'] - 2 * lora['gradients'] < 100
