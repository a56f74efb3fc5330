"""Gemma 1, 2 and 3 folders of `transformers`; multimodal Gemma 3 folders are read as text."""

from collections.abc import Collection
from typing import Any

from recjax.models.decoder import DecoderConfig
from recjax.models.pretrained import decoder
from recjax.models.pretrained.decoder import mapping as mapping

MODEL_TYPES = ('gemma', 'gemma2', 'gemma3_text')

# What config.json may leave out, as `transformers` fills it in.
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


def with_defaults(hf: dict[str, Any]) -> dict[str, Any]:
  """config.json with the fields that it may leave out."""
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
  """Base and factor of each layer."""
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
  """The shape that a folder's config.json describes, without dropout and compute type.

  Args:
    hf: config.json (of a multimodal folder its text part).
    names: of the folder's tensors; not needed here.

  Raises:
    ValueError: a field is missing or holds what we do not compute.
  """
  del names
  hf = with_defaults(hf)
  decoder.require(
    hf,
    'vocab_size',
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
  )
  decoder.refuse(hf, 'use_bidirectional_attention')
  first = hf['model_type'] == 'gemma'
  # Gemma 1 says 'gelu' (or nothing) and means the tanh approximation.
  activation = hf.get('hidden_act' if first else 'hidden_activation') or 'gelu_pytorch_tanh'
  if first and activation == 'gelu':
    activation = 'gelu_pytorch_tanh'
  layer_types = _layer_types(hf)
  windows = decoder.windows(layer_types, hf.get('sliding_window'))
  bases, factors = zip(*_ropes(hf, layer_types), strict=True)
  # `transformers` reads the attention's soft-cap of Gemma 3 and does not apply it.
  softcap = hf.get('attn_logit_softcapping') if hf['model_type'] == 'gemma2' else None
  return DecoderConfig(
    depth=hf['num_hidden_layers'],
    width=hf['hidden_size'],
    ff_width=hf['intermediate_size'],
    heads=hf['num_attention_heads'],
    kv_heads=hf['num_key_value_heads'],
    head_width=hf['head_dim'],
    windows=windows,
    rope_bases=bases,
    rope_factors=factors,
    post_norms=not first,
    qk_norm=hf['model_type'] == 'gemma3_text',
    qkv_bias=bool(hf.get('attention_bias')),
    out_bias=bool(hf.get('attention_bias')),
    norm_eps=hf.get('rms_norm_eps', 1e-6),
    activation=decoder.activation(activation),
    tied=hf.get('tie_word_embeddings') is not False,
    attention_softcap=float(softcap or 0),
    logit_softcap=0.0 if first else float(hf.get('final_logit_softcapping') or 0),
    query_scale=None if first else float(hf['query_pre_attn_scalar']) ** -0.5,
  )
