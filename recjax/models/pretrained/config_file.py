"""Reads config.json of a checkpoint folder: family and shape; refuses unsupported and quantized models."""

import dataclasses
import math
import re
from typing import Any, NamedTuple

from etils import epath

from recjax.models import families
from recjax.models.family import Family
from recjax.models.pretrained import hub, json_file, special_ids, weight_files
from recjax.models.pretrained.tensors import DTYPES, Tensors

_QUANTIZATION_FIELDS = ('quantization_config', 'compression_config')
# Tensors that only quantized checkpoints hold: scales and packed weights of FP8, AWQ, GPTQ, bitsandbytes and
# compressed-tensors.
_QUANTIZED = re.compile(
  r'.*\.(weight_scale(_inv)?|input_scale|activation_scale|qweight|qzeros|scales|g_idx|SCB|weight_packed'
  r'|weight_zero_point|weight_shape|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*))'
)

# Fields of config.json by kind.
_KINDS = {
  str: ('model_type',),
  dict: ('rope_parameters', 'rope_scaling'),
  list: ('layer_types',),
  int: ('sliding_window', 'sliding_window_pattern', 'max_window_layers'),
  bool: ('attention_bias', 'mlp_bias', 'tie_word_embeddings', 'use_sliding_window'),
}
_SIZES = (
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'num_key_value_heads',
  'head_dim',
  'linear_num_key_heads',
  'linear_num_value_heads',
  'linear_key_head_dim',
  'linear_value_head_dim',
  'linear_conv_kernel_dim',
  'full_attention_interval',
  'd_model',
  'd_ff',
  'd_kv',
  'num_heads',
  'num_layers',
  'num_decoder_layers',
  'relative_attention_num_buckets',
  'relative_attention_max_distance',
)
_NUMBERS = (
  'rope_theta',
  'rope_local_base_freq',
  'rms_norm_eps',
  'layer_norm_epsilon',
  'query_pre_attn_scalar',
)


class Pretrained(NamedTuple):
  """Family, shape and vocabulary of a checkpoint folder.

  Attributes:
    family: the family that reads the folder.
    config: shape of the model, computation fields at their defaults.
    vocab_rows: rows of the token table, usually more than the tokenizer has tokens.
    hf: config.json; for a multimodal folder that of its text model.
  """

  family: Family
  config: Any
  vocab_rows: int
  hf: dict[str, Any]


def _read(folder: epath.Path) -> dict[str, Any]:
  file = folder / 'config.json'
  if not file.exists():
    weight_files.refuse_other_kinds(folder)
    raise FileNotFoundError(
      f'{folder} must be a checkpoint folder of transformers; it holds no config.json. Set '
      '--config.model.pretrained'
    )
  hf = json_file.read_json(file)
  _check_kinds(file, hf)
  return hf


def _check_kinds(file: epath.Path, hf: dict[str, Any]) -> None:
  """Checks the kind of every field that any family reads, so that families may compute with them."""
  text = json_file.field(file, hf, 'text_config', dict, {})
  for section in (hf, text):
    for kind, names in _KINDS.items():
      for name in names:
        json_file.field(file, section, name, kind, None)
    for name in _SIZES:
      value = json_file.field(file, section, name, int, 1)
      if value < 1:
        raise ValueError(f'{name} of {file} must be positive; got {value}. {json_file.REMEDY}')
    for name in _NUMBERS:
      value = section.get(name)
      is_number = isinstance(value, int | float) and not isinstance(value, bool)
      is_number = is_number and 0 < value < math.inf
      if value is not None and not is_number:
        raise ValueError(
          f'{name} of {file} must be a positive number; got {value!r}. {json_file.REMEDY}'
        )


def family_of(folder: epath.PathLike) -> Family:
  """Returns the family that reads a folder, by `model_type` of its config.json.

  Raises:
    FileNotFoundError, ValueError: config.json is missing or damaged, or no family reads its `model_type`.
  """
  folder = hub.path(folder)
  model_type, known = _read(folder).get('model_type'), families.model_types()
  if model_type not in known:
    raise ValueError(
      f'model_type of {folder / "config.json"} must be one of {", ".join(known)}; got {model_type!r}. '
      'Set --config.model.pretrained to another folder'
    )
  return known[model_type]


def known_family(folder: epath.PathLike) -> Family | None:
  """Returns the family that reads a folder; None: the folder does not exist, or no family reads it."""
  try:
    return family_of(folder)
  except (OSError, ValueError):
    return None


def _refuse_quantized(folder: epath.Path, evidence: str) -> None:
  raise ValueError(
    f'{folder} holds a quantized checkpoint ({evidence}), and recjax reads float32, bfloat16 and float16 '
    'weights. Set --config.model.pretrained to the checkpoint before quantization'
  )


def _check_not_quantized(folder: epath.Path, hf: dict[str, Any]) -> None:
  for section in (hf, hf.get('text_config') or {}):
    for field in _QUANTIZATION_FIELDS:
      if section.get(field):
        method = section[field].get('quant_method') if isinstance(section[field], dict) else None
        _refuse_quantized(folder, f'{field} of config.json, {method or "no quant_method"}')


def _check_float(folder: epath.Path, tensors: Tensors) -> None:
  """Refuses weights that are not floats, and the scales of quantized weights."""
  for name, info in tensors.infos.items():
    if _QUANTIZED.fullmatch(name):
      _refuse_quantized(folder, f'tensor {name}')
    if name.endswith('.weight') and info.code not in DTYPES:
      _refuse_quantized(folder, f'tensor {name} of type {info.code}')


def read_config(folder: epath.PathLike) -> Pretrained:
  """Returns family and shape of a folder's model.

  Raises:
    FileNotFoundError: no config.json, or no tensors.
    ValueError: the model is unsupported or quantized, or files are damaged.
  """
  folder = hub.path(folder)
  hf, family = _read(folder), family_of(folder)
  _check_not_quantized(folder, hf)
  hf = family.checkpoints.text_config(hf)
  tensors = Tensors(folder, family.checkpoints.auto)
  _check_float(folder, tensors)
  config = family.checkpoints.config_of(hf, tensors.infos)
  found = Pretrained(family, config, hf['vocab_size'], hf)
  if family.is_encoder_decoder:
    start_id = special_ids.read(folder, family, found.vocab_rows).start
    found = found._replace(config=dataclasses.replace(config, start_id=start_id))
  return found
