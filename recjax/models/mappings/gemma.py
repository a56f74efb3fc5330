"""Mapping of Gemma 1, 2 and 3; a multimodal Gemma 3 is read as its text model."""

from collections.abc import Collection
from typing import Any

from recjax.models.decoder import DecoderConfig
from recjax.models.mappings import decoder
from recjax.models.mappings.weights import CheckpointFormat

_MULTIMODAL = 'gemma3'
# Defaults of `transformers` for fields that config.json may leave out.
_DEFAULTS = {
  'gemma': {'head_dim': 256},
  'gemma2': {
    'head_dim': 256,
    'query_pre_attn_scalar': 256,
    'sliding_window': 4096,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
  },
  'gemma3_text': {
    'vocab_size': 262_208,
    'num_attention_heads': 8,
    'num_key_value_heads': 4,
    'head_dim': 256,
    'query_pre_attn_scalar': 256,
    'sliding_window': 4096,
  },
}


def _text_config(hf: dict[str, Any]) -> dict[str, Any]:
  """Returns the text model's config.json with the fields that it may leave out."""
  if hf['model_type'] == _MULTIMODAL:
    hf = decoder.nested_text(hf, 'gemma3_text')
  return _DEFAULTS[hf['model_type']] | hf


def _layer_types(hf: dict[str, Any]) -> list[str]:
  if hf.get('layer_types'):
    return hf['layer_types']
  if hf['model_type'] == 'gemma':
    return ['full_attention'] * hf['num_hidden_layers']
  period = 2 if hf['model_type'] == 'gemma2' else hf.get('sliding_window_pattern') or 6
  return [
    'sliding_attention' if (layer + 1) % period else 'full_attention'
    for layer in range(hf['num_hidden_layers'])
  ]


def _ropes(hf: dict[str, Any], layer_types: list[str]) -> list[tuple[float, float]]:
  """Returns base and factor for each layer."""
  if hf['model_type'] != 'gemma3_text':
    return [decoder.uniform_rope(hf)] * len(layer_types)
  given = hf.get('rope_parameters') or {}
  full = (given.get('full_attention') or {}) | (hf.get('rope_scaling') or {})
  by_type = {
    'full_attention': decoder.rope(full, hf.get('rope_theta') or 1_000_000.0),
    'sliding_attention': decoder.rope(
      given.get('sliding_attention') or {}, hf.get('rope_local_base_freq') or 10_000.0
    ),
  }
  return [by_type[kind] for kind in layer_types]


def config_of(hf: dict[str, Any], names: Collection[str]) -> DecoderConfig:
  """Returns the shape that config.json describes, computation fields at their defaults.

  Args:
    hf: config.json of the text model, defaults filled in.
    names: names of the tensors; not used.

  Raises:
    ValueError: a field is missing, or asks for an unsupported feature.
  """
  del names
  shape = decoder.shape(hf, 'num_key_value_heads')
  decoder.refuse(hf, 'use_bidirectional_attention')
  first = hf['model_type'] == 'gemma'
  # 'gelu' (or no activation) in a config.json of Gemma 1 means the tanh approximation.
  activation = hf.get('hidden_act' if first else 'hidden_activation') or 'gelu_pytorch_tanh'
  if first and activation == 'gelu':
    activation = 'gelu_pytorch_tanh'
  layer_types = _layer_types(hf)
  windows = decoder.windows(layer_types, hf.get('sliding_window'))
  bases, factors = zip(*_ropes(hf, layer_types), strict=True)
  # `transformers` reads the attention's soft-cap in Gemma 3 but does not apply it.
  softcap = hf.get('attn_logit_softcapping') if hf['model_type'] == 'gemma2' else None
  # Tied unless config.json says otherwise.
  shape['tied'] = hf.get('tie_word_embeddings') is not False
  return DecoderConfig(
    **shape,
    head_width=hf['head_dim'],
    windows=windows,
    rope_bases=bases,
    rope_factors=factors,
    post_norms=not first,
    qk_norm=hf['model_type'] == 'gemma3_text',
    activation=decoder.activation(activation),
    attention_softcap=float(softcap or 0),
    logit_softcap=0.0 if first else float(hf.get('final_logit_softcapping') or 0),
    query_scale=None if first else float(hf['query_pre_attn_scalar']) ** -0.5,
  )


def hf_of(config: DecoderConfig) -> dict[str, Any]:
  """Returns the fields of config.json; see `CheckpointFormat.hf_of`."""
  hf = decoder.hf_of(config)
  hf['hidden_activation'] = hf['hidden_act']
  factors = config.rope_factors or (1.0,) * config.depth
  ropes = [decoder.rope_of(*pair) for pair in zip(config.rope_bases, factors, strict=True)]
  if not config.post_norms:
    return hf | {
      'model_type': 'gemma',
      'rope_theta': config.rope_bases[0],
      'rope_parameters': ropes[0],
    }
  types = ['sliding_attention' if window else 'full_attention' for window in config.windows]
  hf |= {
    'layer_types': types,
    'sliding_window': max(config.windows) or None,
    'query_pre_attn_scalar': round(config.query_scale**-2),
    'final_logit_softcapping': config.logit_softcap or None,
  }
  if config.qk_norm:
    by_type = dict(zip(types, ropes, strict=True))
    return hf | {'model_type': 'gemma3_text', 'rope_parameters': by_type}
  return hf | {
    'model_type': 'gemma2',
    'attn_logit_softcapping': config.attention_softcap or None,
    'rope_theta': config.rope_bases[0],
    'rope_parameters': ropes[0],
  }


CHECKPOINTS = CheckpointFormat(
  architectures={
    'gemma': 'GemmaForCausalLM',
    'gemma2': 'Gemma2ForCausalLM',
    'gemma3_text': 'Gemma3ForCausalLM',
  },
  auto='AutoModelForCausalLM',
  config_of=config_of,
  mapping=decoder.mapping,
  hf_of=hf_of,
  multimodal=(_MULTIMODAL,),
  text_config=_text_config,
)
