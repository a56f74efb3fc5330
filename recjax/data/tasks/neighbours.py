"""Tasks of relations between items: an item → its neighbours, in order."""

import dataclasses
from typing import ClassVar

import numpy as np

from recjax.data.corpus import SHOWN, Corpus
from recjax.data.sequences import Sequences
from recjax.data.tasks.answers import ItemAnswer
from recjax.data.tasks.base import Draw, Example
from recjax.schema.checks import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Neighbours(ItemAnswer):
  """Base class: an item → its first k neighbours. The unit is an item with neighbours. `learn`: see `ItemAnswer`."""

  k: int = setting(5, 'Neighbours in the answer.', above=0)
  show: str = setting('sid', 'How the item is shown.', one_of=SHOWN)
  title_tokens: int = setting(32, 'Tokens at which a title is cut.', above=0)

  places: ClassVar = ('item',)

  @property
  def needs(self) -> frozenset[str]:
    return super().needs | ({'titles'} if self.show != 'sid' else frozenset())

  def relation(self, corpus: Corpus) -> Sequences:
    """Returns the neighbours of every item."""
    return getattr(corpus.dataset, self._name)

  @property
  def _name(self) -> str:
    return self.task.removesuffix('_neighbours')

  def check_corpus(self, corpus: Corpus) -> None:
    corpus.check_room(self.k + 1, f'{self.prefix}k', self.k)
    longest = int(self.relation(corpus).lengths.max(initial=0))
    self.check_field(
      self.k <= longest,
      f'must be at most the longest prepared list ({longest}; relations.top_k)',
      'k',
    )

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.related_items(self._name))

  def longest_lines(self, corpus: Corpus, lines_I: np.ndarray) -> int:
    lists = self.relation(corpus).cut(self.k)
    totals = np.append(0, np.cumsum(lines_I[lists.values]))
    return int(np.diff(totals[lists.offsets]).max(initial=0)) + len(corpus.prompter.end)

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    item = corpus.related_items(self._name)[unit]
    shown, lengths = corpus.items(np.array([item]), self.show, self.title_tokens)
    inputs, starts = corpus.prompter.fill(self.prompt(draw), {'item': shown})
    targets, learnt = self.answer(corpus, self.relation(corpus)[item][: self.k])
    end = starts['item'] + lengths[0]
    text = (end, end)
    if self.show != 'sid':  # the separator after the title stays
      text = (end - 1 - len(corpus.titles(self.title_tokens)[item]), end - 1)
    return Example(inputs, targets, learnt, text=text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollaborativeNeighbours(_Neighbours):
  """An item → its k strongest co-occurring items, in order.

  The unit is an item that has such neighbours (see the `relations` section of the config).

  Example, k = 2: inputs  Bought together with <a_7> <b_2> <c_0>:    targets  <a_3> <b_9> <c_0> <a_7> <b_1> <c_1>

  Published: the task, its order and k = 5 (IIRG, arXiv 2606.17276), with a loss weight λ1 (here `loss_weight`)
  of unknown value. Ours: the wordings.
  """

  task: str = 'collaborative_neighbours'

  requires: ClassVar = frozenset({'collaborative'})
  wordings: ClassVar = (
    'Items often bought together with {item}, most often first:',
    'Which items do customers of {item} buy as well?',
    'Strongest companions of {item}:',
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticNeighbours(_Neighbours):
  """An item → its k nearest items by text, in order.

  The unit is an item that has such neighbours.

  Example, k = 2: inputs  Similar to <a_7> <b_2> <c_0>:    targets  <a_7> <b_2> <c_1> <a_7> <b_5> <c_0>

  Published: the task, its order and k = 5 (IIRG, arXiv 2606.17276), with a loss weight λ2 (here `loss_weight`)
  of unknown value. Ours: the wordings.
  """

  task: str = 'semantic_neighbours'

  requires: ClassVar = frozenset({'semantic'})
  wordings: ClassVar = (
    'Items most similar to {item}, nearest first:',
    'Which items resemble {item}?',
    'Close alternatives of {item}:',
  )
