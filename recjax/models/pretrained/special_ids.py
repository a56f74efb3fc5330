"""Reads BOS, EOS, PAD and the decoder's start token of a checkpoint folder from an ordered list of places.

For each token the places are, in order: config.json, its `text_config`, generation_config.json,
tokenizer_config.json, special_tokens_map.json, and the family's default. A place holds an id, a token, an
object with the token as `content`, or a list of these. The places must have an id in common, or one of them must
list the ids of all others; then the last place counts, the tokenizer's (Qwen 3.5 ends a chat's turn with another
token than a text, and its generation_config.json lists both).
"""

from collections.abc import Iterator
import functools
from typing import Any, NamedTuple

from etils import epath

from recjax.models.family import Family, SpecialToken
from recjax.models.pretrained import json_file, tokenizer_files

_NAMES = {'bos': 'BOS', 'eos': 'EOS', 'pad': 'padding', 'start': "decoder's start"}
_ID_FIELDS = {
  'bos': 'bos_token_id',
  'eos': 'eos_token_id',
  'pad': 'pad_token_id',
  'start': 'decoder_start_token_id',
}
_TOKEN_FIELDS = {'bos': 'bos_token', 'eos': 'eos_token', 'pad': 'pad_token'}
_ID_FILES = ('config.json', 'generation_config.json')
TOKEN_FILES = ('tokenizer_config.json', 'special_tokens_map.json')
FILES = (*_ID_FILES, *TOKEN_FILES)
_ANOTHER = 'Correct the file, or set --config.model.pretrained to another folder'


class Found(NamedTuple):
  """A special token.

  Attributes:
    ids: all ids in the first place that names the token.
    id: the id that is used.
    place: the source of `id`, in words.
  """

  ids: tuple[int, ...]
  id: int
  place: str

  def __str__(self) -> str:
    choices = f' of {list(self.ids)}' if len(self.ids) > 1 else ''
    return f'{self.id}{choices} ({self.place})'


class SpecialIds(NamedTuple):
  """The special tokens of a folder as ids.

  Attributes:
    bos: first id of a decoder's prompt; EOS in a family without BOS.
    eos: last id of a text answer and of an encoder's input.
    start: first id that the decoder of an encoder–decoder reads; 0 for other families.
    places: sources of `bos` and `eos`, in words.
  """

  bos: int
  eos: int
  start: int
  places: dict[str, str]


class _Folder:
  """The statements of a folder's files about its special tokens."""

  def __init__(self, folder: epath.Path, family: Family, vocab_rows: int):
    self._folder, self._family, self._rows = folder, family, vocab_rows

  @functools.cached_property
  def _tokens(self) -> tokenizer_files.Tokens | None:
    return tokenizer_files.tokens(self._folder)

  def _values(self, name: str) -> Iterator[tuple[str, Any]]:
    """Yields (place, value) for every place that can name the token; value None: it does not."""
    field = _ID_FIELDS[name]
    config = json_file.read_json(self._folder / 'config.json')
    yield f'{field} of config.json', config.get(field)
    text_config = config.get('text_config')
    if isinstance(text_config, dict):
      yield f'text_config.{field} of config.json', text_config.get(field)
    generation = json_file.read_json(self._folder / 'generation_config.json')
    yield f'{field} of generation_config.json', generation.get(field)
    if name in _TOKEN_FIELDS:
      for file in TOKEN_FILES:
        yield (
          f'{_TOKEN_FIELDS[name]} of {file}',
          json_file.read_json(self._folder / file).get(_TOKEN_FIELDS[name]),
        )

  def _ids(self, place: str, value: Any) -> tuple[int, ...]:
    """Returns the ids of a place; empty: the place does not name the token.

    Raises:
      ValueError: an id is out of range, or the tokenizer lacks a token.
    """
    if isinstance(value, list):
      return tuple(id_ for entry in value for id_ in self._ids(place, entry))
    if isinstance(value, dict):
      value = value.get('content')
    if value is None or value == '':
      return ()
    if isinstance(value, str):
      if self._tokens is None:
        return ()
      id_ = self._tokens.id_of(value)
      if id_ is None:
        raise ValueError(
          f'{place} in {self._folder} must name a token of its tokenizer; got {value!r}. {_ANOTHER}'
        )
    else:
      id_ = value
    self._check_id(place, id_)
    return (id_,)

  def _check_id(self, place: str, id_: Any) -> None:
    is_id = isinstance(id_, int) and not isinstance(id_, bool) and 0 <= id_ < self._rows
    if is_id and (self._tokens is None or id_ < self._tokens.size):
      return
    limit = f'the {self._rows} rows of its table'
    if is_id:
      limit = f'the {self._tokens.size} tokens of its tokenizer'
    raise ValueError(f'{place} in {self._folder} must be an id of {limit}; got {id_!r}. {_ANOTHER}')

  def find(self, name: str) -> Found | None:
    """Returns a special token; None: neither the files nor the family name one.

    Raises:
      ValueError: places have no id in common, or a place is wrong (see `_ids`).
    """
    stated = [(place, self._ids(place, value)) for place, value in self._values(name)]
    stated = [(place, ids) for place, ids in stated if ids]
    if not stated:
      default = getattr(self._family, name, None)
      return None if default is None else self._default(name, default)
    shared = set.intersection(*(set(ids) for _, ids in stated))
    if not shared:
      widest = max(stated, key=lambda entry: len(entry[1]))
      if all(set(ids) <= set(widest[1]) for _, ids in stated):
        return Found(widest[1], stated[-1][1][0], widest[0])
      says = ', '.join(
        f'{place} says {ids[0] if len(ids) == 1 else list(ids)}' for place, ids in stated
      )
      raise ValueError(
        f'the files of {self._folder} must agree on the {_NAMES[name]} token; {says}. {_ANOTHER}'
      )
    place, ids = stated[0]
    return Found(ids, next(id_ for id_ in ids if id_ in shared), place)

  def _default(self, name: str, default: SpecialToken) -> Found:
    """Returns the family's default; if the folder has a tokenizer, looked up by name."""
    id_ = default.id if self._tokens is None else self._tokens.id_of(default.name)
    if id_ is None:
      raise ValueError(
        f'a file of {self._folder} must name the {_NAMES[name]} token, such as {_ID_FIELDS[name]} of '
        f'config.json; none does, and its tokenizer lacks {default.name}, the default of family '
        f'{self._family.name}. {_ANOTHER}'
      )
    place = f'{default.name}, the default of family {self._family.name}'
    self._check_id(place, id_)
    return Found((id_,), id_, place)


def files(folder: epath.Path) -> dict[str, epath.Path]:
  """Returns the existing files of a folder that can name special tokens, by file name."""
  return {name: folder / name for name in FILES if (folder / name).exists()}


def read(folder: epath.PathLike, family: Family, vocab_rows: int) -> SpecialIds:
  """Reads the special tokens of a folder.

  Args:
    folder: a checkpoint of `transformers`.
    family: family of the folder.
    vocab_rows: rows of its token table.

  Raises:
    ValueError: the files disagree, a required token is not named, or a named token does not exist.
  """
  found = _Folder(epath.Path(folder), family, vocab_rows)
  eos, bos = found.find('eos'), found.find('bos')
  if eos is None:
    raise ValueError(
      f'a file of {folder} must name the EOS token, such as eos_token_id of config.json; none does. '
      f'{_ANOTHER}'
    )
  start = (found.find('start') or found.find('pad')) if family.is_encoder_decoder else None
  places = {'bos': str(bos or f'{eos.id}, EOS: the family has no BOS'), 'eos': str(eos)}
  return SpecialIds((bos or eos).id, eos.id, start.id if start else 0, places)
