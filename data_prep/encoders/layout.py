"""Reads the settings of a folder in the sentence-transformers layout: modules, pooling, lengths."""

from collections.abc import Sequence
import json
from typing import Any

from etils import epath

from recjax.schema.checks import check

OPTIONAL_FILES = (
  'modules.json',
  '1_Pooling/config.json',
  'sentence_bert_config.json',
  'config_sentence_transformers.json',
  'tokenizer_config.json',
)
_POOLINGS = {'mean': 'the mean over tokens', 'lasttoken': 'the last token'}
_MODULES = ('Transformer', 'Pooling', 'Normalize')
_MAX_TOKENS = 256  # if neither the config nor the folder sets it


def read_json(path: epath.Path, *, optional: bool = False) -> Any:
  """Reads a JSON file. Returns an empty dict if the file is optional and absent.

  Raises:
    ValueError: the file is not JSON.
  """
  if optional and not path.exists():
    return {}
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} must hold JSON: {error}. Set --config.sids.encoder') from error


def pooling(folder: epath.Path, supported: Sequence[str]) -> str:
  """Returns how a folder's settings make one vector of a text's states: 'mean' or 'lasttoken'.

  A folder without settings is a plain checkpoint; the mean is then our choice.

  Args:
    folder: folder of the model.
    supported: the kinds of pooling that the caller computes.

  Raises:
    ValueError: the settings name another pooling, other modules or a default prompt.
  """
  other = f'or to sentence_transformers:{folder} where that package is installed'
  modules = read_json(folder / 'modules.json', optional=True)
  kinds = [module['type'].rsplit('.', 1)[-1] for module in modules]
  if set(kinds) - set(_MODULES):
    raise ValueError(
      f'{folder / "modules.json"}: the modules must be {", ".join(_MODULES)}; '
      f'got {", ".join(kinds)}. Set --config.sids.encoder to another folder, {other}'
    )
  file = folder / '1_Pooling/config.json'
  settings = read_json(file, optional=True)
  modes = settings.get(
    'pooling_mode'
  )  # since version 6; earlier versions have one boolean per mode
  modes = {modes} if isinstance(modes, str) else set(modes or ())
  modes |= {n.removeprefix('pooling_mode_') for n, on in settings.items() if on is True} - {
    'include_prompt'
  }
  modes = {'mean' if mode == 'mean_tokens' else mode for mode in modes}
  found = 'mean' if not settings else next(iter(modes)) if len(modes) == 1 else None
  if found not in supported:
    must = ' or '.join(_POOLINGS[kind] for kind in supported)
    raise ValueError(
      f'{file}: pooling must be {must}; got {", ".join(sorted(modes)) or "none"}. '
      f'Set --config.sids.encoder to another folder, {other}'
    )
  own = read_json(folder / 'config_sentence_transformers.json', optional=True)
  if own.get('default_prompt_name'):
    raise ValueError(
      f'{folder / "config_sentence_transformers.json"}: a default prompt must not be set; got '
      f'{own["default_prompt_name"]!r}. Set --config.sids.encoder to another folder, {other}'
    )
  return found


def max_tokens(folder: epath.Path, wanted: int, limit: int | None = None) -> int:
  """Returns the maximum number of tokens of a text; longer texts are cut.

  Args:
    folder: folder of the model.
    wanted: `sids.encoder_max_tokens`; 0: the folder's own setting, or 256.
    limit: number of positions of the model; None: unlimited.

  Raises:
    ValueError: `wanted` exceeds the positions of the model.
  """
  check(
    limit is None or wanted <= limit,
    f'sids.encoder_max_tokens must be at most {limit}, the positions of the model in {folder}',
    wanted,
    'sids.encoder_max_tokens',
  )
  chosen = wanted or _own_max_tokens(folder) or _MAX_TOKENS
  return min(chosen, limit or chosen)


def _own_max_tokens(folder: epath.Path) -> int | None:
  length = read_json(folder / 'sentence_bert_config.json', optional=True).get('max_seq_length')
  # Without modules.json the folder is a plain checkpoint, whose tokenizer's length is not meant for encoders.
  if length or not (folder / 'modules.json').exists():
    return length
  return read_json(folder / 'tokenizer_config.json', optional=True).get('model_max_length')


def is_lower_cased(folder: epath.Path) -> bool:
  """Returns whether texts are lower-cased before tokenization."""
  return bool(read_json(folder / 'sentence_bert_config.json', optional=True).get('do_lower_case'))
