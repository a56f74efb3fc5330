"""Mapping of Llama; `rope_type` llama3 stretches the long wavelengths of rotary positions."""

from collections.abc import Collection
from typing import Any

from recjax.models.decoder import DecoderConfig
from recjax.models.mappings import decoder
from recjax.models.mappings.weights import CheckpointFormat

# Fields of config.json in the order of `DecoderConfig.rope_llama3`.
_LLAMA3 = (
  'factor',
  'low_freq_factor',
  'high_freq_factor',
  'original_max_position_embeddings',
)


def _llama3(hf: dict[str, Any]) -> tuple[float, ...]:
  """Returns `DecoderConfig.rope_llama3`; empty: the positions are of another type."""
  parameters = decoder.rope_parameters(hf)
  if decoder.rope_type(parameters) != 'llama3':
    return ()
  # Without the field, the context length is that of the pretraining.
  defaults = {_LLAMA3[-1]: hf.get('max_position_embeddings')}
  values = [parameters.get(name, defaults.get(name)) for name in _LLAMA3]
  for name, value in zip(_LLAMA3, values, strict=True):
    decoder.check_positive(name, value)
  if values[1] >= values[2]:
    raise ValueError(
      'low_freq_factor of the rotary positions of config.json must be below high_freq_factor; got '
      f'{values[1]} and {values[2]}. {decoder.ANOTHER}'
    )
  return tuple(map(float, values))


def config_of(hf: dict[str, Any], names: Collection[str]) -> DecoderConfig:
  """Returns the shape that config.json describes, computation fields at their defaults.

  Args:
    hf: config.json.
    names: names of the tensors; not used.

  Raises:
    ValueError: a field is missing, or asks for an unsupported feature.
  """
  del names
  shape = decoder.shape(hf)
  decoder.refuse(hf, 'mlp_bias')
  heads, depth = shape['heads'], shape['depth']
  base, factor = decoder.uniform_rope(hf, ('llama3',))
  return DecoderConfig(
    **shape,
    head_width=hf.get('head_dim') or hf['hidden_size'] // heads,
    windows=(0,) * depth,
    rope_bases=(base,) * depth,
    rope_factors=(factor,) * depth,
    rope_llama3=_llama3(hf),
    norm_plus_one=False,
    activation=decoder.activation(hf.get('hidden_act', 'silu')),
    embedding_scale=False,
  )


def hf_of(config: DecoderConfig) -> dict[str, Any]:
  """Returns the fields of config.json; see `CheckpointFormat.hf_of`."""
  base = config.rope_bases[0]
  factor = config.rope_factors[0] if config.rope_factors else 1.0
  parameters = decoder.rope_of(base, factor)
  if config.rope_llama3:
    values = (*config.rope_llama3[:3], int(config.rope_llama3[3]))
    parameters |= {'rope_type': 'llama3'} | dict(zip(_LLAMA3, values, strict=True))
  return decoder.hf_of(config) | {
    'model_type': 'llama',
    'mlp_bias': False,
    'rope_theta': base,
    'rope_parameters': parameters,
  }


CHECKPOINTS = CheckpointFormat(
  architectures={'llama': 'LlamaForCausalLM'},
  auto='AutoModelForCausalLM',
  config_of=config_of,
  mapping=decoder.mapping,
  hf_of=hf_of,
)
