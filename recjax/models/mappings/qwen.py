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
  decoder.require(
    hf,
    'vocab_size',
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
  )
  second = hf['model_type'] == 'qwen2'
  heads = hf['num_attention_heads']
  depth = hf['num_hidden_layers']
  base, factor = decoder.uniform_rope(hf)
  bias = bool(hf.get('attention_bias')) and not second
  return DecoderConfig(
    depth=depth,
    width=hf['hidden_size'],
    ff_width=hf['intermediate_size'],
    heads=heads,
    kv_heads=hf.get('num_key_value_heads') or heads,
    head_width=hf.get('head_dim') or (hf['hidden_size'] // heads if second else 128),
    windows=_windows(hf),
    rope_bases=(base,) * depth,
    rope_factors=(factor,) * depth,
    qk_norm=not second,
    qkv_bias=second or bias,
    out_bias=bias,
    norm_plus_one=False,
    norm_eps=hf.get('rms_norm_eps', 1e-6),
    activation=decoder.activation(hf.get('hidden_act', 'silu')),
    embedding_scale=False,
    tied=bool(hf.get('tie_word_embeddings', False)),
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
