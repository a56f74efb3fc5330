"""FLOPs in closed form against the products of traced and compiled programs, and by hand."""

import dataclasses
import math

from flax import nnx
import jax
from jax.extend import core as jex
import jax.numpy as jnp
import numpy as np
import pytest

from configs import demo
from launch.compile import flops, hlo, programs
from recjax import config as config_lib
from recjax.models.decoder import Decoder, DecoderConfig
from recjax.models.family import Size
from recjax.models.gemma import SIZES
from recjax.models.hybrid import HybridConfig, HybridDecoder
from recjax.models.splash import BLOCKS
from recjax.models.t5 import SIZES as T5_SIZES
from recjax.models.t5 import T5, T5Config
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import wide_softmax

SPACE = TokenSpace(text_size=20, level_sizes=(8, 8, 4))
DECODER = DecoderConfig(
  depth=3,
  width=16,
  ff_width=24,
  heads=4,
  kv_heads=2,
  head_width=8,
  windows=(0, 4, 4),
  rope_bases=(10_000.0,) * 3,
)
HYBRID = HybridConfig(
  **{field.name: getattr(DECODER, field.name) for field in dataclasses.fields(DECODER)}
  | {'gated': True},
  kinds=('linear', 'full', 'linear'),
  linear=(2, 3, 6, 4, 4),
)
ENCODER_DECODER = T5Config(
  depth=2, decoder_depth=3, width=16, ff_width=24, heads=4, head_width=8, attention='plain'
)


def traced_products(jaxpr) -> int:
  """Sums 2 m k n over every dot_general of a program; those in a scan count once for each iteration."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (summed, _), _ = equation.params['dimension_numbers']
      inner = math.prod(equation.invars[0].aval.shape[axis] for axis in summed)
      total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
    turns = equation.params['length'] if equation.primitive.name == 'scan' else 1
    total += turns * sum(traced_products(inner) for inner in jex.jaxprs_in_params(equation.params))
  return total


@pytest.mark.parametrize(
  'config',
  [
    DECODER,
    HYBRID,
    ENCODER_DECODER,
    dataclasses.replace(ENCODER_DECODER, gated=False, activation='relu', tied=True, scaled=True),
  ],
  ids=['decoder', 'hybrid', 't5 gated', 't5 plain'],
)
def test_the_forward_pass_equals_the_products_of_the_traced_program(config):
  is_t5 = isinstance(config, T5Config)
  build = {T5Config: T5, HybridConfig: HybridDecoder, DecoderConfig: Decoder}[type(config)]
  model = nnx.eval_shape(lambda: build(config, SPACE, nnx.Rngs(params=0)))
  graph, params = nnx.split(model)
  S, T = 12, 20  # chunks of 32: two blocks of two are joined
  row, prompt = (jax.ShapeDtypeStruct((1, length), jnp.int32) for length in (T, S))
  batch = {'tokens': row, 'segments': row, 'positions': row}
  batch |= {'encoder_tokens': prompt, 'encoder_segments': prompt} if is_t5 else {}

  def logits(params, batch):
    model = nnx.merge(graph, params)
    return model.tables.all_logits(model.hidden(batch))

  traced = traced_products(jax.make_jaxpr(logits)(params, batch).jaxpr)
  assert flops.forward(config, (S, T) if is_t5 else (T,), SPACE.size, dense=True) == traced


@pytest.mark.parametrize('window', [0, 1, 3, 9, 20])
def test_visible_pairs_are_those_of_the_mask(window):
  distance = np.subtract.outer(np.arange(9), np.arange(9))
  visible = (distance >= 0) & ((window == 0) | (distance < window))
  assert flops.visible_pairs(9, window) == visible.sum()


def test_t5_base_equals_a_value_by_hand():
  # 512 and 128 tokens: 2 FLOPs per weight and token, then pairs, then logits; backward twice as much.
  encoder = 12 * (512 * 2 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 768 * 512**2)
  decoder = 12 * (128 * 2 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 768 * 128 * 129 // 2)
  cross = 12 * (2 * 2 * 768**2 * (512 + 128) + 4 * 768 * 128 * 512)
  expected = 3 * 8 * (encoder + decoder + cross + 2 * 768 * 32_128 * 128)
  assert flops.model_step(T5_SIZES['t5_base'].shape, 8, (512, 128), 32_128) == expected


def test_segments_see_only_their_own_tokens():
  packed = flops.forward(DECODER, (12,), 28, segments=3)
  alone = flops.forward(DECODER, (4,), 28)
  assert packed == 3 * alone
  packed = flops.forward(ENCODER_DECODER, (12, 6), 28, segments=3)
  assert packed == 3 * flops.forward(ENCODER_DECODER, (4, 2), 28)


SPACE_ITEMS = 300
ONE = {'data': 1, 'fsdp': 1, 'tensor': 1}
POST_NORMS = {
  'depth': 3,
  'width': 64,
  'ff_width': 96,
  'heads': 4,
  'kv_heads': 2,
  'head_width': 16,
  'windows': (0, 8, 8),
  'rope_bases': (10_000.0,) * 3,
  'post_norms': True,
}


def config_of(family: str, **fields) -> config_lib.Config:
  config = demo.get_config('tiny')
  config.model.update(family=family, depth=3, width=64, ff_width=96)
  config.model.update(heads=4, kv_heads=4, head_width=16, scan_unroll=1)
  config.packing.update(row_length=64, decoder_row_length=24, rows=8)
  config.batch_size = 16
  config.update_from_flattened_dict(fields)
  return config_lib.from_config_dict(config)


def mesh_of(config: config_lib.Config) -> jax.sharding.Mesh:
  axes = config.mesh
  return mesh_lib.make_mesh(axes, jax.devices()[: axes.data * axes.fsdp * axes.tensor])


def counted(config: config_lib.Config, text_targets: bool) -> float:
  """Returns the products of the step, compiled for the CPU devices of the mesh."""
  mesh = mesh_of(config)
  made = programs.Programs(config, programs.sizes(config, SPACE_ITEMS), mesh)
  made.text_targets = text_targets
  return hlo.flops(made.train_step().hlo) * mesh.size


@pytest.mark.parametrize(
  'family, fields, text_targets, kept_bytes',
  [
    (
      'gemma',
      {'model.kv_heads': 2},
      True,
      0,
    ),  # without rematerialisation; a single block of the loss
    ('gemma', {'model.remat': 'full', 'model.size': 'post_norms', 'mesh.tensor': 2}, False, 0),
    ('gemma', {'model.remat': 'full', 'model.sid_softmax': 'full', 'mesh.fsdp': 2}, False, 0),
    ('gemma', {'model.remat': 'full', 'model.sid_softmax': 'full', 'mesh.fsdp': 2}, False, 1 << 30),
    ('t5', {'model.remat': 'full', 'grad_accumulation': 2}, True, 0),
  ],
)
def test_the_closed_form_equals_the_compiled_program(
  family, fields, text_targets, kept_bytes, monkeypatch
):
  monkeypatch.setitem(SIZES, 'post_norms', Size(DecoderConfig(**POST_NORMS), 1024))
  if 'model.remat' in fields:  # several blocks
    monkeypatch.setattr(wide_softmax, 'BLOCK_BYTES', 1 << 18)
    monkeypatch.setattr(wide_softmax, 'KEPT_BYTES', kept_bytes)
  config = config_of(family, **({'mesh.data': 1} | fields))
  space = programs.sizes(config, SPACE_ITEMS).space
  work = flops.compiled_step(config, space, text_targets, False, mesh_of(config).shape)
  assert work.kernels == 0
  assert counted(config, text_targets) == pytest.approx(work.products, rel=0.01)
  assert 0 <= work.again < work.products / 3


def test_frozen_parameters_have_no_closed_form():
  config = config_of('gemma', **{'model.lora_rank': 4})
  assert flops.compiled_step(config, programs.sizes(config).space, False, False, {}) is None


@pytest.mark.parametrize(
  'length, window', [(128, 0), (1024, 0), (1024, 600), (384, 100), (1536, 512)]
)
def test_the_kernel_computes_whole_blocks(length, window):
  block = max(size for size in BLOCKS if length % size == 0)
  distance = np.subtract.outer(np.arange(length), np.arange(length))
  visible = (distance >= 0) & (distance < (window or length))
  blocks = visible.reshape(length // block, block, length // block, block).any(axis=(1, 3))
  assert flops.kernel_pairs(length, window) == blocks.sum() * block**2


def test_kernels_are_counted_separately():
  config = config_of('gemma', **{'model.remat': 'full', 'packing.row_length': 128})
  space = programs.sizes(config).space
  plain, fused = (
    flops.compiled_step(config, space, False, kernels, ONE) for kernels in (False, True)
  )
  one = 16 * 3 * 2 * 128 * 128 * 4 * 16  # rows, layers, 2 m k n of 4 heads
  assert fused.kernels == 11 * one  # 2 forward, 2 again, 4 and 3 backward
  assert plain.products - fused.products == 8 * one  # 2 forward, 2 again, 4 backward
  assert fused.total - plain.total == fused.again - plain.again == 3 * one
  none = dataclasses.replace(config, model=dataclasses.replace(config.model, remat='none'))
  assert flops.compiled_step(none, space, False, True, ONE).kernels == 9 * one
