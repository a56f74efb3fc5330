"""FLOPs and collectives in HLO, against known sizes, XLA's own analysis, and lines written by hand."""

import functools
import textwrap

import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from launch.compile import hlo

F32 = 4


def mesh_of(**axes: int) -> Mesh:
  sizes = tuple(axes.values())
  devices = mesh_utils.create_device_mesh(sizes, jax.devices()[: int(np.prod(sizes))])
  return Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def compiled(f, *shapes, **options) -> str:
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(f, **options).lower(*arguments).compile().as_text()


def test_products_in_nested_loops_are_multiplied_by_the_trip_counts():
  def f(x, w):
    def inner(x, _):
      return jnp.tanh(x @ w), None

    def outer(x, _):
      x, _ = jax.lax.scan(inner, x, None, length=5)
      return x @ w.T, None

    return jax.lax.scan(outer, x, None, length=3)[0]

  assert hlo.flops(compiled(f, (4, 16), (16, 16))) == 3 * (5 + 1) * 2 * 4 * 16 * 16


@pytest.mark.parametrize(
  'spec, shapes',
  [
    ('ij,jk->ik', [(3, 5), (5, 7)]),
    ('bij,bjk->bik', [(2, 3, 5), (2, 5, 7)]),
    ('bijh,bkjh->bik', [(2, 3, 5, 4), (2, 7, 5, 4)]),
  ],
)
def test_a_product_counts_two_flops_per_multiplication(spec, shapes):
  sizes = {}
  for letters, shape in zip(spec.split('->')[0].split(','), shapes, strict=True):
    sizes |= dict(zip(letters, shape, strict=True))
  f = functools.partial(jnp.einsum, spec)
  assert hlo.flops(compiled(f, *shapes)) == 2 * np.prod(list(sizes.values()))


@pytest.mark.parametrize(
  'options',
  [
    {'window_strides': (1, 1), 'padding': 'SAME'},
    {'window_strides': (2, 1), 'padding': ((3, 0), (1, 2))},
    {'window_strides': (1, 3), 'padding': ((0, 0), (7, 7)), 'lhs_dilation': (2, 3)},
    {'window_strides': (1, 1), 'padding': 'VALID', 'rhs_dilation': (2, 1)},
    {'window_strides': (1, 1), 'padding': 'SAME', 'feature_group_count': 2},
  ],
)
def test_convolution_flops_equal_those_of_xla(options):
  groups = options.get('feature_group_count', 1)
  arguments = [
    jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 4, 9, 8), (6, 4 // groups, 3, 2))
  ]
  program = jax.jit(functools.partial(jax.lax.conv_general_dilated, **options)).lower(*arguments)
  assert hlo.flops(program.compile().as_text()) == program.cost_analysis()['flops']


def test_every_kind_of_collective_has_its_bytes_and_trip_count():
  mesh = mesh_of(data=2, fsdp=4)

  def local(x):  # [4, 8] of [16, 16]: 128 bytes
    def body(x, _):
      whole = jax.lax.all_gather(x, 'fsdp', axis=0, tiled=True)  # 4 x 128
      return jax.lax.psum_scatter(whole * 2, 'fsdp', scatter_dimension=0, tiled=True), None

    x, _ = jax.lax.scan(body, x, None, length=7)
    x = jax.lax.psum(jnp.sin(x), 'data')
    x = jax.lax.all_to_all(jnp.cos(x), 'fsdp', split_axis=0, concat_axis=1, tiled=True)
    return jax.lax.ppermute(x, 'data', [(0, 1), (1, 0)])

  f = jax.shard_map(
    local, mesh=mesh, in_specs=P('fsdp', 'data'), out_specs=P('fsdp', 'data'), check_vma=False
  )
  sharded = jax.NamedSharding(mesh, P('fsdp', 'data'))
  found = hlo.collectives(compiled(f, (16, 16), in_shardings=sharded, out_shardings=sharded))
  one = 4 * 8 * F32
  assert {(c.kind, c.payload, c.bytes, c.devices, c.count) for c in found} == {
    ('all-gather', 4 * one, 3 * one, 4, 7),
    ('reduce-scatter', 4 * one, 3 * one, 4, 7),
    ('all-reduce', one, one, 2, 1),
    ('all-to-all', one, one * 3 // 4, 4, 1),
    ('collective-permute', one, one, 8, 1),
  }
  assert len(found) == 5
  gather = next(c for c in found if c.kind == 'all-gather')
  assert gather.source.endswith('all_gather')
  assert hlo.bytes_by_kind(found)['reduce-scatter'] == 7 * 3 * one
  assert next(iter(hlo.bytes_by_kind(found))) in ('all-gather', 'reduce-scatter')


def module(body: str, *others: str, header: str = 'num_partitions=8') -> str:
  texts = [f'HloModule test, {header}', *(textwrap.dedent(other).strip() for other in others)]
  entry = 'ENTRY %main (p: f32[8]) -> f32[8] {\n' + textwrap.indent(
    textwrap.dedent(body).strip(), '  '
  )
  return '\n\n'.join([*texts, entry + '\n}'])


LOOP = """
  %body (b: (s32[], s32[], f32[8])) -> (s32[], s32[], f32[8]) {{
    %b = (s32[]{{:T(128)}}, s32[], f32[8]{{0:T(256)}}) parameter(0)
    %i = s32[]{{:T(128)}} get-tuple-element(%b), index=0
    %n = s32[] get-tuple-element(%b), index=1
    %x = f32[8]{{0:T(256)}} get-tuple-element(%b), index=2
    %r = f32[8]{{0:T(256)}} all-reduce(%x), replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}, to_apply=%add
    %step = s32[] constant({step})
    %next = s32[]{{:T(128)}} add(%i, %step)
    ROOT %t = (s32[]{{:T(128)}}, s32[], f32[8]{{0:T(256)}}) tuple(%next, %n, %r)
  }}

  %compare (c0: s32[], c1: s32[]) -> pred[] {{
    %c0 = s32[] parameter(0)
    %c1 = s32[] parameter(1)
    ROOT %c = pred[] compare(%c0, %c1), direction={direction}
  }}

  %condition (a: (s32[], s32[], f32[8])) -> pred[] {{
    %a = (s32[]{{:T(128)}}, s32[], f32[8]{{0:T(256)}}) parameter(0)
    %i.1 = s32[]{{:T(128)}} get-tuple-element(%a), index=0
    %n.1 = s32[] get-tuple-element(%a), index=1
    ROOT %lt = pred[] fusion(%i.1, %n.1), kind=kLoop, calls=%compare
  }}
"""


def loop_from(start: str, bound: str) -> str:
  return f"""
    %p = f32[8]{{0}} parameter(0)
    %start = s32[] {start}
    %bound = s32[] {bound}
    %init = (s32[], s32[], f32[8]{{0}}) tuple(%start, %bound, %p)
    %while.1 = (s32[], s32[], f32[8]{{0}}) while(%init), condition=%condition, body=%body
    ROOT %out = f32[8]{{0}} get-tuple-element(%while.1), index=2
  """


@pytest.mark.parametrize(
  'start, bound, step, direction, trips',
  [(0, 26, 1, 'LT', 26), (1, 8, 3, 'LE', 3), (41, -1, -1, 'GT', 42), (0, 10, 2, 'NE', 5)],
)
def test_trip_counts_are_found_from_the_condition(start, bound, step, direction, trips):
  text = module(
    loop_from(f'constant({start})', f'constant({bound})'),
    LOOP.format(step=step, direction=direction),
  )
  (found,) = hlo.collectives(text)
  assert (found.kind, found.count, found.devices) == ('all-reduce', trips, 4)
  assert found.bytes == 2 * 3 * 8 * F32 // 4


def test_an_unknown_trip_count_is_an_error():
  text = module(
    loop_from('constant(0)', 'custom-call(), custom_call_target="x"'),
    LOOP.format(step=1, direction='LT'),
  )
  with pytest.raises(
    ValueError, match=r'trip count of the loop while.1.*must be known.*all-reduce'
  ):
    hlo.collectives(text)
  assert hlo.flops(text) == 0  # the loop has no product
  with pytest.raises(ValueError, match=r'must be an optimised HLO module; got .module'):
    hlo.flops('module @jit_f {\n}\n')


@pytest.mark.parametrize(
  'groups, devices',
  [
    ('{{0,2,4,6},{1,3,5,7}}', 4),
    ('[4,2]<=[8]', 2),
    ('[2,4]<=[4,2]T(1,0)', 4),
    ("mesh['data'=2,'fsdp'=4] {'fsdp'}", 4),
    ("mesh['axis_0'=8,'axis_1'=1] {'axis_0','axis_1'}", 8),
    ("mesh['x'=8] {'x':(1)2}", 2),
    ('{}', 8),
  ],
)
def test_group_sizes_are_read_from_every_notation(groups, devices):
  text = module(f"""
    %p = f32[8]{{0}} parameter(0)
    ROOT %r = f32[8]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add
  """)
  assert hlo.collectives(text)[0].devices == devices


def test_asynchronous_pairs_count_once():
  text = module(
    """
    %p = f32[8]{0} parameter(0)
    %s = (f32[8]{0}, bf16[64]{0:T(8,128)(2,1)}) all-gather-start(%p), replica_groups=[1,8]<=[8]
    %d = bf16[64]{0} all-gather-done(%s)
    %a = ((f32[8]{0}), f32[1]{0}, u32[]) async-start(%p), calls=%wrapped
    %u = ((f32[8]{0}), f32[1]{0}, u32[]) async-update(%a)
    %f = f32[1]{0} async-done(%u)
    %k = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}
    ROOT %e = f32[8]{0} collective-permute-done(%k)
    """,
    """
    %wrapped (q: f32[8]) -> f32[1] {
      %q = f32[8]{0} parameter(0)
      ROOT %r = f32[1]{0} reduce-scatter(%q), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add
    }
    """,
  )
  found = {c.kind: c for c in hlo.collectives(text)}
  assert len(hlo.collectives(text)) == 3
  assert found['all-gather'].payload == 8 * 8 * F32
  assert found['reduce-scatter'].bytes == 7 * F32
  assert found['collective-permute'].bytes == 8 * F32


def test_transfers_between_slices_are_counted_apart_from_collectives_within_them():
  attributes = (
    'is_host_transfer=true, frontend_attributes={{_xla_megascale_target="{{{slices}}}x{{0:7}}",'
    '_xla_megascale_transfer_type="{kind}"}}'
  )
  two, four = (
    attributes.format(slices=slices, kind=kind)
    for slices, kind in (('1,2', 'ALL_REDUCE'), ('1,2,3,4', 'ALL_GATHER'))
  )
  text = module(f"""
    %p = f32[8]{{0}} parameter(0)
    %a = token[] after-all()
    %s = (f32[8]{{0}}, u32[], token[]) send(%p, %a), channel_id=1, {two}
    %s.d = token[] send-done(%s), channel_id=1, {two}
    %r = (f32[8]{{0}}, u32[], token[]) recv(%a), channel_id=2, {two}
    %t = (f32[8]{{0}}, u32[], token[]) send(%p, %a), channel_id=3, {four}
    %u = (f32[8]{{0}}, u32[], token[]) send(%p, %a), channel_id=4, is_host_transfer=true
    ROOT %x = f32[8]{{0}} all-reduce(%p), replica_groups={{{{0,1,2,3,4,5,6,7}}}}, to_apply=%add
  """)
  found = hlo.collectives(text)
  assert [(c.kind, c.devices, c.payload, c.is_dcn) for c in found] == [
    ('all-reduce', 2, 8 * F32, True),
    ('all-gather', 4, 4 * 8 * F32, True),
    ('all-reduce', 8, 8 * F32, False),
  ]
  assert hlo.bytes_by_kind(found, is_dcn=True) == {'all-gather': 3 * 8 * F32, 'all-reduce': 8 * F32}
  assert hlo.bytes_by_kind(found) == {'all-reduce': 2 * 7 * F32}


def test_collectives_fused_by_the_tpu_compiler_are_counted():
  """One all-gather distributed over three fusions, and a reduce-scatter as a fused all-reduce."""
  gather = (
    'all-gather(%p0), channel_id=9, replica_groups=[1,8]<=[8], dimensions={0}, '
    'frontend_attributes={chain_id="2"}'
  )
  fusions = [
    f"""
    %fused.{n} (p0: f32[8]) -> f32[64] {{
      %p0 = f32[8]{{0}} parameter(0)
      %g = f32[64]{{0}} {gather}
      ROOT %c = f32[64]{{0}} custom-call(%g), custom_call_target="{target}"
    }}
    """
    for n, target in enumerate(('AsyncCollectiveStart', 'Other', 'AsyncCollectiveDone'))
  ]
  text = module(
    """
    %p = f32[8]{0} parameter(0)
    %s = f32[64]{0} fusion(%p), kind=kCustom, calls=%fused.0
    %m = f32[64]{0} fusion(%p), kind=kCustom, calls=%fused.1
    %d = f32[64]{0} fusion(%p), kind=kCustom, calls=%fused.2
    ROOT %r = f32[8]{0} fusion(%d), kind=kCustom, calls=%all-reduce-scatter.1
    """,
    *fusions,
    """
    %all-reduce-scatter.1 (p1: f32[64]) -> f32[8] {
      %p1 = f32[64]{0} parameter(0)
      %a = f32[64]{0} all-reduce(%p1), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
      %i = s32[] partition-id()
      ROOT %c = f32[8]{0} dynamic-slice(%a, %i), dynamic_slice_sizes={8}
    }
    """,
  )
  found = hlo.collectives(text)
  assert [(c.kind, c.bytes) for c in found] == [
    ('all-gather', 7 * 8 * F32),
    ('reduce-scatter', 7 * 8 * F32),
  ]


def test_kernels_are_counted_also_if_their_attributes_span_lines():
  body = """
    %p = f32[8]{0} parameter(0)
    %splash.2 = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={m={
    "xprof":"= 3"
    }}, metadata={op_name="f"}
    %g = f32[8]{0} custom-call(%splash.2), custom_call_target="AllocateBuffer"
    ROOT %splash.3 = f32[8]{0} custom-call(%g), custom_call_target="tpu_custom_call"
  """
  lines = module(body).replace('\n    }}', '\n}}')
  assert hlo.kernels(lines) == {'splash': 2}


def test_the_largest_branch_of_a_conditional_counts():
  def f(x, w):
    return jax.lax.switch(
      x[0, 0].astype(jnp.int32), [lambda: x, lambda: (x @ w) @ w, lambda: x @ w]
    )

  assert hlo.flops(compiled(f, (4, 4), (4, 4))) == 2 * 2 * 4**3
