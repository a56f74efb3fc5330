"""Backbones: a family by name, built from the config and the token space.

A backbone offers `hidden` (training), `start` and `step` (search), and its `tables`.
"""

from flax import nnx

from recjax import config as config_lib
from recjax.models.gemma import DecoderConfig, Gemma
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


FAMILIES = {'gemma': _gemma}


def build(model: config_lib.Model, space: TokenSpace, seed: int):
  """The backbone that the config names, with initial values drawn from the seed.

  Raises:
    ValueError: an unknown family.
  """
  config_lib.check_choice(model.family, tuple(FAMILIES), 'model.family')
  return FAMILIES[model.family](model, space, nnx.Rngs(params=seed))
