"""Filling gaps: masked items of a sequence (MIM), and masked words of its titles (MLM)."""

import dataclasses
from typing import ClassVar

import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.tasks.base import Draw, Example, HistoryComponent
from recjax.data.vocabulary import SENTINELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mim(HistoryComponent):
  """History with some items masked → the masked items, in order.

  The unit is a window of a user's training sequence (see `recjax.data.units.Windows`); a share `mask_share` of
  its items, at least one, is replaced by `<mask>`.

  Example: inputs  Fill in: <a_7> <b_2> <c_0> <mask> <a_7> <b_1> <c_1>    targets  <a_3> <b_9> <c_0>

  Published: masked items of a purchase sequence as a task in natural language (Cao et al., arXiv 2404.00245); the
  share is not known. Ours: the share, and that overflow forgets items before the first masked one only.
  """

  task: str = 'mim'
  mask_share: float = 0.3

  wordings: ClassVar = (
    'Fill in the missing purchases: {history}',
    'Some items of this history are hidden: {history}. They are',
    'Which items were masked in {history}',
  )
  places: ClassVar = ('history',)

  def __post_init__(self):
    super().__post_init__()
    self.check_field(0 < self.mask_share < 1, 'must be between 0 and 1', 'mask_share')

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.windows(self.max_items))

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    start, size, _ = corpus.windows(self.max_items)[unit]
    items = corpus.train.values[start : start + size]
    count = min(max(round(self.mask_share * size), 1), size - 1)
    masked = np.sort(draw.rng.permutation(size)[:count])
    tokens, lengths = corpus.items(items, self.show, self.title_tokens)
    ends = np.cumsum(lengths)
    parts, at = [], 0
    for place in masked.tolist():
      parts += [tokens[at : ends[place] - lengths[place]], corpus.mask]
      at = ends[place]
    history = np.concatenate([*parts, tokens[at:]])
    inputs, starts = corpus.prompter.fill(self.prompt(draw), {'history': history})
    targets = corpus.sid_tokens_IL[items[masked]].ravel()
    return Example(inputs, targets, None, starts['history'], lengths[: masked[0]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlm(HistoryComponent):
  """Span corruption over the titles of a history.

  The unit is a window of a user's training sequence. A share `corruption_rate` of the pieces, in spans of
  `span_length` pieces on average, gives way to a sentinel a span; the answer is every sentinel followed by what
  it hides. The sentinels are our own specials, for both kinds of backbone.

  Example: inputs  Restore: dry hair <sentinel_0> <separator> argan oil    targets  <sentinel_0> shampoo <eos>

  Published: T5's objective (Raffel et al., JMLR 2020, section 3.1.4: 15 %, spans of 3 on average) over the text of a
  purchase sequence (Cao et al., arXiv 2404.00245, rate and length not known). Ours: T5's rate and length; spans
  begin at random places that are at least one piece apart; at most as many as there are sentinels.
  """

  task: str = 'mlm'
  max_items: int = 8
  show: str = 'title'
  corruption_rate: float = 0.15
  span_length: float = 3.0

  requires: ClassVar = frozenset({'titles'})
  wordings: ClassVar = (
    'Restore the text: {history}',
    'Complete the missing words of these purchases: {history}',
  )
  places: ClassVar = ('history',)

  def __post_init__(self):
    super().__post_init__()
    self.check_field(0 < self.corruption_rate < 1, 'must be between 0 and 1', 'corruption_rate')
    self.check_field(self.span_length >= 1, 'must be at least 1', 'span_length')
    self.check_field(self.show == 'title', "must be 'title'", 'show')

  @property
  def text_targets(self) -> bool:
    return True

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.windows(self.max_items))

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    start, size, _ = corpus.windows(self.max_items)[unit]
    items = corpus.train.values[start : start + size]
    tokens, _ = corpus.items(items, 'title', self.title_tokens)
    starts, lengths = self._spans(len(tokens), draw.rng)
    inputs, targets, at = [], [], 0
    for n, (begin, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
      sentinel = corpus.sentinels[n : n + 1]
      inputs += [tokens[at:begin], sentinel]
      targets += [sentinel, tokens[begin : begin + length]]
      at = begin + length
    corrupted = np.concatenate([*inputs, tokens[at:]])
    filled, _ = corpus.prompter.fill(self.prompt(draw), {'history': corrupted})
    return Example(filled, np.concatenate([*targets, corpus.prompter.end]))

  def _spans(self, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where the hidden spans begin and how long they are; the rest lies between them."""
    hidden = min(max(round(self.corruption_rate * length), 1), length - 1)
    count = max(round(hidden / self.span_length), 1)
    count = min(count, SENTINELS, hidden, length - hidden)
    lengths = _parts(hidden, count, rng)
    gaps = _parts(length - hidden + 1, count + 1, rng)  # the first gap may be empty
    gaps[0] -= 1
    starts = np.cumsum(gaps[:-1]) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return starts, lengths


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
  """A random composition of `total` into `count` positive parts."""
  cuts = np.sort(rng.permutation(total - 1)[: count - 1]) + 1
  return np.diff(np.concatenate([[0], cuts, [total]]))
