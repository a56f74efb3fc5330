"""The vocabulary: text pieces of a tokenizer, specials of our own, and the SID codes."""

import json
from typing import NamedTuple

from etils import epath
import sentencepiece
import tokenizers

from recjax.sids.token_space import TokenSpace

SENTINELS = 32
SPECIALS = ('<mask>', '<separator>', *(f'<sentinel_{i}>' for i in range(SENTINELS)))
FILE = 'vocabulary.json'  # beside the tokenizer's own file


class Chat(NamedTuple):
  """The chat template of an instruction model as token ids."""

  before: tuple[int, ...]  # the prompt
  between: tuple[int, ...]  # prompt and answer
  end: tuple[int, ...]  # of the answer


class Pieces:
  """A tokenizer's text pieces, as the `tokenizer` stage of the preparation leaves them.

  vocabulary.json holds `file` (a SentencePiece model, or a tokenizer.json of `tokenizers`), `size` (ids that the
  tokenizer may use), `bos_id`, `eos_id`, and for an instruction model `chat` (`before`, `between`, `end`: ids).

  Attributes:
    size: text ids; they are the tokenizer's own.
    bos_id: begins a decoder's prompt.
    eos_id: ends an encoder's input and a text target.
    chat: what stands around a prompt and its answer; None: no instruction model.
  """

  def __init__(self, folder: epath.PathLike):
    folder = epath.Path(folder)
    fields = json.loads((folder / FILE).read_text())
    self.size, self.bos_id, self.eos_id = (fields[n] for n in ('size', 'bos_id', 'eos_id'))
    chat = fields.get('chat')
    self.chat = chat and Chat(**{name: tuple(ids) for name, ids in chat.items()})
    content = (folder / fields['file']).read_bytes()
    if fields['file'].endswith('.json'):
      fast = tokenizers.Tokenizer.from_buffer(content)
      self._encode = lambda text: fast.encode(text, add_special_tokens=False).ids
      self._decode = lambda ids: fast.decode(ids, skip_special_tokens=False)
    else:
      processor = sentencepiece.SentencePieceProcessor(model_proto=content)
      self._encode, self._decode = processor.encode, processor.decode

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without BOS or EOS."""
    return self._encode(text)

  def decode(self, ids: list[int]) -> str:
    return self._decode(ids)


class Vocabulary:
  """Text ↔ ids below `space.sid_start`; SID codes ↔ ids above (see `TokenSpace`).

  Attributes:
    space: the token space.
    bos_id: begins a decoder's prompt (Gemma's BOS; where there is none, the piece that ends a document).
    eos_id: ends a text target, and an encoder's input (T5).
    chat: the chat template of an instruction model, None for others.
  """

  def __init__(self, folder: epath.PathLike, level_sizes: tuple[int, ...]):
    self._pieces = Pieces(folder)
    self.space = TokenSpace(self._pieces.size + len(SPECIALS), tuple(level_sizes))
    self.bos_id, self.eos_id = self._pieces.bos_id, self._pieces.eos_id
    self.chat = self._pieces.chat

  @property
  def num_pieces(self) -> int:
    """The tokenizer's own ids, below our specials."""
    return self._pieces.size

  def special_id(self, name: str) -> int:
    return self._pieces.size + SPECIALS.index(name)

  def encode(self, text: str) -> list[int]:
    """Piece ids of a text, without BOS or EOS."""
    return self._pieces.encode(text)

  def decode(self, ids: list[int]) -> str:
    """Readable text of any ids; specials by name, SID codes as <level_code> with levels a, b, …"""
    parts, run = [], []
    for token in [*(int(i) for i in ids), None]:
      named = token in (self.bos_id, self.eos_id)
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
    if token < self.num_pieces:
      return '<eos>' if token == self.eos_id else '<bos>'
    if token < self.space.sid_start:
      return SPECIALS[token - self._pieces.size]
    return self.space.sid_names[token - self.space.sid_start]
