"""Masked tasks: masked items of a sequence (MIM), and masked spans of its text (MLM)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.sequences import offsets_of
from recjax.data.tasks.answers import ItemAnswer
from recjax.data.tasks.base import Draw, Example, HistoryComponent
from recjax.data.vocabulary import SENTINELS
from recjax.schema.checks import setting

MASKED = -1  # stands for an item in a history whose item is to be found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mim(ItemAnswer, HistoryComponent):
  """History with some items masked → the masked items, in order.

  The unit is a window of a user's training sequence (see `recjax.data.units.Windows`). `<mask>` replaces the
  share `mask_share` of its items that may be targets, at least one. Packing can remove only items before the first
  masked one. For a model of items alone, `<mask>` is repeated once for every code of an item.

  Example: inputs  Fill in: <a_7> <b_2> <c_0> <mask> <a_7> <b_1> <c_1>    targets  <a_3> <b_9> <c_0>

  Published: masked items of a purchase sequence as a task in natural language (Cao et al., arXiv 2404.00245); the
  share is not known. Ours: the share.
  """

  task: str = 'mim'
  mask_share: float = setting(0.3, 'Share of a window that is masked.', above=0, below=1)

  wordings: ClassVar = (
    'Fill in the missing purchases: {history}',
    'Some items of this history are hidden: {history}. They are',
    'Which items were masked in {history}',
  )
  places: ClassVar = ('history',)
  marker: ClassVar = '<sentinel_0>'

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.windows(self.max_items))

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    start, size, _ = corpus.windows(self.max_items)[unit]
    items = corpus.train.values[start : start + size]
    maskable = np.flatnonzero(corpus.is_target(start, size))
    count = min(self._count(len(maskable)), size - 1)
    masked = np.sort(maskable[draw.rng.permutation(len(maskable))[:count]])
    inputs, at, lengths = self._inputs(corpus, self.prompt(draw), items, masked)
    targets, learnt = self.answer(corpus, items[masked])
    return Example(inputs, targets, learnt, at, lengths[: masked[0]])

  def _count(self, maskable: int) -> int:
    """Returns the number of masked items of so many that may be masked."""
    return max(round(self.mask_share * maskable), 1)

  def longest_lines(self, corpus: Corpus, lines_I: np.ndarray) -> int:
    return self._count(self.max_items) * int(lines_I.max()) + len(corpus.prompter.end)

  def inference_prompt(
    self,
    corpus: Corpus,
    items: np.ndarray,
    times: np.ndarray | None = None,
    events: np.ndarray | None = None,
  ) -> np.ndarray:
    """Returns the search's prompt for one masked item, in the first wording, as int32 tokens.

    Args:
      corpus: the data set.
      items: item indices, oldest first; MASKED stands for the masked item, once. The last `max_items` are shown.
      times: not shown.
      events: not shown.

    Raises:
      ValueError: not exactly one of the shown items is masked.
    """
    del times, events
    shown = np.asarray(items)[-self.max_items :]
    masked = np.flatnonzero(shown == MASKED)
    if len(masked) != 1:
      raise ValueError(
        f'one of the last {self.max_items} items must be masked; got {len(masked)} masked ones'
      )
    shown = np.maximum(shown, 0)  # any item: the mask replaces its tokens
    return self._inputs(corpus, self.used_prompts[0], shown, masked)[0]

  def max_prompt_length(self, corpus: Corpus) -> int:
    """Returns the length of the longest inference prompt in tokens."""
    longest = int(corpus.shown(self.show, self.title_tokens).lengths.max())
    nothing = {'history': corpus.mask}
    head, _ = self.fill(corpus, self.used_prompts[0], nothing)
    return len(head) + (self.max_items - 1) * longest

  def _inputs(
    self, corpus: Corpus, prompt: str, items: np.ndarray, masked: np.ndarray
  ) -> tuple[np.ndarray, int, tuple[int, ...]]:
    """Returns the inputs, the index of the history in them, and the number of tokens of each unmasked item."""
    tokens, lengths = corpus.items(items, self.show, self.title_tokens)
    ends = np.cumsum(lengths)
    parts, at = [], 0
    for place in masked.tolist():
      parts += [tokens[at : ends[place] - lengths[place]], corpus.mask]
      at = ends[place]
    history = np.concatenate([*parts, tokens[at:]])
    inputs, starts = self.fill(corpus, prompt, {'history': history})
    return inputs, starts['history'], lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlm(HistoryComponent):
  """Span corruption over the titles of a history, or over its semantic IDs and titles.

  The unit is a window of a user's training sequence. A sentinel replaces each hidden span. The spans hold the
  share `corruption_rate` of the tokens and have `span_length` tokens on average. The answer is each sentinel
  followed by its span. With `show='both'` spans may hide parts of semantic IDs, and go over the end of one.

  With `sentinels='own'` both kinds of backbone use our own special tokens. With `sentinels='t5'` an encoder–decoder
  uses `<extra_id_0>`, … of its tokenizer (our own if it has none), and one more follows the last span, as in T5's
  training. A decoder uses our own tokens, and the end of the answer follows the last span.

  Example: inputs  Restore: dry hair <sentinel_0> <separator> argan oil    targets  <sentinel_0> shampoo <eos>
  With show='both', sentinels='t5': inputs  Restore: <a_7> <extra_id_0> dry hair shampoo <extra_id_1> <b_9> <c_0>
  argan oil <separator> <eos>    targets  <extra_id_0> <b_2> <c_0> <extra_id_1> <separator> <a_3> <extra_id_2> <eos>

  Published: T5's objective (Raffel et al., JMLR 2020, section 3.1.4: 15 %, spans of 3 on average) over the text
  of a purchase sequence of ids and titles (Cao et al., arXiv 2404.00245, rate and length not known). Ours: T5's rate
  and length; spans are at random places and at least one token apart; there are at most as many spans as sentinels.
  """

  task: str = 'mlm'
  max_items: int = setting(8, 'Items of a window.', at_least=2)
  show: str = setting('title', 'How items of a history are shown.', one_of=('title', 'both'))
  corruption_rate: float = setting(0.15, 'Share of the tokens that is hidden.', above=0, below=1)
  span_length: float = setting(3.0, 'Mean tokens of a hidden span.', at_least=1)
  sentinels: str = setting(
    'own',
    "Tokens that replace spans; t5: those of an encoder–decoder's tokenizer.",
    one_of=('own', 't5'),
  )

  requires: ClassVar = frozenset({'titles'})
  wordings: ClassVar = (
    'Restore the text: {history}',
    'Complete the missing words of these purchases: {history}',
  )
  places: ClassVar = ('history',)

  @property
  def text_targets(self) -> bool:
    return True

  def identity(self, corpus: Corpus) -> dict[str, Any]:
    fields = super().identity(corpus)
    if self.sentinels == 'own':  # earlier versions lacked the field
      del fields['sentinels']
    return fields

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.windows(self.max_items))

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    start, size, _ = corpus.windows(self.max_items)[unit]
    items = corpus.train.values[start : start + size]
    tokens, _ = corpus.items(items, self.show, self.title_tokens)
    has_last = self.sentinels == 't5' and corpus.is_encoder_decoder
    sentinels = corpus.t5_sentinels if has_last else corpus.sentinels
    starts, lengths = self._spans(len(tokens), draw.rng, len(sentinels) - has_last)
    inputs, targets, at = [], [], 0
    for n, (begin, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
      sentinel = sentinels[n : n + 1]
      inputs += [tokens[at:begin], sentinel]
      targets += [sentinel, tokens[begin : begin + length]]
      at = begin + length
    corrupted = np.concatenate([*inputs, tokens[at:]])
    filled, _ = corpus.prompter.fill(self.prompt(draw), {'history': corrupted})
    last = sentinels[len(starts) : len(starts) + has_last]
    return Example(filled, np.concatenate([*targets, last, corpus.prompter.end]))

  def _spans(
    self, length: int, rng: np.random.Generator, most: int = SENTINELS
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns starts and lengths of at most `most` random hidden spans in a text of `length` tokens."""
    hidden = min(max(round(self.corruption_rate * length), 1), length - 1)
    count = max(round(hidden / self.span_length), 1)
    count = min(count, most, hidden, length - hidden)
    lengths = _parts(hidden, count, rng)
    gaps = _parts(length - hidden + 1, count + 1, rng)  # the first gap may be empty
    gaps[0] -= 1
    starts = np.cumsum(gaps[:-1]) + offsets_of(lengths)[:-1]
    return starts, lengths


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
  """Returns a random composition of `total` into `count` positive parts."""
  cuts = np.sort(rng.permutation(total - 1)[: count - 1]) + 1
  return np.diff(np.concatenate([[0], cuts, [total]]))
