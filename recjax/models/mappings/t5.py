"""Mapping of T5, T5 v1.1, FLAN-T5 and mT5."""

from collections.abc import Collection
from typing import Any

from recjax.models.mappings.weights import (
  CheckpointFormat,
  Weight,
  WeightMapping,
  heads_in,
  heads_out,
  linear,
)
from recjax.models.t5_config import T5Config

_ACTIVATIONS = {
  'relu': 'relu',
  'gelu': 'gelu',
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'silu': 'silu',
}
_HEAD = 'lm_head.weight'
_EMBEDDING = ('shared.weight', 'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
# Old checkpoints hold this bias; the code of T5 never used it.
_IGNORED = (r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight',)


def _activation(feed_forward: str) -> tuple[str, bool]:
  """Returns our name of the activation and whether the layer is gated, from `feed_forward_proj`."""
  name = feed_forward.removeprefix('gated-')
  if feed_forward == 'gated-gelu':  # the tanh approximation, unlike 'gelu' without a gate
    name = 'gelu_new'
  if name not in _ACTIVATIONS:
    raise ValueError(
      f'feed_forward_proj of config.json must be one of {", ".join(_ACTIVATIONS)}, with or without '
      f"'gated-' before it; got {feed_forward!r}. Set --config.model.pretrained to another folder"
    )
  return _ACTIVATIONS[name], feed_forward != name


def config_of(hf: dict[str, Any], names: Collection[str]) -> T5Config:
  """Returns the shape that config.json describes, computation fields at their defaults.

  Args:
    hf: config.json.
    names: names of the tensors. They show whether the output table is untied: `transformers` 5 writes
      `tie_word_embeddings: true` for every T5.

  Raises:
    ValueError: a field is missing, or asks for an unsupported feature.
  """
  required = ('d_model', 'd_ff', 'd_kv', 'num_heads', 'num_layers')
  missing = [field for field in required if field not in hf]
  if missing:
    raise ValueError(
      f'config.json of a T5 must hold {", ".join(required)}; {", ".join(missing)} is missing. Set '
      '--config.model.pretrained to another folder'
    )
  activation, gated = _activation(
    hf.get('feed_forward_proj', 'gated-gelu' if hf.get('model_type') == 'mt5' else 'relu')
  )
  says_tied = hf.get('tie_word_embeddings') is not False
  own_output = _HEAD in names and any(name in names for name in _EMBEDDING)
  if says_tied and hf.get('model_type') != 'mt5' and 'scale_decoder_outputs' not in hf:
    own_output = False  # written before transformers 5: a head is a copy of the table
  return T5Config(
    depth=hf['num_layers'],
    decoder_depth=hf.get('num_decoder_layers') or hf['num_layers'],
    width=hf['d_model'],
    ff_width=hf['d_ff'],
    heads=hf['num_heads'],
    head_width=hf['d_kv'],
    activation=activation,
    gated=gated,
    tied=not own_output,
    scaled=hf.get('model_type') != 'mt5' and hf.get('scale_decoder_outputs', says_tied),
    relative_buckets=hf.get('relative_attention_num_buckets', 32),
    relative_max_distance=hf.get('relative_attention_max_distance', 128),
    norm_eps=hf.get('layer_norm_epsilon', 1e-6),
  )


def _attention(name: str, path: str, depth: int, config: T5Config) -> list[Weight]:
  N, H = config.heads, config.head_width
  return [
    *(heads_in(f'{name}.{p}.weight', f'{path}/{p}/kernel', depth, N, H) for p in 'qkv'),
    heads_out(f'{name}.o.weight', f'{path}/out/kernel', depth, N, H),
  ]


def _stack(stack: str, config: T5Config) -> list[Weight]:
  """Returns the rules for the encoder or the decoder."""
  crossed = stack == 'decoder'
  depth = config.decoder_depth if crossed else config.depth
  branches = ['attention', 'cross_attention', 'ff'] if crossed else ['attention', 'ff']
  weights = [
    Weight(
      f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
      f'{stack}/relative_bias/table',
    ),
    Weight(f'{stack}.final_layer_norm.weight', f'{stack}/final_norm/scale'),
  ]
  for i, branch in enumerate(branches):
    name, path = f'{stack}.block.{{layer}}.layer.{i}', f'{stack}/layers/{branch}'
    weights.append(Weight(f'{name}.layer_norm.weight', f'{path}_norm/scale', depth))
    if branch == 'ff':
      theirs = ('wi_0', 'wi_1', 'wo') if config.gated else ('wi', 'wo')
      ours = ('gate', 'up', 'down') if config.gated else ('up', 'down')
      weights += [
        linear(f'{name}.DenseReluDense.{t}.weight', f'{path}/{o}/kernel', depth)
        for t, o in zip(theirs, ours, strict=True)
      ]
    else:
      module = 'SelfAttention' if branch == 'attention' else 'EncDecAttention'
      weights += _attention(f'{name}.{module}', path, depth, config)
  return weights


def mapping(config: T5Config) -> WeightMapping:
  """Returns the rules for one shape."""
  copies = (*_EMBEDDING[1:], _HEAD) if config.tied else _EMBEDDING[1:]
  tables = [Weight(_EMBEDDING[0], 'tables/text', aliases=copies, vocabulary=True)]
  if not config.tied:
    tables.append(Weight(_HEAD, 'tables/text_out', vocabulary=True))
  return WeightMapping((*tables, *_stack('encoder', config), *_stack('decoder', config)), _IGNORED)


def hf_of(config: T5Config) -> dict[str, Any]:
  """Returns the fields of config.json; see `CheckpointFormat.hf_of`."""
  names = {'relu': 'relu', 'gelu': 'gelu', 'gelu_tanh': 'gelu_new', 'silu': 'silu'}
  feed_forward = ('gated-' if config.gated else '') + names[config.activation]
  return {
    'model_type': 't5',
    'is_encoder_decoder': True,
    'd_model': config.width,
    'd_ff': config.ff_width,
    'd_kv': config.head_width,
    'num_heads': config.heads,
    'num_layers': config.depth,
    'num_decoder_layers': config.decoder_depth,
    # 'gated-gelu' means gelu_new in all versions of `transformers`.
    'feed_forward_proj': feed_forward.replace('gated-gelu_new', 'gated-gelu'),
    'relative_attention_num_buckets': config.relative_buckets,
    'relative_attention_max_distance': config.relative_max_distance,
    'layer_norm_epsilon': config.norm_eps,
    'tie_word_embeddings': config.tied,
    'scale_decoder_outputs': config.scaled,
    'decoder_start_token_id': config.start_id,
  }


CHECKPOINTS = CheckpointFormat(
  architectures={'t5': 'T5ForConditionalGeneration', 'mt5': 'MT5ForConditionalGeneration'},
  auto='AutoModelForSeq2SeqLM',
  config_of=config_of,
  mapping=mapping,
  hf_of=hf_of,
)
