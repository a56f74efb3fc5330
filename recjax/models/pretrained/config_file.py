"""Reads config.json of a checkpoint folder: family and shape; refuses unsupported and quantized models."""

import dataclasses
import json
import re
from typing import Any, NamedTuple

from etils import epath

from recjax.models import families
from recjax.models.family import Family
from recjax.models.pretrained import special_ids
from recjax.models.pretrained.tensors import DTYPES, Tensors

_QUANTIZATION_FIELDS = ('quantization_config', 'compression_config')
# Tensors that only quantized checkpoints hold: scales and packed weights of FP8, AWQ, GPTQ, bitsandbytes and
# compressed-tensors.
_QUANTIZED = re.compile(
  r'.*\.(weight_scale(_inv)?|input_scale|activation_scale|qweight|qzeros|scales|g_idx|SCB|weight_packed'
  r'|weight_zero_point|weight_shape|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*))'
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
    raise FileNotFoundError(
      f'{folder} must be a checkpoint folder of transformers; it holds no config.json. Set '
      '--config.model.pretrained'
    )
  try:
    hf = json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f'{file} must be JSON: {error}') from error
  if not isinstance(hf, dict):
    raise ValueError(f'{file} must hold a JSON object; got {type(hf).__name__}')
  return hf


def family_of(folder: epath.PathLike) -> Family:
  """Returns the family that reads a folder, by `model_type` of its config.json.

  Raises:
    FileNotFoundError, ValueError: config.json is missing or damaged, or no family reads its `model_type`.
  """
  folder = epath.Path(folder)
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
  folder = epath.Path(folder)
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
