"""The closed form against the products of compiled steps, and the kernel's blocks by brute force."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import demo
from launch.compile import flops, hlo, programs
from recjax import config as config_lib
from recjax.models.decoder import DecoderConfig
from recjax.models.family import Size
from recjax.models.gemma import SIZES
from recjax.models.splash import BLOCKS
from recjax.sharding import mesh as mesh_lib
from recjax.training import wide_softmax

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
  """The products of the step, compiled for as many CPU devices as the mesh has."""
  mesh = mesh_of(config)
  made = programs.Programs(config, programs.sizes(config, SPACE_ITEMS), mesh)
  made.text_targets = text_targets
  return hlo.flops(made.train_step().hlo) * mesh.size


@pytest.mark.parametrize(
  'family, fields, text_targets',
  [
    ('gemma', {'model.kv_heads': 2}, True),  # without rematerialisation; a single block of the loss
    ('gemma', {'model.remat': 'full', 'model.size': 'post_norms', 'mesh.tensor': 2}, False),
    ('gemma', {'model.remat': 'full', 'model.sid_softmax': 'full', 'mesh.fsdp': 2}, False),
    ('t5', {'model.remat': 'full', 'grad_accumulation': 2}, True),
  ],
)
def test_the_closed_form_is_what_is_compiled(family, fields, text_targets, monkeypatch):
  monkeypatch.setitem(SIZES, 'post_norms', Size(DecoderConfig(**POST_NORMS), 1024))
  if 'model.remat' in fields:  # several blocks
    monkeypatch.setattr(wide_softmax, 'BLOCK_BYTES', 1 << 18)
  config = config_of(family, **({'mesh.data': 1} | fields))
  space = programs.sizes(config, SPACE_ITEMS).space
  work = flops.train_step(config, space, text_targets, False, mesh_of(config).shape)
  assert work.kernels == 0
  assert counted(config, text_targets) == pytest.approx(work.products, rel=0.01)
  assert 0 <= work.again < work.products / 3


def test_frozen_parameters_have_no_closed_form():
  config = config_of('gemma', **{'model.lora_rank': 4})
  assert flops.train_step(config, programs.sizes(config).space, False, False, {}) is None


@pytest.mark.parametrize(
  'length, window', [(128, 0), (1024, 0), (1024, 600), (384, 100), (1536, 512)]
)
def test_the_kernel_computes_whole_blocks(length, window):
  block = max(size for size in BLOCKS if length % size == 0)
  distance = np.subtract.outer(np.arange(length), np.arange(length))
  seen = (distance >= 0) & (distance < (window or length))
  blocks = seen.reshape(length // block, block, length // block, block).any(axis=(1, 3))
  assert flops.kernel_pairs(length, window) == blocks.sum() * block**2


def test_kernels_are_counted_apart_and_their_passes_by_hand():
  config = config_of('gemma', **{'model.remat': 'full', 'packing.row_length': 128})
  space = programs.sizes(config).space
  plain, fused = (flops.train_step(config, space, False, kernels, ONE) for kernels in (False, True))
  one = 16 * 3 * 2 * 128 * 128 * 4 * 16  # rows, layers, 2 m k n of 4 heads
  assert fused.kernels == 11 * one  # 2 forward, 2 again, 4 and 3 backward
  assert plain.products - fused.products == 8 * one  # 2 forward, 2 again, 4 backward
  assert fused.total - plain.total == fused.again - plain.again == 3 * one
  none = dataclasses.replace(config, model=dataclasses.replace(config.model, remat='none'))
  assert flops.train_step(none, space, False, True, ONE).kernels == 9 * one
