"""Mapping of dense Qwen 3.5; a multimodal folder is read as its text model."""

from collections.abc import Collection
import dataclasses
from typing import Any

import numpy as np

from recjax.models.hybrid import HybridConfig
from recjax.models.linear_attention import Heads
from recjax.models.mappings import decoder
from recjax.models.mappings.weights import (
  CheckpointFormat,
  Weight,
  WeightMapping,
  heads_in,
  heads_out,
)

_MULTIMODAL, _TEXT = 'qwen3_5', 'qwen3_5_text'
_KINDS = {'linear_attention': 'linear', 'full_attention': 'full'}
# Defaults of `transformers` for fields that config.json may leave out.
_DEFAULTS = {
  'num_key_value_heads': 4,
  'head_dim': 256,
  'linear_num_key_heads': 16,
  'linear_num_value_heads': 32,
  'linear_key_head_dim': 128,
  'linear_value_head_dim': 128,
  'linear_conv_kernel_dim': 4,
}
# Images, and the head that predicts several tokens at once.
_IGNORED = (r'(model\.)?visual\..*', r'mtp\..*')


def _text_config(hf: dict[str, Any]) -> dict[str, Any]:
  """Returns the text model's config.json with the fields that it may leave out."""
  if hf['model_type'] == _MULTIMODAL:
    hf = decoder.nested_text(hf, _TEXT)
  return _DEFAULTS | {name: value for name, value in hf.items() if value is not None}


def _kinds(hf: dict[str, Any]) -> tuple[str, ...]:
  """Returns the kind of each layer, of `hybrid.KINDS`."""
  period = hf.get('full_attention_interval', 4)
  default = [
    'linear_attention' if (layer + 1) % period else 'full_attention'
    for layer in range(hf['num_hidden_layers'])
  ]
  types = hf.get('layer_types') or default
  if len(types) != hf['num_hidden_layers'] or {str(kind) for kind in types} != set(_KINDS):
    raise ValueError(
      f'layer_types of config.json must hold {" and ".join(_KINDS)}, one for each of the '
      f'{hf["num_hidden_layers"]} layers; got {types}. {decoder.ANOTHER}'
    )
  return tuple(_KINDS[kind] for kind in types)


def _rope(hf: dict[str, Any]) -> tuple[float, float, int]:
  """Returns base and factor of rotary positions, and the number of features that they rotate.

  The three axes of positions of images are equal for text.
  """
  parameters = dict(decoder.rope_parameters(hf))
  share = parameters.pop('partial_rotary_factor', hf.get('partial_rotary_factor', 0.25))
  base, factor = decoder.rope(parameters, hf.get('rope_theta') or 10_000.0)
  decoder.check_positive('partial_rotary_factor', share)
  width = int(hf['head_dim'] * share)
  if width % 2 or not 0 < width <= hf['head_dim']:
    raise ValueError(
      f'partial_rotary_factor of config.json must give an even part of the head width {hf["head_dim"]}; got '
      f'{share}. {decoder.ANOTHER}'
    )
  return base, factor, width


def _check_features(hf: dict[str, Any]) -> None:
  """Raises a ValueError if a feature differs from that of the published models."""
  for name, known in (
    ('hidden_act', ('silu', 'swish')),
    ('attn_output_gate', (True,)),
    ('output_gate_type', ('swish', 'silu')),
  ):
    if hf.get(name, known[0]) not in known:
      raise ValueError(
        f'{name} of config.json must be {" or ".join(map(str, known))}; got {hf[name]!r}. {decoder.ANOTHER}'
      )
  if hf['linear_num_value_heads'] % hf['linear_num_key_heads']:
    raise ValueError(
      f'linear_num_value_heads of config.json ({hf["linear_num_value_heads"]}) must be a multiple of '
      f'linear_num_key_heads; got {hf["linear_num_key_heads"]}. {decoder.ANOTHER}'
    )


def config_of(hf: dict[str, Any], names: Collection[str]) -> HybridConfig:
  """Returns the shape that config.json describes, computation fields at their defaults.

  Args:
    hf: config.json of the text model, defaults filled in.
    names: names of the tensors; not used.

  Raises:
    ValueError: a field is missing, or asks for an unsupported feature.
  """
  del names
  shape = decoder.shape(hf)
  _check_features(hf)
  depth, key_heads = shape['depth'], hf['linear_num_key_heads']
  base, factor, rotary_width = _rope(hf)
  linear = Heads(
    key_heads,
    hf['linear_num_value_heads'] // key_heads,
    hf['linear_key_head_dim'],
    hf['linear_value_head_dim'],
    hf['linear_conv_kernel_dim'],
  )
  return HybridConfig(
    **shape,
    head_width=hf['head_dim'],
    windows=(0,) * depth,
    rope_bases=(base,) * depth,
    rope_factors=(factor,) * depth,
    rotary_width=rotary_width,
    gated=True,
    qk_norm=True,
    activation='silu',
    embedding_scale=False,
    kinds=_kinds(hf),
    linear=tuple(linear),
  )


def hf_of(config: HybridConfig) -> dict[str, Any]:
  """Returns the fields of config.json; see `CheckpointFormat.hf_of`."""
  heads = config.delta_heads
  theirs = {ours: theirs for theirs, ours in _KINDS.items()}
  factor = config.rope_factors[0] if config.rope_factors else 1.0
  share = {'partial_rotary_factor': (config.rotary_width or config.head_width) / config.head_width}
  return decoder.hf_of(config) | {
    'model_type': _TEXT,
    'layer_types': [theirs[kind] for kind in config.kinds],
    'linear_num_key_heads': heads.key_heads,
    'linear_num_value_heads': heads.key_heads * heads.groups,
    'linear_key_head_dim': heads.key_width,
    'linear_value_head_dim': heads.value_width,
    'linear_conv_kernel_dim': heads.taps,
    'rope_parameters': decoder.rope_of(config.rope_bases[0], factor) | share,
  }


def _by_head(rows: np.ndarray, heads: Heads) -> np.ndarray:
  """Returns rows of all queries, all keys, all values as `[K, X, ...]`."""
  K, keys = heads.key_heads, heads.key_heads * heads.key_width
  xp = rows.__array_namespace__()  # of numpy, or of jax inside a jitted function
  parts = xp.split(rows, [keys, 2 * keys])
  return xp.concatenate([x.reshape(K, -1, *rows.shape[1:]) for x in parts], axis=1)


def _by_part(x: np.ndarray, heads: Heads) -> np.ndarray:
  """Returns the inverse of `_by_head`."""
  P = heads.key_width
  parts = np.split(x, [P, 2 * P], axis=1)
  return np.concatenate([part.reshape(-1, *x.shape[2:]) for part in parts])


def _delta(config: HybridConfig) -> list[Weight]:
  """Returns the rules for linear attention, as if all layers had it."""
  heads, depth = config.delta_heads, config.depth
  K, G, values = heads.key_heads, heads.groups, heads.groups * heads.value_width
  theirs, ours = 'layers.{layer}.linear_attn.', 'layers/attention/'

  def flat(name: str, path: str, layers: int) -> Weight:
    return Weight(name, path, layers, lambda x: x.reshape(K, G), lambda x: x.reshape(-1))

  def qkv(name: str, path: str, layers: int) -> Weight:
    return Weight(
      name,
      path,
      layers,
      lambda x: np.moveaxis(_by_head(x, heads), -1, 0),
      lambda x: _by_part(np.moveaxis(x, 0, -1), heads),
    )

  def taps(name: str, path: str, layers: int) -> Weight:
    return Weight(
      name,
      path,
      layers,
      lambda x: _by_head(x[:, 0], heads),
      lambda x: _by_part(x, heads)[:, None],
    )

  return [
    decoder.weight(make, theirs + name, ours + path, depth, *args)
    for make, name, path, *args in (
      (qkv, 'in_proj_qkv.weight', 'qkv/kernel'),
      (taps, 'conv1d.weight', 'taps'),
      (heads_in, 'in_proj_z.weight', 'gate/kernel', K, values),
      (heads_in, 'in_proj_b.weight', 'strength/kernel', K, G),
      (heads_in, 'in_proj_a.weight', 'decay/kernel', K, G),
      (flat, 'dt_bias', 'decay/bias'),
      (flat, 'A_log', 'log_rate'),
      (Weight, 'norm.weight', 'norm/scale'),
      (heads_out, 'out_proj.weight', 'out/kernel', K, values),
    )
  ]


def mapping(config: HybridConfig) -> WeightMapping:
  """Returns the rules for one shape: those of a decoder, with each kind of layers in its own stack."""
  found = decoder.mapping(config)
  weights = [weight for weight in found.weights if not weight.layers]
  rules = [weight for weight in found.weights if weight.layers]
  shared = [weight for weight in rules if '/attention/' not in weight.path]
  for kind, of_kind in (('full', rules), ('linear', [*shared, *_delta(config)])):
    numbers = tuple(i for i, other in enumerate(config.kinds) if other == kind)
    weights += [
      dataclasses.replace(
        weight,
        path=weight.path.replace('layers/', f'layers/{kind}/', 1),
        layers=len(numbers),
        numbers=numbers,
      )
      for weight in of_kind
    ]
  return WeightMapping(tuple(weights), (*found.ignored, *_IGNORED))


CHECKPOINTS = CheckpointFormat(
  architectures={_TEXT: 'Qwen3_5ForCausalLM'},
  auto='AutoModelForCausalLM',
  config_of=config_of,
  mapping=mapping,
  hf_of=hf_of,
  multimodal=(_MULTIMODAL,),
  text_config=_text_config,
)
