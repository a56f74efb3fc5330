"""Backbones: a shape from the config, a published name or a checkpoint's folder, built over the token space.

A backbone offers `hidden` (training), `start` and `step` (search), and its `tables`.
"""

import dataclasses

from flax import nnx

from recjax.models import pretrained
from recjax.models.decoder import DecoderConfig, Gemma
from recjax.models.layers import Computation
from recjax.models.sizes import SIZES as DECODER_SIZES
from recjax.models.t5 import SIZES as T5_SIZES
from recjax.models.t5 import T5, T5Config
from recjax.schema.checks import check, check_choice
from recjax.schema.model import Model
from recjax.sids.token_space import TokenSpace

FAMILIES = ('gemma', 't5')  # Qwen's sizes are of the first: one decoder serves both


def _own_shape(model: Model) -> DecoderConfig | T5Config:
  """The shape that the fields of the config spell out."""
  common = {name: getattr(model, name) for name in ('width', 'ff_width', 'heads', 'head_width')}
  if not model.is_encoder_decoder:
    return DecoderConfig(
      depth=model.depth,
      kv_heads=model.kv_heads,
      windows=(0,) * model.depth,
      rope_bases=(10_000.0,) * model.depth,
      **common,
    )
  check(
    model.kv_heads == model.heads,
    f'a T5 has as many key and value heads as query heads ({model.heads})',
    model.kv_heads,
    'model.kv_heads',
  )
  # As v1.1: gated, the output untied; as many layers in the encoder as in the decoder.
  return T5Config(depth=model.depth, decoder_depth=model.depth, **common)


def shape_of(model: Model) -> DecoderConfig | T5Config:
  """The shape of the backbone: of the folder `pretrained`, of the published `size`, or of the fields.

  Raises:
    ValueError: an unknown family or size, or one of the other family.
  """
  check_choice(model.family, FAMILIES, 'model.family')
  if model.pretrained is not None:
    shape = pretrained.read_config(model.pretrained).config
  elif model.size:
    check_choice(model.size, (*DECODER_SIZES, *T5_SIZES), 'model.size')
    shape = T5_SIZES.get(model.size) or DecoderConfig(**DECODER_SIZES[model.size])
  else:
    shape = _own_shape(model)
  family = 't5' if isinstance(shape, T5Config) else 'gemma'
  check(
    model.family == family,
    f'{model.pretrained or model.size} is a model of family {family}, and model.family must say so',
    model.family,
    'model.family',
  )
  names = [field.name for field in dataclasses.fields(Computation)]
  return dataclasses.replace(shape, **{name: getattr(model, name) for name in names})


def start_id(model: Model) -> int:
  """The token that the target side of an encoder–decoder begins with; 0 where there is none."""
  return getattr(shape_of(model), 'start_id', 0)


def check_model(model: Model) -> None:
  """Looks at the shape, and at the folder where there is one, before a run spends time.

  Raises:
    FileNotFoundError, ValueError: see `shape_of` and `pretrained.check_folder`.
  """
  shape_of(model)
  if model.pretrained is not None:
    pretrained.check_folder(model.pretrained)


def build(model: Model, space: TokenSpace, seed: int) -> Gemma | T5:
  """The backbone that the config names, with initial values drawn from the seed.

  Raises:
    ValueError: see `shape_of`.
  """
  shape = shape_of(model)
  return (T5 if isinstance(shape, T5Config) else Gemma)(shape, space, nnx.Rngs(params=seed))
