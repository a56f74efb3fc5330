"""Reads the tokens of a folder's tokenizer files, and adds tokens to copies of the files."""

from collections.abc import Sequence
import functools
import json
import re
from typing import Any

from etils import epath
import tokenizers

from recjax.data import text_tokenizer
from recjax.models.pretrained import json_file

_FAST = 'tokenizer.json'
_CONFIG = 'tokenizer_config.json'
_ADDED = 'added_tokens.json'
_PIECES = ('spiece.model', 'tokenizer.model')
FILES = (_FAST, *_PIECES)  # of a folder; the first one that exists is used
_COPIED = (
  *_PIECES,
  'special_tokens_map.json',
  'vocab.json',
  'merges.txt',
  'chat_template.json',
  'chat_template.jinja',
  'generation_config.json',
)
ALL = tuple(sorted({*FILES, *_COPIED, _CONFIG, _ADDED}))  # every file that describes a tokenizer
_T5_EXTRA_IDS = 100  # sentinels that T5's tokenizer adds by default
_SID = re.compile(r'<[a-z]_\d+>')


def find(folder: epath.Path) -> epath.Path | None:
  """Returns the tokenizer's file in a folder; None: the folder has none."""
  return next((folder / name for name in FILES if (folder / name).exists()), None)


def _added_tokens(folder: epath.Path) -> dict[str, int]:
  """Returns the ids of the tokens that files beside the tokenizer's own add.

  Raises:
    ValueError: an entry has no token or no id.
  """
  added = {}
  entries = json_file.read_json(folder / _ADDED).items()
  decoder = json_file.field(
    folder / _CONFIG, json_file.read_json(folder / _CONFIG), 'added_tokens_decoder', dict, {}
  )
  for file, token, id_ in (
    *((_ADDED, token, id_) for token, id_ in entries),
    *(
      (_CONFIG, token.get('content') if isinstance(token, dict) else token, id_)
      for id_, token in decoder.items()
    ),
  ):
    is_id = isinstance(id_, int) and not isinstance(id_, bool)
    if not isinstance(token, str) or not (is_id or (isinstance(id_, str) and id_.isdecimal())):
      raise ValueError(
        f'every added token of {folder / file} must be a string with an id; got {token!r} with {id_!r}. '
        'Correct the file, or set --config.model.pretrained to another folder'
      )
    added[token] = int(id_)
  return added


class Tokens:
  """The tokens of a folder's tokenizer.

  Attributes:
    size: one more than the highest id.
    plain_size: one more than the highest id of a token that is not special.
  """

  def __init__(self, folder: epath.Path):
    self._added = _added_tokens(folder)
    file = find(folder)
    if file.name == _FAST:
      self._fast = _open_fast(file)
      self.size, self.plain_size = _fast_sizes(self._fast)
    else:
      self._fast, self._pieces = None, text_tokenizer.sentencepiece_model(file, plain_text=False)
      is_t5 = json_file.read_json(folder / 'config.json').get('model_type') == 't5'
      default = _T5_EXTRA_IDS if is_t5 else 0
      config = json_file.read_json(folder / _CONFIG)
      extra = json_file.field(folder / _CONFIG, config, 'extra_ids', int, default)
      self.plain_size = self._pieces.get_piece_size()
      self.size = max(self.plain_size + extra, max(self._added.values(), default=-1) + 1)

  def id_of(self, token: str) -> int | None:
    """Returns a token's id; None: the tokenizer lacks it."""
    if self._fast is not None:
      id_ = self._fast.token_to_id(token)
      return self._added.get(token) if id_ is None else id_
    if token in self._added:
      return self._added[token]
    id_ = self._pieces.piece_to_id(token)
    return id_ if self._pieces.id_to_piece(id_) == token else None

  def token_of(self, id_: int) -> str | None:
    """Returns the token of an id; None: the tokenizer lacks it."""
    if self._fast is not None:
      return self._fast.id_to_token(id_)
    if id_ < self.plain_size:
      return self._pieces.id_to_piece(id_)
    return next((token for token, other in self._added.items() if other == id_), None)

  def sid_tokens(self) -> list[str]:
    """Returns the tokens of the form `<a_0>`, by name."""
    names = self._added if self._fast is None else self._fast.get_vocab(with_added_tokens=True)
    return sorted(name for name in names if _SID.fullmatch(name))


def _fast_sizes(fast: tokenizers.Tokenizer) -> tuple[int, int]:
  """Returns `Tokens.size` and `Tokens.plain_size` of a tokenizer.json."""
  added = fast.get_added_tokens_decoder()
  plain = max(
    max(
      (i for i in fast.get_vocab(with_added_tokens=False).values() if i not in added), default=-1
    ),
    max((i for i, token in added.items() if not token.special), default=-1),
  )
  highest = max(fast.get_vocab(with_added_tokens=True).values(), default=-1)
  return max(fast.get_vocab_size(with_added_tokens=True), highest + 1), plain + 1


@functools.lru_cache(maxsize=1)
def _open_fast_once(file: str, mtime: float, length: int) -> tokenizers.Tokenizer:
  del mtime, length  # parts of the cache key, because the file may change
  return text_tokenizer.fast_tokenizer(file, plain_text=False)


def _open_fast(file: epath.Path) -> tokenizers.Tokenizer:
  stat = epath.Path(file).stat()
  return _open_fast_once(str(file), stat.mtime, stat.length)


def tokens(folder: epath.Path) -> Tokens | None:
  """Opens a folder's tokenizer; None: the folder has none.

  Raises:
    ValueError: a file is damaged.
  """
  return None if find(folder) is None else Tokens(folder)


def tokenizer_size(folder: epath.Path, table_rows: int) -> int | None:
  """Returns the size of a folder's tokenizer (see `Tokens.size`); None: the folder has no tokenizer.

  Args:
    folder: holds tokenizer.json, spiece.model or tokenizer.model.
    table_rows: rows of the model's table. Special tokens may have ids beyond it (text models of Gemma 3 have
      the tokenizer of the multimodal ones); other tokens may not.

  Raises:
    ValueError: the tokenizer knows more tokens than the table has rows, or a file is damaged.
  """
  found = tokens(folder)
  if found is None:
    return None
  if found.plain_size > table_rows:
    raise ValueError(
      f'the tokenizer must not know more tokens than the table has rows ({table_rows}, vocab_size of '
      f'config.json); the tokenizer of {folder} has {found.plain_size}. Put the files of the '
      'right tokenizer into this folder'
    )
  return found.size


def _entry(token: str) -> dict[str, Any]:
  flags = {'single_word': False, 'lstrip': False, 'rstrip': False}
  return {'content': token, **flags, 'normalized': False, 'special': False}


def check_new(folder: epath.Path, names: Sequence[str]) -> None:
  """Raises a ValueError if the tokenizer of a folder already has one of the tokens that an export adds."""
  found = tokens(folder)
  known = [] if found is None else [name for name in names if found.id_of(name) is not None]
  if known:
    raise ValueError(
      f'the tokens that an export adds must be new to the tokenizer of {folder}; it has {known[0]} already '
      f'(and {len(known) - 1} more). Set --config.model.pretrained to the checkpoint from before these '
      'tokens were added'
    )


def copy_with_tokens(
  source: epath.Path, target: epath.Path, names: Sequence[str], first_id: int
) -> None:
  """Copies the tokenizer's files (and generation_config.json) and adds tokens, from `first_id` on.

  Raises:
    ValueError: see `check_new`.
  """
  check_new(source, names)
  for name in _COPIED:
    if (source / name).exists():
      (source / name).copy(target / name)
  ids = {token: first_id + i for i, token in enumerate(names)}
  fast, config, added = (json_file.read_json(source / name) for name in (_FAST, _CONFIG, _ADDED))
  if fast:
    new = [{'id': i} | _entry(token) for token, i in ids.items()]
    fast['added_tokens'] = [*(fast.get('added_tokens') or ()), *new]
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
