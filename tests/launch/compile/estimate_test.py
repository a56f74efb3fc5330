"""Memory, roofline and agreement of an estimate, by hand."""

import types

import pytest

from launch.compile.chips import GIB
from launch.compile.estimate import Memory, memory_of, roofline
from launch.compile.report import describe
from tests.launch.compile.examples import V5E, estimate_of


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
