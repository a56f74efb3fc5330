"""The vocabulary: the text pieces of a tokenizer, our own special tokens, and the SID codes."""

import functools
import json
from typing import NamedTuple

from etils import epath

from recjax.data.text_tokenizer import TextTokenizer
from recjax.sids.catalogue import Catalogue
from recjax.sids.token_space import TokenSpace

SENTINELS = 32
SPECIALS = ('<mask>', '<separator>', *(f'<sentinel_{i}>' for i in range(SENTINELS)))
FILE = 'vocabulary.json'  # in the folder of the tokenizer's file


class Chat(NamedTuple):
  """The chat template of an instruction model as token ids."""

  before: tuple[int, ...]  # precedes the prompt
  between: tuple[int, ...]  # between prompt and answer
  end: tuple[int, ...]  # follows the answer


class Pieces:
  """A tokenizer's text pieces, as written by the `tokenizer` stage of the preparation.

  vocabulary.json holds `file` (a SentencePiece model, or a tokenizer.json of `tokenizers`), `size` (number of
  token ids), `bos_id`, `eos_id`, and for an instruction model `chat` (`before`, `between`, `end`: ids).

  Attributes:
    size: number of text ids, which are the tokenizer's own.
    bos_id: first id of a decoder's prompt.
    eos_id: last id of an encoder's input and of a text target.
    chat: the chat template as ids; None: not an instruction model.
    file: the tokenizer's file.
  """

  def __init__(self, folder: epath.PathLike):
    folder = epath.Path(folder)
    fields = json.loads((folder / FILE).read_text())
    self.size, self.bos_id, self.eos_id = (fields[n] for n in ('size', 'bos_id', 'eos_id'))
    chat = fields.get('chat')
    self.chat = chat and Chat(**{name: tuple(ids) for name, ids in chat.items()})
    self.file = folder / fields['file']
    self._tokenizer = TextTokenizer(self.file)

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without BOS or EOS; names of control tokens are plain text."""
    return self._tokenizer.encode(text)

  def encode_template(self, text: str) -> list[int]:
    """Returns the ids of a chat template's text; names of control tokens become these tokens."""
    return self._tokenizer.encode_template(text)

  def decode(self, ids: list[int]) -> str:
    """Returns the text of piece ids."""
    return self._tokenizer.decode(ids)

  @functools.cached_property
  def sentinels(self) -> list[int] | None:
    """The ids of `<extra_id_0>`, …, SENTINELS of them; None: not the tokenizer of a T5."""
    return self._tokenizer.t5_sentinels(SENTINELS, self.size)


class NoPieces:
  """The text part of a vocabulary for models that read items alone: BOS and EOS. Attributes: see `Pieces`."""

  size, bos_id, eos_id, chat, file, sentinels = 2, 0, 1, None, None, None

  def encode(self, text: str) -> list[int]:
    """Raises a ValueError: there are no pieces."""
    raise ValueError(f'a prompt of items alone must have no text; got {text!r}')

  def decode(self, ids: list[int]) -> str:
    """Returns nothing, because there are no pieces."""
    del ids
    return ''


class Vocabulary:
  """Maps text to ids below `space.sid_start` and SID codes to the ids above (see `TokenSpace`).

  Attributes:
    space: the token space.
    bos_id: first id of a decoder's prompt; EOS for a family without BOS.
    eos_id: last id of a text target, and of an encoder's input (T5).
    chat: the chat template as ids; None: not an instruction model.
    file: the tokenizer's file.
  """

  def __init__(
    self,
    folder: epath.PathLike | None,
    level_sizes: tuple[int, ...],
    catalogue: Catalogue | None = None,
  ):
    """Reads the tokenizer of a folder; None: the vocabulary has no text pieces."""
    self._pieces = NoPieces() if folder is None else Pieces(folder)
    self.space = TokenSpace(self._pieces.size + len(SPECIALS), tuple(level_sizes), catalogue)
    self.bos_id, self.eos_id = self._pieces.bos_id, self._pieces.eos_id
    self.chat, self.file = self._pieces.chat, self._pieces.file

  @property
  def sentinels(self) -> list[int] | None:
    """The tokenizer's own ids `<extra_id_0>`, … of T5, SENTINELS of them; None: it has none."""
    return self._pieces.sentinels

  @property
  def num_pieces(self) -> int:
    """Number of the tokenizer's ids; our special tokens follow them."""
    return self._pieces.size

  def special_id(self, name: str) -> int:
    """Returns the id of one of SPECIALS."""
    return self._pieces.size + SPECIALS.index(name)

  def encode(self, text: str) -> list[int]:
    """Returns the piece ids of a text, without BOS or EOS."""
    return self._pieces.encode(text)

  def decode(self, ids: list[int]) -> str:
    """Returns readable text of any ids: specials by name, SID codes as <level_code>, levels a, b, …"""
    parts, run, sentinels = [], [], self.sentinels or ()
    for token in [*(int(i) for i in ids), None]:
      named = token in (self.bos_id, self.eos_id) or token in sentinels
      if token is not None and token < self._pieces.size and not named:
        run.append(token)
        continue
      if run:
        parts.append(self._pieces.decode(run))
        run = []
      if token is not None:
        parts.append(self._name(token))
    return ' '.join(parts)

  def _name(self, token: int) -> str:
    if token in (self.sentinels or ()):
      return f'<extra_id_{self.sentinels.index(token)}>'
    if token < self.num_pieces:
      return '<eos>' if token == self.eos_id else '<bos>'
    if token < self.space.sid_start:
      return SPECIALS[token - self._pieces.size]
    return self.space.sid_names[token - self.space.sid_start]
