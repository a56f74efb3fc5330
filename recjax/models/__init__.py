"""Backbones: a family by name, built from the config and the token space.

A backbone offers `hidden` (training), `start` and `step` (search), and its `tables`.
"""

from flax import nnx

from recjax import config as config_lib
from recjax.models.gemma import DecoderConfig, Gemma
from recjax.models.t5 import T5, T5Config
from recjax.sids.token_space import TokenSpace


def _gemma(model: config_lib.Model, space: TokenSpace, rngs: nnx.Rngs) -> Gemma:
  config = DecoderConfig(
    depth=model.depth,
    width=model.width,
    ff_width=model.ff_width,
    heads=model.heads,
    kv_heads=model.kv_heads,
    head_width=model.head_width,
    windows=(0,) * model.depth,
    rope_bases=(10_000.0,) * model.depth,
    dropout=model.dropout,
    compute_dtype=model.compute_dtype,
    remat=model.remat,
    scan_unroll=model.scan_unroll,
  )
  return Gemma(config, space, rngs)


def _t5(model: config_lib.Model, space: TokenSpace, rngs: nnx.Rngs) -> T5:
  """The shape of v1.1: gated, the output untied, as many layers in the encoder as in the decoder."""
  config_lib.check(
    model.kv_heads == model.heads,
    f'a T5 has as many key and value heads as query heads ({model.heads})',
    model.kv_heads,
    'model.kv_heads',
  )
  config = T5Config(
    depth=model.depth,
    decoder_depth=model.depth,
    width=model.width,
    ff_width=model.ff_width,
    heads=model.heads,
    head_width=model.head_width,
    dropout=model.dropout,
    compute_dtype=model.compute_dtype,
    remat=model.remat,
    scan_unroll=model.scan_unroll,
  )
  return T5(config, space, rngs)


FAMILIES = {'gemma': _gemma, 't5': _t5}


def build(model: config_lib.Model, space: TokenSpace, seed: int):
  """The backbone that the config names, with initial values drawn from the seed.

  Raises:
    ValueError: an unknown family.
  """
  config_lib.check_choice(model.family, tuple(FAMILIES), 'model.family')
  return FAMILIES[model.family](model, space, nnx.Rngs(params=seed))
