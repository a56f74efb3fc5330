"""Prompts: wordings with placeholders for items and texts, and the format that a model expects around them.

A wording is a text such as 'After {history} comes'; its placeholders are called places.
"""

import dataclasses
import functools
import re

import numpy as np

from recjax.data.vocabulary import Vocabulary
from recjax.schema.checks import check

_PLACE = re.compile(r'\{(\w+)\}')


def check_prompt(prompt: str, places: tuple[str, ...], field: str) -> None:
  """Raises a ValueError unless a wording has each of these placeholders exactly once and no other."""
  check(
    sorted(_PLACE.findall(prompt)) == sorted(places),
    f'{field} must name {", ".join(f"{{{place}}}" for place in places) or "no place"} once',
    prompt,
    field,
  )


@dataclasses.dataclass(frozen=True)
class Format:
  """The token ids around a prompt and its answer.

  An encoder–decoder reads the prompt and EOS. A decoder's prompt begins with BOS. For an instruction model, its
  chat template surrounds prompt and answer. A text answer ends with `end`; a semantic ID has a fixed length and
  needs no end.

  Attributes:
    before: ids before the prompt.
    between: ids between prompt and answer.
    end: ids after a text answer.
    is_encoder_decoder: whether prompt and answer go to different stacks.
  """

  before: tuple[int, ...]
  between: tuple[int, ...]
  end: tuple[int, ...]
  is_encoder_decoder: bool

  @classmethod
  def of(cls, vocabulary: Vocabulary, is_encoder_decoder: bool) -> 'Format':
    """Returns the format of a vocabulary's model."""
    eos, chat = (vocabulary.eos_id,), vocabulary.chat
    if is_encoder_decoder:
      return cls((), eos, eos, True)
    if chat is not None:
      return cls(chat.before, chat.between, chat.end, False)
    return cls((vocabulary.bos_id,), (), eos, False)


class Prompter:
  """Turns wordings into token ids."""

  def __init__(self, vocabulary: Vocabulary, form: Format):
    self._vocabulary = vocabulary
    self.form = form
    self.before = np.array(form.before, np.int32)
    self.between = np.array(form.between, np.int32)
    self.end = np.array(form.end, np.int32)

  @functools.lru_cache(maxsize=4096)  # noqa: B019 - a prompter lives for the whole run
  def text(self, text: str) -> np.ndarray:
    """Returns the piece ids of a text, int32."""
    return np.array(self._vocabulary.encode(text), np.int32)

  @functools.lru_cache(maxsize=4096)  # noqa: B019
  def _parts(self, prompt: str) -> tuple[tuple[str, np.ndarray | None], ...]:
    """Splits a wording into placeholders, (place, None), and texts, ('', ids)."""
    parts = []
    for n, part in enumerate(_PLACE.split(prompt)):
      if n % 2:
        parts.append((part, None))
      elif part:
        parts.append(('', self.text(part)))
    return tuple(parts)

  def fill(self, prompt: str, contents: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Returns the inputs of an example: int32 token ids, and the index where each placeholder's ids start.

    Args:
      prompt: a wording.
      contents: token ids for each placeholder.
    """
    arrays, starts, at = [self.before], {}, len(self.before)
    for place, ids in self._parts(prompt):
      if ids is None:
        ids = contents[place]
        starts[place] = at
      arrays.append(ids)
      at += len(ids)
    arrays.append(self.between)
    return np.concatenate(arrays), starts
