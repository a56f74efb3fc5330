"""Choosing between items: ranking candidates, the liked one of two, and ratings."""

import dataclasses
from typing import ClassVar

import numpy as np

from recjax.data.corpus import NEGATIVES, Corpus
from recjax.data.tasks.base import Draw, Example, HistoryComponent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking(HistoryComponent):
  """History and candidates → the best candidate, or all in order.

  The unit is a (user, position) pair of the training part: the item there and `candidates - 1` others that
  the user does not have in training, in random order.

  Example, 3 candidates: inputs  A customer bought <a_7> <b_2> <c_0>. Which of <a_1> <b_1> <c_0> <a_3> <b_9>
  <c_0> <a_4> <b_0> <c_0> comes next?    targets  <a_3> <b_9> <c_0>

  Published: that the task is trained (Cao et al., arXiv 2404.00245); the number of candidates and how they are
  drawn are not known. Ours: both, and with `answer='order'` the true item first and then the others, the
  more popular in training first.
  """

  task: str = 'ranking'
  candidates: int = 10
  negatives: str = 'popularity'  # popularity | uniform: how the others are drawn
  answer: str = 'best'  # best | order

  wordings: ClassVar = (
    'A customer bought {history}. Which of these comes next: {candidates}',
    'Purchases: {history}. Choose the next one among {candidates}',
    'After {history}, which is the most likely of {candidates}',
  )
  places: ClassVar = ('history', 'candidates')

  def __post_init__(self):
    super().__post_init__()
    self.check_field(self.candidates >= 2, 'must be at least 2', 'candidates')
    self.check_choice('negatives', NEGATIVES)
    self.check_choice('answer', ('best', 'order'))

  def check_corpus(self, corpus: Corpus) -> None:
    longest = int(corpus.train.lengths.max(initial=0))
    corpus.check_room(
      self.candidates - 1 + longest, 'mixture.<ranking>.candidates', self.candidates
    )

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.positions)

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    first, position, end = corpus.positions[unit]
    values = corpus.train.values
    history = values[max(position - self.max_items + 1, first) : position]
    others = corpus.negatives(draw.rng, values[first:end], self.candidates - 1, self.negatives)
    candidates = np.concatenate([values[position : position + 1], others])
    answer = candidates[:1]
    if self.answer == 'order':
      answer = np.concatenate([answer, corpus.by_popularity(others)])
    shuffled = candidates[draw.rng.permutation(self.candidates)]
    return history_example(self, corpus, draw, history, answer, candidates=shuffled)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bpr(HistoryComponent):
  """History, a liked and a not-liked item in random order → the liked one.

  The unit is a (user, position) pair of the training part. Where there are ratings, the item there is set
  against another item of the user with another rating, and the higher one is liked; both are left out of the
  history. Otherwise, or where the user rated all alike, the item there is liked and one that the user does not have
  in training is not.

  Example: inputs  Purchases <a_7> <b_2> <c_0>. Preferred: <a_4> <b_0> <c_0> or <a_3> <b_9> <c_0>
  targets  <a_3> <b_9> <c_0>

  Published: the natural-language form of the BPR objective (Rendle et al., UAI 2009) as a task (Cao et al., arXiv
  2404.00245); how the not-liked item is drawn is not known. Ours: the rule above.
  """

  task: str = 'bpr'
  negatives: str = 'uniform'  # uniform | popularity: how an unseen item is drawn

  wordings: ClassVar = (
    'Purchases: {history}. Which one is preferred: {candidates}',
    'A customer with the history {history} likes one of these more: {candidates}',
    'Given {history}, choose the better of {candidates}',
  )
  places: ClassVar = ('history', 'candidates')

  def __post_init__(self):
    super().__post_init__()
    self.check_choice('negatives', NEGATIVES)

  def check_corpus(self, corpus: Corpus) -> None:
    corpus.check_room(1 + int(corpus.train.lengths.max(initial=0)), 'mixture.<bpr>.weight', 1)

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.positions)

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    first, position, end = corpus.positions[unit]
    values = corpus.train.values
    liked, other = position, self._rated_otherwise(corpus, first, position, end, draw)
    if other is None:
      unseen = corpus.negatives(draw.rng, values[first:end], 1, self.negatives)
      pair = np.concatenate([values[position : position + 1], unseen])
    else:
      ratings = corpus.dataset.train_ratings
      liked, other = sorted((position, other), key=lambda at: -ratings[at])
      pair = values[[liked, other]]
    before = values[first:position]
    history = before[~np.isin(before, pair)][-(self.max_items - 1) :]
    shown = pair[::-1] if draw.rng.random() < 0.5 else pair
    return history_example(self, corpus, draw, history, pair[:1], candidates=shown)

  @staticmethod
  def _rated_otherwise(
    corpus: Corpus, first: int, position: int, end: int, draw: Draw
  ) -> int | None:
    """Another place of the user with another item and another rating, None where there is none."""
    if corpus.dataset.train_ratings is None:
      return None
    ratings = np.asarray(corpus.dataset.train_ratings[first:end])
    items = np.asarray(corpus.train.values[first:end])
    here = position - first
    places = np.flatnonzero((ratings != ratings[here]) & (items != items[here]))
    return first + int(draw.rng.choice(places)) if len(places) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rating(HistoryComponent):
  """History with ratings, and an item → the rating that the user gave it.

  The unit is a (user, position) pair of the training part. Ratings are said as numbers: 4, 3.5.

  Example: inputs  Ratings so far: <a_7> <b_2> <c_0> 5 <a_3> <b_9> <c_0> 2 . Rate <a_7> <b_1> <c_1>
  targets  4 <eos>

  Published: that the task is trained (Cao et al., arXiv 2404.00245). Ours: the form.
  """

  task: str = 'rating'

  requires: ClassVar = frozenset({'ratings'})
  wordings: ClassVar = (
    'Ratings so far: {history}. The rating of {item} is',
    'A customer rated {history}. Predict the rating of {item}:',
    'Known ratings: {history}. How many stars for {item}?',
  )
  places: ClassVar = ('history', 'item')

  @property
  def text_targets(self) -> bool:
    return True

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.positions)

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    first, position, _ = corpus.positions[unit]
    prompter, ratings = corpus.prompter, corpus.dataset.train_ratings
    start = max(position - self.max_items + 1, first)
    parts = []
    for at in range(start, position):
      tokens, _ = corpus.items(corpus.train.values[at : at + 1], self.show, self.title_tokens)
      parts.append(np.concatenate([tokens, prompter.text(f'{ratings[at]:g}')]))
    item, _ = corpus.items(
      corpus.train.values[position : position + 1], self.show, self.title_tokens
    )
    pieces = {'history': np.concatenate(parts), 'item': item}
    inputs, starts = prompter.fill(self.prompt(draw), pieces)
    targets = np.concatenate([prompter.text(f'{ratings[position]:g}'), prompter.end])
    return Example(inputs, targets, None, starts['history'], tuple(map(len, parts)))


def history_example(
  component: HistoryComponent,
  corpus: Corpus,
  draw: Draw,
  history: np.ndarray,
  answer: np.ndarray,
  **places: np.ndarray,
) -> Example:
  """An example of a history and other items in the prompt, and semantic IDs as the answer.

  Args:
    component: for its wordings and for what items are shown as.
    corpus: the data set.
    draw: chooses the wording.
    history: item indices, which overflow may forget.
    answer: item indices.
    **places: item indices for the other places of the prompt.
  """
  show, title_tokens = component.show, component.title_tokens
  tokens, lengths = corpus.items(history, show, title_tokens)
  pieces = {name: corpus.items(items, show, title_tokens)[0] for name, items in places.items()}
  inputs, starts = corpus.prompter.fill(component.prompt(draw), {'history': tokens, **pieces})
  targets = corpus.sid_tokens_IL[answer].ravel()
  return Example(inputs, targets, None, starts['history'], lengths)
