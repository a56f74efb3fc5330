"""Counts the bytes to and from HBM in programs written by hand."""

import textwrap

from launch.compile.traffic import hbm_bytes


def module(entry: str, *others: str) -> str:
  texts = [
    'HloModule test, num_partitions=1',
    *(textwrap.dedent(other).strip() for other in others),
  ]
  lines = textwrap.indent(textwrap.dedent(entry).strip(), '  ')
  return '\n\n'.join([*texts, 'ENTRY %main (p: f32[64]) -> f32[64] {\n' + lines + '\n}'])


def test_operands_and_results_count_once_and_names_are_free():
  text = module("""
    %p = f32[64]{0} parameter(0)
    %q = bf16[64]{0} convert(%p)
    %b = bf16[8,8]{1,0} bitcast(%q)
    %t = (bf16[8,8]{1,0}, f32[64]{0}) tuple(%b, %p)
    %g = f32[64]{0} get-tuple-element(%t), index=1
    ROOT %r = f32[64]{0} add(%g, %p)
  """)
  assert hbm_bytes(text) == (256 + 128) + 3 * 256


def test_on_chip_memory_does_not_count():
  text = module("""
    %p = f32[64]{0:T(256)} parameter(0)
    %s = (f32[64]{0:T(256)S(1)}, f32[64]{0:T(256)}, u32[]{:S(2)}) copy-start(%p)
    %d = f32[64]{0:T(256)S(1)} copy-done(%s)
    %n = f32[64]{0:T(256)S(1)} negate(%d)
    ROOT %r = f32[64]{0:T(256)} negate(%n)
  """)
  assert hbm_bytes(text) == 256 + 256  # read by the copy, written by the last instruction


def test_an_asynchronous_slice_moves_only_the_slice():
  text = module("""
    %p = f32[64]{0:T(256)} parameter(0)
    %s = ((f32[64]{0:T(256)}), f32[16]{0:T(256)S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:16]}
    %d = f32[16]{0:T(256)S(1)} slice-done(%s)
    %g = (f32[64]{0:T(256)}, f32[128]{0:T(256)}) all-gather-start(%p), replica_groups={{0,1}}
    ROOT %r = f32[128]{0:T(256)} all-gather-done(%g)
  """)
  assert hbm_bytes(text) == 64 + (256 + 512)


LOOP = """
  %body (b: (s32[], f32[5,64], f32[5,64])) -> (s32[], f32[5,64], f32[5,64]) {
    %b = (s32[], f32[5,64]{1,0}, f32[5,64]{1,0}) parameter(0)
    %i = s32[] get-tuple-element(%b), index=0
    %x = f32[5,64]{1,0} get-tuple-element(%b), index=1
    %y = f32[5,64]{1,0} get-tuple-element(%b), index=2
    %f = f32[5,64]{1,0} fusion(%x, %y, %i), kind=kLoop, calls=%inside
    ROOT %t = (s32[], f32[5,64]{1,0}, f32[5,64]{1,0}) tuple(%i, %x, %f)
  }

  %inside (x: f32[5,64], y: f32[5,64], i: s32[]) -> f32[5,64] {
    %x.1 = f32[5,64]{1,0} parameter(0)
    %y.1 = f32[5,64]{1,0} parameter(1)
    %i.1 = s32[] parameter(2)
    %zero = s32[] constant(0)
    %one = f32[1,64]{1,0} dynamic-slice(%x.1, %i.1, %zero), dynamic_slice_sizes={1,64}
    %sin = f32[1,64]{1,0} sine(%one)
    ROOT %u = f32[5,64]{1,0} dynamic-update-slice(%y.1, %sin, %i.1, %zero)
  }

  %condition (c: (s32[], f32[5,64], f32[5,64])) -> pred[] {
    %c = (s32[], f32[5,64]{1,0}, f32[5,64]{1,0}) parameter(0)
    %i.2 = s32[] get-tuple-element(%c), index=0
    %n = s32[] constant(5)
    ROOT %lt = pred[] compare(%i.2, %n), direction=LT
  }
"""


def test_a_loop_over_slices_reads_and_writes_each_slice_once():
  text = module(
    """
    %p = (s32[], f32[5,64]{1,0}, f32[5,64]{1,0}) parameter(0)
    %w = (s32[], f32[5,64]{1,0}, f32[5,64]{1,0}) while(%p), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
    ROOT %g = f32[5,64]{1,0} get-tuple-element(%w), index=2
    """,
    LOOP,
  )
  # The slice in, the slice out, and the index (4 bytes) of the fusion.
  assert hbm_bytes(text) == 5 * (256 + 256 + 4)


def test_a_fusion_that_reads_a_whole_operand_reads_all_of_it():
  inside = """
  %inside (x: f32[5,64], y: f32[64]) -> f32[64] {
    %x.1 = f32[5,64]{1,0} parameter(0)
    %y.1 = f32[64]{0} parameter(1)
    %sum = f32[64]{0} reduce(%x.1, %y.1), dimensions={0}, to_apply=%add
    %row = f32[1,64]{1,0} slice(%x.1), slice={[0:1], [0:64]}
    %flat = f32[64]{0} bitcast(%row)
    ROOT %r = f32[64]{0} add(%sum, %flat)
  }
  """
  text = module(
    """
    %p = f32[5,64]{1,0} parameter(0)
    %q = f32[64]{0} parameter(1)
    ROOT %f = f32[64]{0} fusion(%p, %q), kind=kLoop, calls=%inside
    """,
    inside,
  )
  assert hbm_bytes(text) == 5 * 256 + 256 + 256
