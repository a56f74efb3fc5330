"""The report of an estimate, advice, and real compilations if libtpu is installed."""

import importlib.util
import os
import subprocess
import sys

import pytest

from configs import demo
from launch.compile import estimate as estimate_lib
from launch.compile.chips import GIB
from launch.compile.estimate import Memory, roofline
from launch.compile.report import advice, describe, estimates
from recjax import config as config_lib
from recjax.config import group, ordered, stage
from tests.folders import ROOT
from tests.launch.compile.examples import V5E, config_of, estimate_of


def test_the_report_has_every_figure():
  text = describe('training step', estimate_of(), 'tokens', 4000)
  for figure in (
    'compiled in 61 s',
    'temporary        5.000',
    '12.000 of 15.75 (76%): fits',
    'FLOPs 1.1e+15 in closed form, of which 9.1% in attention kernels and 18.2% computed again',
    '(+3.00%): agrees',
    'all-gather 3.000, reduce-scatter 1.000',
    'at least 2.0000 s: FLOPs 1.0000, HBM 1.0000, ICI 2.0000; bound by ICI; at most 2,000 tokens/s',
  ):
    assert figure in text
  assert 'DCN' not in text
  sliced = estimate_of(
    dcn={'all-reduce': 2 * GIB},
    transfers=7,
    roofline=roofline(V5E, 1.97e14, 819e9, 1.0, 6.25e9 * 2),
  )
  text = describe('training step', sliced, 'tokens', 4000)
  assert 'between slices (DCN), GiB that a chip sends: all-reduce 2.000, in 7 transfers' in text
  assert 'ICI 0.0000, DCN 4.0000; bound by DCN; at most 1,000 tokens/s' in text
  full = estimate_of(memory=Memory(10 * GIB, 6 * GIB, 0, 0, 0, 0))
  assert '16.000 of 15.75 (102%): DOES NOT FIT' in describe('step', full, 'tokens', 1)
  refused = estimate_of(memory=None, refusal='RESOURCE_EXHAUSTED: no room\nat all')
  assert 'the compiler ran out of memory: RESOURCE_EXHAUSTED: no room' in describe(
    's', refused, 't', 1
  )


def test_a_program_that_does_not_fit_gets_advice():
  config = config_of(
    **{'model.remat': 'none', 'model.compute_dtype': 'float32', 'packing.row_length': 256}
  )
  by_data = {'data': 4, 'fsdp': 1, 'tensor': 1}
  state = advice(config, estimate_of(), by_data, state=12 * GIB, is_search=False)
  assert state[0].startswith('--config.mesh.fsdp=4 --config.mesh.data=1')
  rest = advice(config, estimate_of(), by_data, state=1, is_search=False)
  assert rest[0].startswith('--config.model.remat=full')
  for way in (
    '--config.model.compute_dtype=bfloat16',
    '--config.grad_accumulation=2',
    '--config.batch_size=64',
    '--config.packing.row_length=128',
    '--config.mesh.tensor=2',
  ):
    assert any(other.startswith(way) for other in rest), way
  search = advice(config, estimate_of(), by_data, state=1, is_search=True)
  assert any(way.startswith('--config.eval.batch_size=64') for way in search)
  assert not any('grad_accumulation' in way or 'remat' in way for way in search)
  full = {'data': 1, 'fsdp': 128, 'tensor': 1}
  config = config_of()  # already one row per device, remat and bfloat16
  least = advice(config, estimate_of(), full, state=1, is_search=False)
  assert not any('grad_accumulation' in w or 'batch_size' in w or 'remat' in w for w in least)


HAS_COMPILER = importlib.util.find_spec('libtpu') is not None


def run(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', 'launch.compile', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env={k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'},
    check=False,
  )


@pytest.mark.skipif(HAS_COMPILER, reason='libtpu is installed')
def test_the_message_without_a_compiler_names_the_package():
  done = run('--config=configs/sports.py:t5_small', '--topology=v5e:2x2')
  assert done.returncode == 2
  assert "pip install '.[tpu]'" in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.skipif(not HAS_COMPILER, reason='libtpu is not installed (the extra [tpu])')
@pytest.mark.parametrize('family, width', [('t5', 32), ('gemma', 64)])
def test_programs_compile_for_a_small_slice(family, width, capsys):
  """The gemma case has shapes that the splash kernels support."""
  config = demo.get_config('tiny')
  config.model.family = family
  config.model.update(depth=3, width=128, ff_width=256, heads=2, kv_heads=2, head_width=width)
  config.model.update(remat='full', compute_dtype='bfloat16')
  config.packing.update(row_length=128, decoder_row_length=32, rows=8)
  config.mesh.update(data=1, fsdp=4)
  config.batch_size = 16
  only_sids = ordered(sid=group('tables/sid'), rest=group('', frozen=True))
  config.stages = ordered(sids=stage(500, groups=only_sids), all=stage(1000))
  _, found = estimates(config_lib.from_config_dict(config), 'v5e:2x2', 1000, with_search=True)
  first, step = found['training step of stage sids'], found['training step of stage all']
  search = found['search']
  assert first.fits and first.memory.optimizer < step.memory.optimizer / 4
  assert first.flops < step.flops
  assert step.fits and search.fits
  assert step.agrees and abs(step.difference) < estimate_lib.AGREEMENT
  assert (step.work.kernels > 0) == (family == 'gemma')
  assert step.collectives and step.roofline.seconds > 0
  assert step.memory.parameters * 2 <= step.memory.optimizer + 64
  assert 'fits' in capsys.readouterr().out


@pytest.mark.skipif(not HAS_COMPILER, reason='libtpu is not installed (the extra [tpu])')
def test_two_slices_exchange_each_gradient_once(capsys):
  config = demo.get_config('tiny')
  config.model.update(family='gemma', depth=2, width=256, ff_width=512, heads=2, kv_heads=2)
  config.model.update(head_width=64, compute_dtype='float32')
  config.packing.update(row_length=128, rows=4)
  config.mesh.update(data=2, fsdp=4)
  config.batch_size = 16
  config = config_lib.from_config_dict(config)
  _, found = estimates(config, 'v5e:2x2', 1000, with_search=False, slices=2)
  step = found['training step']
  sent = step.dcn['all-reduce']
  assert step.dcn == {'all-reduce': sent} and step.transfers > 0 and step.roofline.dcn > 0
  # Its share of the gradients, in float32 or in bfloat16, and a few sums and norms.
  assert 0.5 * step.memory.parameters <= sent <= 1.1 * step.memory.parameters
  assert '8 chips of v5e in 2 slices, mesh data 2 x fsdp 4' in capsys.readouterr().out
