"""The logit checker: its numbers, its file and its messages."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from recjax.models.pretrained import check
from tests.folders import ROOT
from tests.goldens import make_decoders, make_t5


def example_of(kind):
  folder = make_decoders.GOLDENS / kind
  return folder, dict(np.load(folder / 'example.npz'))


def test_logits_of_a_padded_decoder_batch_equal_the_goldens():
  folder, example = example_of('gemma3')
  ours = check.our_logits(folder, example['input_ids'])
  real = example['attention_mask'] > 0
  assert ours.dtype == np.float32 and ours.shape == example['logits'].shape
  theirs = example['logits'][real]
  assert np.abs(ours[real] - theirs).max() <= 1e-4 * np.abs(theirs).max()
  assert not ours[~real].any()


def test_logits_of_an_encoder_decoder_equal_the_goldens():
  folder = make_t5.GOLDENS / 't5_v1_0'
  example = dict(np.load(folder / 'example.npz'))
  ours = check.our_logits(folder, example['input_ids'], 0, example['decoder_input_ids'])
  real = example['decoder_attention_mask'] > 0
  theirs = example['logits'][real]
  assert np.abs(ours[real] - theirs).max() <= 1e-4 * np.abs(theirs).max()
  with pytest.raises(ValueError, match='--decoder_tokens must be given for an encoder–decoder'):
    check.our_logits(folder, example['input_ids'])


def test_the_comparison_ignores_padding():
  rng = np.random.default_rng(0)
  theirs = rng.normal(size=(2, 3, 5)).astype(np.float32)
  ours = theirs + np.array([0, 0.25, 0], np.float32)[None, :, None]  # shifts change no distribution
  ours[0, 0, 2] += 0.5
  real = np.array([[True, True, False], [False, True, False]])
  ours[1, 0], ours[0, 2] = 100, 100
  text = check.comparison(ours, theirs, real)
  assert text.startswith('largest difference: 0.5 ')
  p, q = (np.exp(x[0, 0].astype(np.float64)) for x in (theirs, ours))
  lines = text.splitlines()
  assert float(lines[-2].split()[1]) == pytest.approx(scipy.stats.entropy(p, q), rel=1e-2)
  assert [line.split()[0] for line in lines[-2:]] == ['0', '1']
  assert abs(float(lines[-1].split()[1])) < 1e-12


def run(folder, tokens, out, *flags):
  command = [
    sys.executable,
    '-m',
    'recjax.models.pretrained.check',
    str(folder),
    f'--tokens={tokens}',
  ]
  return subprocess.run(
    [*command, f'--out={out}', *flags],
    cwd=ROOT,
    env={'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': os.environ.get('PYTHONPATH', '')},
    capture_output=True,
    text=True,
  )


def test_the_command_line_writes_logits_and_prints_the_comparison(tmp_path):
  folder, example = example_of('qwen3')
  tokens, out = tmp_path / 'tokens.npy', tmp_path / 'logits.npy'
  np.save(tokens, np.where(example['attention_mask'] > 0, example['input_ids'], 63))
  done = run(folder, tokens, out, '--pad_id=63')
  assert done.returncode == 0, done.stderr
  real, logits = example['attention_mask'] > 0, np.load(out)
  theirs = example['logits'][real]
  assert np.abs(logits[real] - theirs).max() <= 1e-4 * np.abs(theirs).max()
  assert 'not installed' in done.stdout or 'KL divergence by position' in done.stdout

  np.save(tokens, np.full((1, 2), 64))
  refused = run(folder, tokens, out)
  assert refused.returncode == 1
  assert (
    refused.stderr.strip()
    .splitlines()[-1]
    .startswith('ValueError: --tokens must be ids in [0, 64), the rows of the table;')
  )
