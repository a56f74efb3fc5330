"""Tasks of relations between items: an item → its neighbours, in order."""

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from recjax.data.corpus import SHOWN, Corpus
from recjax.data.sequences import Sequences
from recjax.data.tasks.answers import ItemAnswer
from recjax.data.tasks.base import Draw, Example
from recjax.schema.checks import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Neighbours(ItemAnswer):
  """Base class: an item → its first k neighbours. The unit is an item with neighbours. `learn`: see `ItemAnswer`.

  With `shuffle_seed` the lists of neighbours change owners: the examples, their number and their answers stay the same,
  but no item gets its own list. This is a control. It shows how much of a gain comes from further examples alone.
  """

  k: int = setting(5, 'Neighbours in the answer.', above=0)
  show: str = setting('sid', 'How the item is shown.', one_of=SHOWN)
  title_tokens: int = setting(32, 'Tokens at which a title is cut.', above=0)
  shuffle_seed: int | None = setting(
    None,
    'A control: every item answers with the list of another item, drawn with this seed. None: with its own.',
    at_least=0,
  )

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

  def identity(self, corpus: Corpus) -> dict[str, Any]:
    fields = super().identity(corpus)
    if self.shuffle_seed is None:  # a field that earlier versions lacked
      del fields['shuffle_seed']
    return fields

  def check_corpus(self, corpus: Corpus) -> None:
    corpus.check_room(self.k + 1, f'{self.prefix}k', self.k)
    self.check_field(
      self.shuffle_seed is None or self.num_units(corpus) > 1,
      'must be None for fewer than two items with neighbours',
      'shuffle_seed',
    )
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
    inputs, starts = self.fill(corpus, self.prompt(draw), {'item': shown})
    neighbours = self.relation(corpus)[self._owner(corpus, unit)][: self.k]
    targets, learnt = self.answer(corpus, neighbours)
    end = starts['item'] + lengths[0]
    text = (end, end)
    if self.show != 'sid':  # the separator after the title stays
      text = (end - 1 - len(corpus.titles(self.title_tokens)[item]), end - 1)
    return Example(inputs, targets, learnt, text=text)

  def _owner(self, corpus: Corpus, unit: int) -> int:
    """Returns the item whose list is the answer of a unit."""
    items = corpus.related_items(self._name)
    if self.shuffle_seed is None:
      return items[unit]
    return items[_successors(self.shuffle_seed, len(items))[unit]]


@functools.lru_cache(maxsize=8)
def _successors(seed: int, size: int) -> np.ndarray:
  """Returns a random cycle through all of 0 … size - 1: the successor of every number, int64 `[size]`."""
  order = np.random.default_rng(seed).permutation(size)
  successors = np.empty(size, np.int64)
  successors[order] = np.roll(order, -1)
  return successors


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
  marker: ClassVar = '<sentinel_2>'


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
  marker: ClassVar = '<sentinel_3>'
