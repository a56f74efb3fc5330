"""What a folder in the sentence-transformers layout says beside its model: modules, pooling, lengths."""

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
_MODULES = ('Transformer', 'Pooling', 'Normalize')
_MAX_TOKENS = 256  # where neither the config nor the folder says


def read_json(path: epath.Path, *, optional: bool = False) -> Any:
  """What a JSON file holds; an empty dict for an absent one that is optional.

  Raises:
    ValueError: it is no JSON.
  """
  if optional and not path.exists():
    return {}
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} must hold JSON: {error}. Set --config.sids.encoder') from error


def check_mean_pooling(folder: epath.Path) -> None:
  """Raises the ValueError of a folder whose vectors are not the mean over a text's tokens.

  A folder without these files is a plain checkpoint: there the mean is our choice.
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
  pooling = read_json(file, optional=True)
  modes = pooling.get('pooling_mode')  # since version 6; before, a switch for each mode
  modes = {modes} if isinstance(modes, str) else set(modes or ())
  modes |= {n.removeprefix('pooling_mode_') for n, on in pooling.items() if on is True} - {
    'include_prompt'
  }
  if pooling and modes not in ({'mean'}, {'mean_tokens'}):
    raise ValueError(
      f'{file}: pooling must be the mean over tokens; got {", ".join(sorted(modes)) or "none"}. '
      f'Set --config.sids.encoder to another folder, {other}'
    )
  own = read_json(folder / 'config_sentence_transformers.json', optional=True)
  if own.get('default_prompt_name'):
    raise ValueError(
      f'{folder / "config_sentence_transformers.json"}: a default prompt must not be set; got '
      f'{own["default_prompt_name"]!r}. Set --config.sids.encoder to another folder, {other}'
    )


def max_tokens(folder: epath.Path, wanted: int, limit: int | None = None) -> int:
  """Where texts are cut: as wanted; 0: as the folder says, else at 256 tokens.

  Args:
    folder: of the model.
    wanted: `sids.encoder_max_tokens`.
    limit: the positions that the model has; None: any number.

  Raises:
    ValueError: more are wanted than the model has positions.
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
  old = read_json(folder / 'sentence_bert_config.json', optional=True).get('max_seq_length')
  if old or not (folder / 'modules.json').exists():  # a tokenizer alone tells of another use
    return old
  return read_json(folder / 'tokenizer_config.json', optional=True).get('model_max_length')


def lowers(folder: epath.Path) -> bool:
  """Whether texts are to be lower-cased before they are tokenized."""
  return bool(read_json(folder / 'sentence_bert_config.json', optional=True).get('do_lower_case'))
