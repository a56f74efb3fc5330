"""The config sections of scores beside that of the codes: counts of training, texts, and the weights of the sum."""

import dataclasses
from typing import ClassVar

from recjax.schema.checks import Section, setting

NONE = 'none'
COUNTS = (NONE, 'transitions', 'neighbours')
VECTORS = (NONE, 'encoder')
MOST = 1e6  # of a weight and of the smoothing; scores of larger ones are not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory(Section):
  """Counts of the training sequences as a score of their own; see `recjax.decode.memory`."""

  prefix: ClassVar = 'eval.memory.'

  counts: str = setting(
    NONE,
    'What is counted. transitions: direct successors; neighbours: items at most 5 positions apart, by 1 / distance; none: no memory.',
    one_of=COUNTS,
  )
  decay: float = setting(
    0.8, 'Weight of an item of the history relative to the next one.', above=0, at_most=1
  )
  smoothing: float = setting(0.3, 'Smoothing ε of the score log(count + ε).', above=0, at_most=MOST)
  candidates: int = setting(
    20, 'Items with the largest counts that are ranked beside the beams of the search.', at_least=0
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Section):
  """The similarity of item texts to those of the history as a score; see `recjax.decode.text_similarity`."""

  prefix: ClassVar = 'eval.text.'

  vectors: str = setting(
    NONE,
    'Item vectors. encoder: the text vectors of sids.encoder; none: no score of texts.',
    one_of=VECTORS,
  )
  decay: float = setting(
    0.6, 'Weight of an item of the history relative to the next one.', above=0, at_most=1
  )
  candidates: int = setting(
    20,
    'Items with the most similar texts that are ranked beside the beams of the search.',
    at_least=0,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blend(Section):
  """Weights of the score (1 - h) · codes + h · head + m · memory + t · text; see `recjax.decode.blend`."""

  prefix: ClassVar = 'eval.blend.'

  head: float | None = setting(
    None,
    'Share h of the item head, model.item_head; 0: the codes alone, 1: the head alone. None: chosen on validation rows.',
    at_least=0,
    at_most=1,
  )
  memory: float | None = setting(
    None, 'Weight m of eval.memory. None: chosen on validation rows.', at_least=0, at_most=MOST
  )
  text: float | None = setting(
    None, 'Weight t of eval.text. None: chosen on validation rows.', at_least=0, at_most=MOST
  )
