"""The vocabulary: SentencePiece text pieces, specials of our own, and the SID codes."""

import bisect

from etils import epath
import sentencepiece

from recjax.sids.token_space import TokenSpace

SENTINELS = 32
SPECIALS = ('<mask>', '<separator>', *(f'<sentinel_{i}>' for i in range(SENTINELS)))


class Vocabulary:
  """Text ↔ ids below `space.sid_start`; SID codes ↔ ids above (see `TokenSpace`).

  Attributes:
    space: the token space.
    bos_id: begins a decoder's prompt; where the pieces have no BOS, their padding piece (as T5 does).
    eos_id: ends a text target.
  """

  def __init__(self, sentencepiece_model: epath.PathLike, level_sizes: tuple[int, ...]):
    model = epath.Path(sentencepiece_model).read_bytes()
    self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.space = TokenSpace(self._pieces.get_piece_size() + len(SPECIALS), tuple(level_sizes))
    bos = self._pieces.bos_id()
    self.bos_id = bos if bos >= 0 else max(self._pieces.pad_id(), 0)
    self.eos_id = self._pieces.eos_id()

  def special_id(self, name: str) -> int:
    return self._pieces.get_piece_size() + SPECIALS.index(name)

  def encode(self, text: str) -> list[int]:
    """Piece ids of a text, without BOS or EOS."""
    return self._pieces.encode(text)

  def decode(self, ids: list[int]) -> str:
    """Readable text of any ids; specials by name, SID codes as <level_code> with levels a, b, …"""
    parts, run = [], []
    for token in [*(int(i) for i in ids), None]:
      if token is not None and token < self._pieces.get_piece_size():
        run.append(token)
        continue
      if run:
        parts.append(self._pieces.decode(run))
        run = []
      if token is not None:
        parts.append(self._name(token))
    return ' '.join(parts)

  def _name(self, token: int) -> str:
    if token < self.space.sid_start:
      return SPECIALS[token - self._pieces.get_piece_size()]
    row = token - self.space.sid_start
    level = bisect.bisect_right(self.space.level_starts, row) - 1
    return f'<{chr(ord("a") + level)}_{row - self.space.level_starts[level]}>'
