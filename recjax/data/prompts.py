"""Prompts: wordings with places for items and texts, and the format that a model family expects."""

import dataclasses
import functools
import re

import numpy as np

from recjax.data.vocabulary import Vocabulary
from recjax.schema.checks import check

_PLACE = re.compile(r'\{(\w+)\}')


def check_prompt(prompt: str, places: tuple[str, ...], field: str) -> None:
  """Raises a ValueError unless a wording names every place once and nothing else."""
  check(
    sorted(_PLACE.findall(prompt)) == sorted(places),
    f'{field} must name {", ".join(f"{{{place}}}" for place in places) or "no place"} once',
    prompt,
    field,
  )


@dataclasses.dataclass(frozen=True)
class Format:
  """What stands around a prompt and its answer.

  An encoder–decoder (T5) reads the prompt and EOS; a decoder begins with BOS; an instruction model has its
  chat template around both. A text answer ends with `end`, a semantic ID needs no end.

  Attributes:
    before: token ids before the prompt.
    between: after the prompt, before the answer.
    end: after a text answer.
    is_encoder_decoder: the prompt and the answer go to different stacks.
  """

  before: tuple[int, ...]
  between: tuple[int, ...]
  end: tuple[int, ...]
  is_encoder_decoder: bool

  @classmethod
  def of(cls, vocabulary: Vocabulary, is_encoder_decoder: bool) -> 'Format':
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

  @functools.lru_cache(maxsize=4096)  # noqa: B019 - a prompter lives as long as its run
  def text(self, text: str) -> np.ndarray:
    """The pieces of a text, int32."""
    return np.array(self._vocabulary.encode(text), np.int32)

  @functools.lru_cache(maxsize=4096)  # noqa: B019
  def _parts(self, prompt: str) -> tuple[tuple[str, np.ndarray | None], ...]:
    """The wording cut at its places: (place, None) or ('', ids)."""
    parts = []
    for n, part in enumerate(_PLACE.split(prompt)):
      if n % 2:
        parts.append((part, None))
      elif part:
        parts.append(('', self.text(part)))
    return tuple(parts)

  def fill(self, prompt: str, tokens: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """The inputs of an example.

    Args:
      prompt: a wording.
      tokens: the token ids of its places.

    Returns:
      int32 token ids, and where each place begins in them.
    """
    arrays, starts, at = [self.before], {}, len(self.before)
    for place, ids in self._parts(prompt):
      if ids is None:
        ids = tokens[place]
        starts[place] = at
      arrays.append(ids)
      at += len(ids)
    arrays.append(self.between)
    return np.concatenate(arrays), starts
