"""Tests estimates against values by hand, advice, report and table; compiles for a TPU if libtpu is installed."""

import importlib.util
import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from configs import demo, sports
from launch.compile import estimate as estimate_lib
from launch.compile import programs, table
from launch.compile.chips import CHIPS, GIB, chip_of, peak_flops
from launch.compile.estimate import Estimate, Memory, memory_of, roofline
from launch.compile.flops import Work
from launch.compile.report import advice, as_json, describe, estimates
from recjax import config as config_lib
from recjax.config import group, ordered, stage
from recjax.sharding import mesh as mesh_lib
from tests.folders import ROOT

V5E = CHIPS['v5e']


def estimate_of(**fields) -> Estimate:
  memory = Memory(2 * GIB, 4 * GIB, 1 * GIB, 5 * GIB, 0, 0)
  sent = {'all-gather': 3 * GIB, 'reduce-scatter': GIB}
  return Estimate(
    **{
      'chip': V5E,
      'chips': 4,
      'memory': memory,
      'refusal': '',
      'counted': 1.03e15,
      'work': Work(products=10**15, kernels=10**14, again=2 * 10**14),
      'collectives': sent,
      'roofline': roofline(V5E, 1.97e14, 819e9, 400e9),
      'seconds': 61.0,
    }
    | fields
  )


def config_of(variant: str = 't5_small', **fields) -> config_lib.Config:
  config = sports.get_config(variant)
  with config.unlocked():
    config.update_from_flattened_dict(fields)
  return config_lib.from_config_dict(config)


def test_chips_are_found_by_topology():
  assert chip_of('v5e:16x16').flops == 197e12
  assert chip_of('v5p:4x4x4').hbm == pytest.approx(95.74 * 2**30)
  for wrong in ('v9:2x2', 'v5e', 'v5e:ax2', 'v5e:'):
    with pytest.raises(ValueError, match=r'must be one of v4, v5e.*got .*Set --topology'):
      chip_of(wrong)


def test_peaks_are_found_by_part_of_the_device_kind():
  assert peak_flops('NVIDIA H200') == 989e12
  assert peak_flops('TPU v5 lite') == CHIPS['v5e'].flops == 197e12
  assert peak_flops('TPU v5p') == CHIPS['v5p'].flops == 459e12
  assert peak_flops('cpu') is None


def test_the_roofline_equals_values_by_hand():
  line = roofline(V5E, 394e12, 819e9, 100e9)
  assert (line.flops, line.hbm, line.ici) == (2.0, 1.0, 0.5)
  assert (line.seconds, line.bound) == (2.0, 'FLOPs')
  assert roofline(V5E, 1.0, 1.0, 200e9 * 7).bound == 'ICI'
  assert roofline(V5E, 1.0, 819e9, 1.0).bound == 'HBM'


def test_the_parts_of_the_memory_sum_to_the_total():
  analysis = types.SimpleNamespace(
    argument_size_in_bytes=100,
    temp_size_in_bytes=50,
    output_size_in_bytes=90,
    alias_size_in_bytes=80,
    generated_code_size_in_bytes=7,
  )
  step = memory_of(analysis, parameters=30, optimizer=60, is_resident=False)
  assert step == Memory(30, 60, inputs=10, temporary=50, outputs=10, program=7)
  assert step.total == 100 + 50 + 10 + 7
  search = memory_of(analysis, parameters=30, optimizer=60, is_resident=True)
  assert search.total == step.total + 60  # training keeps it in memory


def test_a_program_fits_up_to_the_memory_of_the_chip():
  hbm = int(V5E.hbm)
  assert estimate_of(memory=Memory(hbm, 0, 0, 0, 0, 0)).fits
  assert not estimate_of(memory=Memory(hbm, 0, 0, 1, 0, 0)).fits
  assert not estimate_of(memory=None).fits


@pytest.mark.parametrize(
  'refusal, gib',
  [
    ('RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total (31.25G) exceeds available', 31.25),
    ('RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 20.50G of 15.75G hbm.', 20.5),
    ('RESOURCE_EXHAUSTED: something else', None),
  ],
)
def test_the_needed_memory_is_read_from_the_compilers_message(refusal, gib):
  needed = estimate_of(memory=None, refusal=refusal).needed
  assert needed == (gib and gib * GIB)


def test_counts_agree_up_to_a_difference_of_five_percent():
  assert estimate_of(counted=1.049e15).agrees
  assert not estimate_of(counted=1.051e15).agrees
  assert not estimate_of(counted=0.949e15).agrees
  assert estimate_of(work=None).agrees  # nothing to compare with
  assert 'DIFFERS by more than 5%' in describe('step', estimate_of(counted=2e15), 'tokens', 1)


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


def test_sizes_come_from_the_config_and_assumptions_are_reported():
  sizes = programs.sizes(config_of('flan_t5_xl'))
  assert sizes.space.text_size == 32_100 + 34
  assert sizes.space.level_sizes == (256, 256, 256, programs.DEDUPLICATION)
  assert '32,100 text pieces (the tokenizer of flan_t5_xl' in sizes.assumed[0]
  assert 'a de-duplication level of 16 codes' in sizes.assumed
  assert programs.sizes(config_of('gemma3_4b')).space.text_size == 262_208 + 34
  own = programs.sizes(config_of('', **{'sids.collisions': 'keep', 'data.text_pieces': 999}), 77)
  assert own.space.text_size == 999 + 34
  assert own.space.num_levels == 3 and own.sids.num_items == 77
  few = programs.sizes(config_of('', **{'sids.codes': (4, 4)}), 1000)  # 16 cells for 1,000 items
  assert few.space.level_sizes[-1] >= 2 * 1000 // 16


@pytest.mark.parametrize('variant', ['', 't5_small'])
def test_the_programs_have_the_shapes_of_a_run(variant):
  config = config_of(variant, **{'mesh.fsdp': 8, 'mesh.data': 1})
  made = programs.Programs(config, programs.sizes(config), mesh_lib.make_mesh(config.mesh))
  assert made.batch['targets'].shape == (config.batch_size, 128)  # T5's decoder, or the decoder
  assert made.batch['dropped'].shape == (config.batch_size,)
  assert ('encoder_tokens' in made.batch) == (variant == 't5_small')
  assert not made.text_targets
  trie, prompts, excluded = made.search_arguments()
  assert prompts['tokens'].shape == (128, 128)  # 24 + 19 x 4, up to a multiple of 32
  assert excluded.shape == (128, programs.HISTORY)
  assert trie.num_nodes[-1] == programs.ITEMS
  whole = sum(np.prod(x.shape) * 4 for x in jax.tree.leaves(made.state.params))
  assert whole / 8 <= programs.bytes_a_device(made.state.params) <= 1.05 * whole / 8


def test_a_batch_that_does_not_match_the_mesh_is_rejected():
  config = config_of(**{'mesh.fsdp': 8, 'mesh.data': 1, 'grad_accumulation': 32})
  with pytest.raises(ValueError, match=r'batch shards x grad_accumulation \(256\); got 128'):
    programs.Programs(config, programs.sizes(config), mesh_lib.make_mesh(config.mesh))


def test_the_table_has_every_cell_and_the_rest_of_the_page_stays(tmp_path):
  cell, other = table.CELLS[0], table.CELLS[1]
  rows = {
    cell.name: {'training step': as_json(estimate_of())},
    other.name: {'training step': as_json(estimate_of(memory=None, refusal='(31.25G) exceeds'))},
  }
  page = tmp_path / 'page.md'
  page.write_text(f'before\n{table.BEGIN}\nold\n{table.END}\nafter\n')
  table.write_docs(page, json.loads(json.dumps(rows)))
  text = page.read_text()
  assert text.startswith('before\n') and text.endswith('after\n') and 'old' not in text
  lines = [line for line in text.splitlines() if line.startswith('|')]
  assert len(lines) == 2 + 12 and len({line.count('|') for line in lines}) == 1
  assert '| yes | 12.00 (6.00, 5.00) of 15.75 |' in lines[2] and '**2.000**: 1.000' in lines[2]
  assert '| **no** | 31.2 of 15.75 |' in lines[3]
  assert sum('not compiled yet' in line for line in lines) == 10
  page.write_text('no marks')
  with pytest.raises(ValueError, match='must hold the lines'):
    table.write_docs(page, rows)


def test_the_cells_are_valid_configs():
  assert len(table.CELLS) == 12
  for cell in table.CELLS:
    given = dict(a.removeprefix('--config.').split('=') for a in cell.arguments[2:])
    config = config_of(cell.size, **{name: int(value) for name, value in given.items()})
    hosts = cell.chips // 4
    assert config.mesh.data * config.mesh.fsdp == cell.chips
    assert config.batch_size == cell.chips * cell.rows
    assert config.batch_size % (config.packing.rows * hosts) == 0


def run(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', 'launch.compile', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env={k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'},
    check=False,
  )


HAS_COMPILER = importlib.util.find_spec('libtpu') is not None


@pytest.mark.skipif(HAS_COMPILER, reason='libtpu is installed')
def test_the_message_without_a_compiler_names_the_package():
  done = run('--config=configs/sports.py:t5_small', '--topology=v5e:2x2')
  assert done.returncode == 2
  assert 'pip install -r requirements-tpu.txt' in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.skipif(not HAS_COMPILER, reason='libtpu is not installed (requirements-tpu.txt)')
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
