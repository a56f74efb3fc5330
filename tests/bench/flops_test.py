"""The closed form against the matrix products of the traced program."""

import dataclasses
import math

from flax import nnx
import jax
from jax.extend import core as jex
import jax.numpy as jnp
import numpy as np
import pytest

from bench import flops
from recjax.models.decoder import Decoder, DecoderConfig
from recjax.models.t5 import SIZES, T5, T5Config
from recjax.sids.token_space import TokenSpace

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
ENCODER_DECODER = T5Config(
  depth=2, decoder_depth=3, width=16, ff_width=24, heads=4, head_width=8, attention='plain'
)


def products(jaxpr) -> int:
  """2 m k n of every dot_general of a program, those of a scan's body once a turn."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (summed, _), _ = equation.params['dimension_numbers']
      inner = math.prod(equation.invars[0].aval.shape[axis] for axis in summed)
      total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
    turns = equation.params['length'] if equation.primitive.name == 'scan' else 1
    total += turns * sum(products(inner) for inner in jex.jaxprs_in_params(equation.params))
  return total


@pytest.mark.parametrize(
  'config',
  [
    DECODER,
    ENCODER_DECODER,
    dataclasses.replace(ENCODER_DECODER, gated=False, activation='relu', tied=True, scaled=True),
  ],
  ids=['decoder', 't5 gated', 't5 plain'],
)
def test_equals_the_products_of_the_program(config):
  is_t5 = isinstance(config, T5Config)
  model = nnx.eval_shape(lambda: (T5 if is_t5 else Decoder)(config, SPACE, nnx.Rngs(params=0)))
  graph, params = nnx.split(model)
  S, T = 12, 10
  row, prompt = (jax.ShapeDtypeStruct((1, length), jnp.int32) for length in (T, S))
  batch = {'tokens': row, 'segments': row, 'positions': row}
  batch |= {'encoder_tokens': prompt, 'encoder_segments': prompt} if is_t5 else {}

  def logits(params, batch):
    model = nnx.merge(graph, params)
    return model.tables.all_logits(model.hidden(batch))

  traced = products(jax.make_jaxpr(logits)(params, batch).jaxpr)
  assert flops.forward(config, (S, T) if is_t5 else (T,), SPACE.size, dense=True) == traced


@pytest.mark.parametrize('window', [0, 1, 3, 9, 20])
def test_pairs_that_a_mask_allows(window):
  distance = np.subtract.outer(np.arange(9), np.arange(9))
  seen = (distance >= 0) & ((window == 0) | (distance < window))
  assert flops.seen_pairs(9, window) == seen.sum()


def test_t5_base_by_hand():
  # 512 and 128 tokens: 2 FLOPs a weight and token, then pairs, then logits; twice again backward.
  encoder = 12 * (512 * 2 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 768 * 512**2)
  decoder = 12 * (128 * 2 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 768 * 128 * 129 // 2)
  cross = 12 * (2 * 2 * 768**2 * (512 + 128) + 4 * 768 * 128 * 512)
  expected = 3 * 8 * (encoder + decoder + cross + 2 * 768 * 32_128 * 128)
  assert flops.train_step(SIZES['t5_base'].shape, 8, (512, 128), 32_128) == expected


def test_segments_see_their_own_tokens_alone():
  packed = flops.forward(DECODER, (12,), 28, segments=3)
  alone = flops.forward(DECODER, (4,), 28)
  assert packed == 3 * alone
  packed = flops.forward(ENCODER_DECODER, (12, 6), 28, segments=3)
  assert packed == 3 * flops.forward(ENCODER_DECODER, (4, 2), 28)


def test_peaks_are_found_by_part_of_the_devices_name():
  assert flops.peak('NVIDIA H200') == 989e12
  assert flops.peak('cpu') is None
