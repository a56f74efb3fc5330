"""The floor of a search by hand, the sides' errors, and all parts with small shapes."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from bench import decode_peers, decode_sides
from recjax.models.decoder import DecoderConfig
from tests.folders import ROOT


def test_the_floor_counts_products_and_bytes_by_hand():
  D, F, S, M, B, C, H = 8, 16, 5, 3, 2, decode_sides.CODES, 4
  shape = DecoderConfig(2, D, F, 2, 2, H, (0, 0), (1e4, 1e4))
  side = types.SimpleNamespace(
    shapes=decode_sides.Shapes('toy', 9, B, S, M),
    shape=shape,
    world=types.SimpleNamespace(
      codes_IL=np.zeros((9, 2)), trie=types.SimpleNamespace(num_nodes=(1, 2, 9))
    ),
    params={'layers': np.zeros(100, np.float32), 'tables': np.zeros(999, np.float32)},
  )
  weights = 2 * (4 * 2 * D * 2 * H + 3 * 2 * D * F)  # FLOPs of a token in both layers
  pairs = 2 * 4 * 2 * H  # FLOPs of a query and a key in both layers
  logits = 2 * D * C
  prompts = B * (S * weights + pairs * S * (S + 1) // 2 + logits)
  beams = B * 2 * (weights + pairs * (S + 1) + logits)  # the first level has two nodes
  kept = 2 * 4 * B * S * 2 * 2 * H
  found = decode_sides.floor(side, {'flops_per_sec': 1.0, 'bytes_per_sec': 1e12})
  assert found['flops'] == prompts + beams
  assert found['bytes'] == 2 * (400 + kept)
  assert found['floor_seconds'] == prompts + beams


def test_a_folder_without_static_is_refused(tmp_path):
  with pytest.raises(ValueError, match='--static must be a checkout of STATIC'):
    decode_peers.static_step(str(tmp_path), None, 1, 1)


@pytest.mark.soak
def test_every_part_runs_with_small_shapes(tmp_path):
  out = tmp_path / 'tiny.json'
  command = [sys.executable, '-m', 'bench.decode', '--tiny', '--beams=8', '--items=64']
  done = subprocess.run(
    [*command, f'--out={out}'],
    cwd=ROOT,
    env={name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  results = json.loads(out.read_text())
  (beams,), (constraint,) = results['beams'], results['constraint']
  assert beams['recjax_users_per_sec'] == beams['users'] / beams['recjax_seconds']
  cost = constraint['recjax_cpu_seconds'] / constraint['open_cpu_seconds'] - 1
  assert abs(constraint['cost_of_constraint'] - cost) < 1e-9
  assert 'set --static' in results['static'][0]['left_out']
