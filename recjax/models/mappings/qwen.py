"""Mapping of Qwen 2.5 (its model_type is qwen2) and dense Qwen 3."""

from collections.abc import Collection
from typing import Any

from recjax.models.decoder import DecoderConfig
from recjax.models.mappings import decoder
from recjax.models.mappings.weights import CheckpointFormat


def _windows(hf: dict[str, Any]) -> tuple[int, ...]:
  depth = hf['num_hidden_layers']
  window = hf.get('sliding_window', 4096) if hf.get('use_sliding_window') else None
  if hf.get('layer_types'):
    return decoder.windows(hf['layer_types'], window)
  first = hf.get('max_window_layers', 28)  # index of the first layer with a window
  return tuple((window or 0) if layer >= first else 0 for layer in range(depth))


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
  second = hf['model_type'] == 'qwen2'
  heads, depth = shape['heads'], shape['depth']
  base, factor = decoder.uniform_rope(hf)
  if second:
    shape |= {'qkv_bias': True, 'out_bias': False}
  return DecoderConfig(
    **shape,
    head_width=hf.get('head_dim') or (hf['hidden_size'] // heads if second else 128),
    windows=_windows(hf),
    rope_bases=(base,) * depth,
    rope_factors=(factor,) * depth,
    qk_norm=not second,
    norm_plus_one=False,
    activation=decoder.activation(hf.get('hidden_act', 'silu')),
    embedding_scale=False,
  )


def hf_of(config: DecoderConfig) -> dict[str, Any]:
  """Returns the fields of config.json; see `CheckpointFormat.hf_of`."""
  types = ['sliding_attention' if window else 'full_attention' for window in config.windows]
  factor = config.rope_factors[0] if config.rope_factors else 1.0
  return decoder.hf_of(config) | {
    'model_type': 'qwen3' if config.qk_norm else 'qwen2',
    'use_sliding_window': any(config.windows),
    'sliding_window': max(config.windows) or None,
    'layer_types': types,
    'rope_theta': config.rope_bases[0],
    'rope_parameters': decoder.rope_of(config.rope_bases[0], factor),
  }


CHECKPOINTS = CheckpointFormat(
  architectures={'qwen2': 'Qwen2ForCausalLM', 'qwen3': 'Qwen3ForCausalLM'},
  auto='AutoModelForCausalLM',
  config_of=config_of,
  mapping=decoder.mapping,
  hf_of=hf_of,
)
