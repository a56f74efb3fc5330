"""Answers that list items: semantic IDs alone, or item lines of a semantic ID and a title."""

import abc
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.sequences import offsets_of
from recjax.data.tasks.base import Component
from recjax.schema.checks import setting

LEARNT = ('sid', 'title', 'both')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemAnswer(Component):
  """Base class of tasks whose answer is a list of items. A subclass has `title_tokens`.

  With `learn='both'` every item of the answer is an item line: its semantic ID, its title and `<separator>`, all
  learnt. With `learn='title'` the answer is the same, but only titles and separators are learnt. The line of an item
  without a title has its semantic ID and the separator. A list of lines ends with the format's end tokens, which are
  learnt. Titles are cut after `title_tokens` tokens. Interactions that are context are not learnt at all.

  Example, learn='both': targets  <a_3> <b_9> <c_0> Hair brush <separator> <eos>

  Published: SID and title of every item of an answer, both in the loss (IIRG, arXiv 2606.17276, `sid_based/step6`
  of its repository); masked items as id and title (Cao et al., arXiv 2404.00245). Ours: the form of a line.
  """

  learn: str = setting(
    'sid',
    'Learnt tokens of the items in answers; with title and both, answers have SIDs and titles.',
    one_of=LEARNT,
  )

  @property
  def text_targets(self) -> bool:
    return self.learn != 'sid'

  @property
  def needs(self) -> frozenset[str]:
    return super().needs | (frozenset() if self.learn == 'sid' else {'titles'})

  def identity(self, corpus: Corpus) -> dict[str, Any]:
    fields = super().identity(corpus)
    if self.learn == 'sid':  # earlier versions lacked the field
      del fields['learn']
    return fields

  def answer(self, corpus: Corpus, items: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the tokens of a list of items as an answer, and the mask of learnt ones (None: all)."""
    if self.learn == 'sid':
      return corpus.sid_tokens_IL[items].ravel(), None
    lines, lengths = corpus.items(items, 'both', self.title_tokens)
    tokens = np.concatenate([lines, corpus.prompter.end])
    learnt = np.ones(len(tokens), bool)
    learnt[: len(lines)] = self.is_learnt(corpus, lengths, lengths)
    return tokens, None if self.learn == 'both' else learnt

  def is_learnt(self, corpus: Corpus, lines: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
    """Returns the mask of learnt tokens of items, bool `[sum of lengths]`.

    Args:
      corpus: the data set.
      lines: the number of tokens of each item that may be learnt: its SID, or its line.
      lengths: the number of tokens of each item. Those after its line are not learnt.
    """
    lengths = np.array(lengths, np.int64)
    places = np.arange(lengths.sum()) - np.repeat(offsets_of(lengths)[:-1], lengths)
    is_sid = places < corpus.sid_tokens_IL.shape[1]
    is_title = ~is_sid & (places < np.repeat(lines, lengths))
    return {'sid': is_sid, 'title': is_title, 'both': is_sid | is_title}[self.learn]

  def longest_answer(self, corpus: Corpus) -> int:
    if self.learn == 'sid':
      return 0
    return self.longest_lines(corpus, corpus.shown('both', self.title_tokens).lengths)

  @abc.abstractmethod
  def longest_lines(self, corpus: Corpus, lines_I: np.ndarray) -> int:
    """Returns a bound on the tokens of an answer, given the number of tokens of each item's line."""
