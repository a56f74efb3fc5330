"""The tokenizer files of a folder: how many tokens they know, and adding tokens to them."""

from collections.abc import Callable, Sequence
import json
from typing import Any

from etils import epath
import sentencepiece
import tokenizers

_FAST = 'tokenizer.json'
_CONFIG = 'tokenizer_config.json'
_ADDED = 'added_tokens.json'
_PIECES = ('spiece.model', 'tokenizer.model')
_COPIED = (
  *_PIECES,
  'special_tokens_map.json',
  'vocab.json',
  'merges.txt',
  'chat_template.json',
  'chat_template.jinja',
  'generation_config.json',
)
_T5_EXTRA_IDS = 100  # sentinels that T5's tokenizer adds to its pieces where no file says how many


def _json(file: epath.Path) -> dict[str, Any]:
  return json.loads(file.read_text()) if file.exists() else {}


def _read(file: epath.Path, parse: Callable[[], Any]) -> Any:
  """What a library makes of a file, whose complaints are of no type of their own."""
  try:
    return parse()
  except Exception as error:
    raise ValueError(f'{file} must be a whole tokenizer: {error}. Fetch it again') from error


def _fast_sizes(folder: epath.Path) -> tuple[int, int]:
  file = folder / _FAST
  fast = _read(file, lambda: tokenizers.Tokenizer.from_str(file.read_text()))
  added = fast.get_added_tokens_decoder()
  plain = max(
    max(
      (i for i in fast.get_vocab(with_added_tokens=False).values() if i not in added), default=-1
    ),
    max((i for i, token in added.items() if not token.special), default=-1),
  )
  highest = max(fast.get_vocab(with_added_tokens=True).values(), default=-1)
  return max(fast.get_vocab_size(with_added_tokens=True), highest + 1), plain + 1


def _piece_sizes(folder: epath.Path, file: epath.Path) -> tuple[int, int]:
  make = sentencepiece.SentencePieceProcessor
  pieces = _read(file, lambda: make(model_proto=file.read_bytes())).get_piece_size()
  config = _json(folder / _CONFIG)
  is_t5 = _json(folder / 'config.json').get('model_type') == 't5'
  added = {int(i) for i in config.get('added_tokens_decoder', {})}
  added |= set(_json(folder / _ADDED).values())
  extra = config.get('extra_ids', _T5_EXTRA_IDS if is_t5 else 0)
  return max(pieces + extra, max(added, default=-1) + 1), pieces


def tokenizer_size(folder: epath.Path, table_rows: int) -> int | None:
  """`len(tokenizer)` of a folder (one more than its highest id, should ids be left out); None: no files.

  Args:
    folder: holds tokenizer.json, spiece.model or tokenizer.model.
    table_rows: of the model's table. Special tokens may lie beyond it (text models of Gemma 3 share the
      tokenizer of those that see), others may not.

  Raises:
    ValueError: the tokenizer knows more tokens than the table has rows.
  """
  piece_files = [folder / name for name in _PIECES if (folder / name).exists()]
  if (folder / _FAST).exists():
    size, plain = _fast_sizes(folder)
  elif piece_files:
    size, plain = _piece_sizes(folder, piece_files[0])
  else:
    return None
  if plain > table_rows:
    raise ValueError(
      f'the tokenizer must not know more tokens than the table has rows ({table_rows}, vocab_size of '
      f'config.json); the tokenizer of {folder} has {plain}. Put the files of the right tokenizer there'
    )
  return size


def _entry(token: str) -> dict[str, Any]:
  flags = {'single_word': False, 'lstrip': False, 'rstrip': False}
  return {'content': token, **flags, 'normalized': False, 'special': False}


def copy_with_tokens(
  source: epath.Path, target: epath.Path, tokens: Sequence[str], first_id: int
) -> None:
  """Copies the tokenizer's files (and generation_config.json) and adds tokens, from `first_id` on.

  Raises:
    ValueError: the tokenizer knows one of the tokens already.
  """
  for name in _COPIED:
    if (source / name).exists():
      (source / name).copy(target / name)
  ids = {token: first_id + i for i, token in enumerate(tokens)}
  fast, config, added = (_json(source / name) for name in (_FAST, _CONFIG, _ADDED))
  if fast:
    _add_to_fast(source / _FAST, fast, ids)
    (target / _FAST).write_text(json.dumps(fast, ensure_ascii=False, indent=2))
  if ids and any((source / name).exists() for name in _PIECES) and not fast:
    config.setdefault('added_tokens_decoder', {})
    added |= ids
  elif added:
    added |= ids
  if 'added_tokens_decoder' in config:
    config['added_tokens_decoder'] |= {str(i): _entry(token) for token, i in ids.items()}
  if config:
    (target / _CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=2) + '\n')
  if added:
    (target / _ADDED).write_text(json.dumps(added, ensure_ascii=False, indent=2) + '\n')


def _add_to_fast(file: epath.Path, fast: dict[str, Any], ids: dict[str, int]) -> None:
  tokenizer = tokenizers.Tokenizer.from_str(json.dumps(fast))
  known = [token for token in ids if tokenizer.token_to_id(token) is not None]
  if known:
    raise ValueError(
      f'the tokens to add must be new to {file}; it knows {known[0]} already (and {len(known) - 1} more)'
    )
  fast['added_tokens'] += [{'id': i} | _entry(token) for token, i in ids.items()]
