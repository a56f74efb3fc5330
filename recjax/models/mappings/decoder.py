"""Functions that the mappings of Gemma, Llama and Qwen share: fields of config.json, names of tensors."""

import dataclasses
import math
from typing import Any

from recjax.models.decoder import DecoderConfig
from recjax.models.mappings.weights import Weight, WeightMapping, heads_in, heads_out, linear

ANOTHER = 'Set --config.model.pretrained to another folder'
_ACTIVATIONS = {
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu_new': 'gelu_tanh',
  'gelu': 'gelu',
  'silu': 'silu',
  'swish': 'silu',
}
# Prefixes of the same tensor: a text model, multimodal folders (two generations of `transformers`), and a
# folder saved without its head.
_PREFIXES = ('model.', 'language_model.model.', 'model.language_model.', '')
_HEADS = ('lm_head.weight', 'language_model.lm_head.weight')
_IGNORED = (
  r'(model\.)?(vision_tower|multi_modal_projector|vision_model)\..*',
  r'.*rotary_emb\.inv_freq',  # a buffer of old versions
)


def nested_text(hf: dict[str, Any], model_type: str) -> dict[str, Any]:
  """Returns the text model's config.json of a multimodal folder, whose own fields fill gaps."""
  names = ('dtype', 'torch_dtype', 'bos_token_id', 'eos_token_id', 'tie_word_embeddings')
  shared = {name: hf[name] for name in names if hf.get(name) is not None}
  return shared | (hf.get('text_config') or {}) | {'model_type': model_type}


def require(hf: dict[str, Any], *fields: str) -> None:
  """Raises a ValueError if a field is absent or null."""
  missing = [field for field in fields if hf.get(field) is None]
  if missing:
    raise ValueError(
      f'config.json of a {hf["model_type"]} must hold {", ".join(fields)}; {", ".join(missing)} is '
      f'missing. {ANOTHER}'
    )


def shape(hf: dict[str, Any], *fields: str) -> dict[str, Any]:
  """Returns the fields of `DecoderConfig` that config.json of Gemma, Llama and Qwen give alike.

  Args:
    hf: config.json.
    *fields: further fields that it must hold.

  Raises:
    ValueError: a field is absent or null, or the heads do not fit each other.
  """
  sizes = ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers')
  require(hf, *sizes, 'num_attention_heads', *fields)
  bias, heads = bool(hf.get('attention_bias')), hf['num_attention_heads']
  kv_heads = hf.get('num_key_value_heads') or heads
  if (hf.get('head_dim') or 2) % 2:
    raise ValueError(
      f'head_dim of config.json must be even: positions rotate pairs; got {hf["head_dim"]}. {ANOTHER}'
    )
  if heads % kv_heads:
    raise ValueError(
      f'num_attention_heads of config.json ({heads}) must be a multiple of num_key_value_heads; got {kv_heads}. {ANOTHER}'
    )
  return {
    'depth': hf['num_hidden_layers'],
    'width': hf['hidden_size'],
    'ff_width': hf['intermediate_size'],
    'heads': heads,
    'kv_heads': kv_heads,
    'qkv_bias': bias,
    'out_bias': bias,
    'norm_eps': hf.get('rms_norm_eps', 1e-6),
    'tied': bool(hf.get('tie_word_embeddings', False)),
  }


def refuse(hf: dict[str, Any], field: str) -> None:
  """Raises a ValueError if an unsupported feature is on."""
  if hf.get(field):
    raise ValueError(f'{field} of config.json must be off; got {hf[field]!r}. {ANOTHER}')


def activation(name: str) -> str:
  """Returns our name of an activation. Raises a ValueError for an unsupported one."""
  if not isinstance(name, str) or name not in _ACTIVATIONS:
    raise ValueError(
      f'the activation of config.json must be one of {", ".join(_ACTIVATIONS)}; got {name!r}. {ANOTHER}'
    )
  return _ACTIVATIONS[name]


def windows(layer_types: list[str], window: int | None) -> tuple[int, ...]:
  """Returns one window for each layer; 0: global."""
  unknown = [k for k in layer_types if k not in ('sliding_attention', 'full_attention')]
  if unknown:
    raise ValueError(
      f'layer_types of config.json must be sliding_attention or full_attention; got {unknown}. {ANOTHER}'
    )
  return tuple((window or 0) if kind == 'sliding_attention' else 0 for kind in layer_types)


def rope_parameters(hf: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields of rotary positions that all layers share; transformers 5 calls them `rope_parameters`."""
  return hf.get('rope_parameters') or hf.get('rope_scaling') or {}


def rope_type(parameters: dict[str, Any]) -> Any:
  """Returns the type of rotary positions, which old versions call `type`."""
  return parameters.get('rope_type', parameters.get('type', 'default'))


def check_positive(name: str, value: Any) -> None:
  """Raises a ValueError if a field of rotary positions is not a positive number."""
  if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
    raise ValueError(
      f'{name} of the rotary positions of config.json must be a positive number; got {value!r}. {ANOTHER}'
    )


def rope(
  parameters: dict[str, Any], default_base: float, more: tuple[str, ...] = ()
) -> tuple[float, float]:
  """Returns base and linear factor of rotary positions; the caller reads the fields of the types `more`."""
  kind, known = rope_type(parameters), ('default', 'linear', *more)
  if kind not in known or parameters.get('partial_rotary_factor', 1) != 1:
    raise ValueError(
      f'rotary positions of config.json must be of type {", ".join(known[:-1])} or {known[-1]}, over the full '
      f'head width; got {parameters}. {ANOTHER}'
    )
  base, factor = parameters.get('rope_theta') or default_base, 1.0
  if kind == 'linear':
    factor = parameters.get('factor')
  for name, value in {'rope_theta': base, 'factor': factor}.items():
    check_positive(name, value)
  return float(base), float(factor)


def uniform_rope(hf: dict[str, Any], more: tuple[str, ...] = ()) -> tuple[float, float]:
  """Returns base and linear factor of all layers; `more` as in `rope`."""
  return rope(rope_parameters(hf), hf.get('rope_theta') or 10_000.0, more)


def weight(make, name: str, path: str, *args) -> Weight:
  """Returns the rule that `make(name, path, *args)` gives for a tensor whose name may have any of _PREFIXES."""
  first, *others = _PREFIXES
  aliases = tuple(prefix + name for prefix in others)
  return dataclasses.replace(make(first + name, path, *args), aliases=aliases)


def _table(name: str, path: str) -> Weight:
  return Weight(name, path, vocabulary=True)


def _layer(config: DecoderConfig) -> list[Weight]:
  """Returns the rules for the stacked layers."""
  depth, N, K, H = config.depth, config.heads, config.kv_heads, config.head_width
  attention, ff = 'layers.{layer}.self_attn', 'layers.{layer}.mlp'
  weights = [
    weight(heads_out, f'{attention}.o_proj.weight', 'layers/attention/out/kernel', depth, N, H),
    *(
      weight(linear, f'{ff}.{name}_proj.weight', f'layers/ff/{name}/kernel', depth)
      for name in ('gate', 'up', 'down')
    ),
  ]
  for name, heads in (('q', N), ('k', K), ('v', K)):
    theirs, ours = f'{attention}.{name}_proj', f'layers/attention/{name}'
    shape = (heads, 2 * H if name == 'q' and config.gated else H)
    weights.append(weight(heads_in, f'{theirs}.weight', f'{ours}/kernel', depth, *shape))
    if config.qkv_bias:
      weights.append(weight(_bias, f'{theirs}.bias', f'{ours}/bias', depth, *shape))
  if config.out_bias:
    weights.append(weight(Weight, f'{attention}.o_proj.bias', 'layers/attention/out/bias', depth))
  norms = {'input_layernorm': 'attention_norm', 'post_attention_layernorm': 'ff_norm'}
  if config.post_norms:
    norms |= {
      'post_attention_layernorm': 'attention_post_norm',
      'pre_feedforward_layernorm': 'ff_norm',
      'post_feedforward_layernorm': 'ff_post_norm',
    }
  if config.qk_norm:
    norms |= {f'self_attn.{x}_norm': f'attention/{x}_norm' for x in 'qk'}
  for theirs, ours in norms.items():
    name = f'layers.{{layer}}.{theirs}.weight'
    weights.append(weight(Weight, name, f'layers/{ours}/scale', depth))
  return weights


def _bias(name: str, path: str, layers: int, heads: int, head_width: int) -> Weight:
  """Returns the rule for the bias of a projection to heads: theirs `[N * H]`, ours `[N, H]`."""
  return Weight(name, path, layers, lambda x: x.reshape(heads, head_width), lambda x: x.reshape(-1))


def hf_of(config: DecoderConfig) -> dict[str, Any]:
  """Returns the fields of config.json that Gemma, Llama and Qwen share; `hidden_act` holds the activation."""
  names = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
  return {
    'hidden_size': config.width,
    'intermediate_size': config.ff_width,
    'num_hidden_layers': config.depth,
    'num_attention_heads': config.heads,
    'num_key_value_heads': config.kv_heads,
    'head_dim': config.head_width,
    'rms_norm_eps': config.norm_eps,
    'attention_bias': config.out_bias,
    'tie_word_embeddings': config.tied,
    'hidden_act': names[config.activation],
  }


def rope_of(base: float, factor: float) -> dict[str, Any]:
  """Returns rope_parameters of config.json; the inverse of `rope`."""
  kind = {'rope_type': 'default'} if factor == 1.0 else {'rope_type': 'linear', 'factor': factor}
  return kind | {'rope_theta': base}


def mapping(config: DecoderConfig) -> WeightMapping:
  """Returns the rules for one shape."""
  table = weight(_table, 'embed_tokens.weight', 'tables/text')
  if config.tied:
    # Some checkpoints also hold a copy of the table under the name of the head.
    copies = (*table.aliases, *_HEADS)
    tables = [Weight(table.name, table.path, aliases=copies, vocabulary=True)]
  else:
    head = Weight(_HEADS[0], 'tables/text_out', aliases=_HEADS[1:], vocabulary=True)
    tables = [table, head]
  norm = weight(Weight, 'norm.weight', 'final_norm/scale')
  return WeightMapping((*tables, *_layer(config), norm), _IGNORED)
