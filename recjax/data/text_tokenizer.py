"""Opens tokenizer files. Users' texts are encoded as plain text, without padding and truncation.

A tokenizer.json may store padding and truncation. Both kinds of file map names of control tokens (`<eos>`,
`<|im_end|>`) in a text to these tokens. Chat templates need that; titles and other users' texts must not do it.
All other modules open tokenizer files through this one.
"""

import functools
import json
import re
from typing import Any

from etils import epath
import sentencepiece
import tokenizers

from recjax.data.sentencepiece_model import ModelProto

# Added tokens of this form count as control tokens even if the file does not mark them: <think>, [INST].
_CONTROL = re.compile(r'<[^<>\s]+>|\[[^\[\]\s]+\]')


def _read(path: epath.Path, parse) -> Any:
  try:
    return parse(path.read_bytes())
  except Exception as error:  # the libraries raise their own types
    raise ValueError(
      f'{path} must be a complete tokenizer file: {error}. Fetch it again'
    ) from error


def _vocab(model: dict[str, Any]) -> dict[str, int]:
  vocab = model.get('vocab', {})
  return vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}


def _hide(model: dict[str, Any], names: set[str]) -> None:
  """Renames control tokens in the model's vocabulary, so that no text contains them; ids do not change.

  Merges refer to names, so the pieces of BPE keep theirs; merges that make a control token are removed.
  """
  vocab = model.get('vocab', {})
  if 'merges' in model:
    parts = (
      (merge, merge.split(' ') if isinstance(merge, str) else merge) for merge in model['merges']
    )
    model['merges'] = [merge for merge, pair in parts if ''.join(pair) not in names]
  if isinstance(vocab, list):  # Unigram
    model['vocab'] = [
      [f'\0{i}' if piece in names else piece, score] for i, (piece, score) in enumerate(vocab)
    ]
  elif 'merges' not in model or model.get('ignore_merges'):
    unknown = model.get('unk_token')
    model['vocab'] = {
      f'\0{i}' if piece in names and piece != unknown else piece: i for piece, i in vocab.items()
    }


def _fast(content: bytes, plain_text: bool) -> tokenizers.Tokenizer:
  fields = json.loads(content)
  fields['padding'] = fields['truncation'] = None
  if plain_text:
    vocab = _vocab(fields['model'])
    control = {
      token['content']
      for token in fields.get('added_tokens') or ()
      if token['special']
      or (token['content'] not in vocab and _CONTROL.fullmatch(token['content']))
    }
    fields['added_tokens'] = [
      token for token in fields.get('added_tokens') or () if token['content'] not in control
    ]
    _hide(fields['model'], control)
  return tokenizers.Tokenizer.from_str(json.dumps(fields))


def fast_tokenizer(path: epath.PathLike, plain_text: bool = True) -> tokenizers.Tokenizer:
  """Opens a tokenizer.json without the padding and truncation that it stores.

  Args:
    path: the file.
    plain_text: whether control tokens in a text are encoded as plain text.

  Raises:
    ValueError: the file is damaged.
  """
  return _read(epath.Path(path), functools.partial(_fast, plain_text=plain_text))


def _sentencepiece(content: bytes, plain_text: bool) -> sentencepiece.SentencePieceProcessor:
  if not content:
    raise ValueError('the file is empty')  # the library reads it as a model without pieces
  if plain_text:
    model = ModelProto.FromString(content)
    types = ModelProto.SentencePiece
    hidden = [
      piece
      for piece in model.pieces
      if piece.type == types.USER_DEFINED and _CONTROL.fullmatch(piece.piece)
    ]
    for piece in hidden:
      piece.type = types.CONTROL
    content = model.SerializeToString() if hidden else content
  return sentencepiece.SentencePieceProcessor(model_proto=content)


def sentencepiece_model(
  path: epath.PathLike, plain_text: bool = True
) -> sentencepiece.SentencePieceProcessor:
  """Opens a SentencePiece model; see `fast_tokenizer`."""
  return _read(epath.Path(path), functools.partial(_sentencepiece, plain_text=plain_text))


class TextTokenizer:
  """A tokenizer.json or a SentencePiece model.

  Args:
    path: the file; its name ends in `.json` or `.model`.

  Raises:
    ValueError: the file is damaged.
  """

  def __init__(self, path: epath.PathLike):
    self._path = epath.Path(path)
    self._is_fast = self._path.suffix == '.json'
    self._plain = (fast_tokenizer if self._is_fast else sentencepiece_model)(self._path)

  @functools.cached_property
  def _full(self) -> Any:
    """The tokenizer with its control tokens."""
    return (fast_tokenizer if self._is_fast else sentencepiece_model)(self._path, plain_text=False)

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a user's text, without BOS or EOS."""
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: list[str]) -> list[list[int]]:
    """Returns the ids of users' texts, without BOS or EOS."""
    if self._is_fast:
      return [e.ids for e in self._plain.encode_batch_fast(texts, add_special_tokens=False)]
    return self._plain.encode(texts)

  def encode_template(self, text: str) -> list[int]:
    """Returns the ids of a chat template's text; names of control tokens become these tokens."""
    if self._is_fast:
      return self._full.encode(text, add_special_tokens=False).ids
    ids = []
    for n, part in enumerate(self._control_names.split(text)):
      if n % 2:
        ids.append(self._full.piece_to_id(part))
      elif part:
        ids += self._full.encode(part)
    return ids

  def t5_sentinels(self, count: int, size: int) -> list[int] | None:
    """Returns the ids of T5's tokens `<extra_id_0>`, …; None: the tokenizer has fewer than `count` of them.

    Args:
      count: number of ids.
      size: ids of the tokenizer. T5's SentencePiece model lacks the sentinels; they are its last ids, in reverse.
    """
    if self._is_fast:
      found = [self._full.token_to_id(f'<extra_id_{n}>') for n in range(count)]
      return None if None in found else found
    return [size - 1 - n for n in range(count)] if size - len(self._full) >= count else None

  @functools.cached_property
  def _control_names(self) -> re.Pattern[str]:
    """A pattern with one group, which matches any control piece of a SentencePiece model."""
    full = self._full
    names = [full.id_to_piece(i) for i in range(full.get_piece_size()) if full.is_control(i)]
    return (
      re.compile('(' + '|'.join(map(re.escape, names)) + ')') if names else re.compile('((?!))')
    )

  def decode(self, ids: list[int]) -> str:
    """Returns the text of ids; control tokens of a tokenizer.json appear by name."""
    if self._is_fast:
      return self._full.decode(ids, skip_special_tokens=False)
    return self._full.decode(ids)
