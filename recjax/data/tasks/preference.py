"""Preference tasks: ranking of candidates, the liked one of two items (BPR), ratings."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from recjax.data.corpus import NEGATIVES, Corpus
from recjax.data.tasks.base import Draw, Example, HistoryComponent
from recjax.data.units import Likes, Positions, most_items
from recjax.schema.checks import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking(HistoryComponent):
  """History and candidates → the best candidate, or all in order.

  The unit is a (user, position) pair of the training part. The candidates are the item at the position and
  `candidates - 1` items that the user does not have in training, in random order. With `answer='order'` the
  answer is the item at the position, then the others by descending popularity in training.

  Example, 3 candidates: inputs  A customer bought <a_7> <b_2> <c_0>. Which of <a_1> <b_1> <c_0> <a_3> <b_9>
  <c_0> <a_4> <b_0> <c_0> comes next?    targets  <a_3> <b_9> <c_0>

  Published: training on the task (Cao et al., arXiv 2404.00245); the number of candidates and how they are drawn
  are not known. Ours: both, and the order.
  """

  task: str = 'ranking'
  candidates: int = setting(10, 'Items to choose from.', at_least=2)
  negatives: str = setting('popularity', 'How the other candidates are drawn.', one_of=NEGATIVES)
  answer: str = setting('best', 'The best candidate, or all in order.', one_of=('best', 'order'))

  wordings: ClassVar = (
    'A customer bought {history}. Which of these comes next: {candidates}',
    'Purchases: {history}. Choose the next one among {candidates}',
    'After {history}, which is the most likely of {candidates}',
  )
  places: ClassVar = ('history', 'candidates')
  marker: ClassVar = '<sentinel_4>'

  def check_corpus(self, corpus: Corpus) -> None:
    corpus.check_room(
      self.candidates - 1 + most_items(corpus.train), f'{self.prefix}candidates', self.candidates
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

  def inference_prompt(
    self, corpus: Corpus, items: np.ndarray, candidates: np.ndarray
  ) -> np.ndarray:
    """Returns the prompt that asks for the best candidate, in the first wording, as int32 tokens.

    Args:
      corpus: the data set.
      items: item indices of the history, oldest first. The last `max_items - 1` are shown.
      candidates: item indices, in the order in which they are shown.
    """
    recent = np.asarray(items)[-(self.max_items - 1) :]
    prompt = self.used_prompts[0]
    return history_inputs(self, corpus, prompt, recent, candidates=candidates)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bpr(HistoryComponent):
  """History, and a liked and another item in random order → the liked item.

  With `pairs='unseen'` the unit is a (user, position) pair of the training part. The item at the position is
  liked; the other item is one that the user does not have in training.

  With `pairs='ratings'` the unit is a (user, position) pair whose item the user rated `liked_from` or higher.
  The other item is one that the same user rated lower. Users without both kinds of items have no unit.
  Interactions without a rating are neither liked nor the other item.

  The history is the user's items before the position, without the pair.

  Example: inputs  Purchases <a_7> <b_2> <c_0>. Preferred: <a_4> <b_0> <c_0> or <a_3> <b_9> <c_0>
  targets  <a_3> <b_9> <c_0>

  Published: the natural-language form of the BPR objective (Rendle et al., UAI 2009) as a task (Cao et al., arXiv
  2404.00245); how the other item is drawn is not known. Ours: both ways of drawing it.
  """

  task: str = 'bpr'
  pairs: str = setting(
    'unseen',
    'The other item: one that the user does not have, or one that the user rated lower.',
    one_of=('unseen', 'ratings'),
  )
  negatives: str = setting(
    'uniform', "With pairs='unseen': how the other item is drawn.", one_of=NEGATIVES
  )
  liked_from: float = setting(4.0, "With pairs='ratings': the lowest rating of a liked item.")

  wordings: ClassVar = (
    'Purchases: {history}. Which one is preferred: {candidates}',
    'A customer with the history {history} likes one of these more: {candidates}',
    'Given {history}, choose the better of {candidates}',
  )
  places: ClassVar = ('history', 'candidates')
  marker: ClassVar = '<sentinel_1>'

  @property
  def needs(self) -> frozenset[str]:
    return super().needs | ({'ratings'} if self.pairs == 'ratings' else frozenset())

  def identity(self, corpus: Corpus) -> dict[str, Any]:
    # Before these fields existed, logs without ratings had pairs='unseen'. Leaving the fields out keeps the
    # fingerprint of such streams.
    fields = super().identity(corpus)
    new = () if 'ratings' not in corpus.lacks(frozenset({'ratings'})) else ('pairs', 'liked_from')
    return {name: value for name, value in fields.items() if name not in new}

  def check_corpus(self, corpus: Corpus) -> None:
    if self.pairs == 'unseen':
      corpus.check_room(1 + most_items(corpus.train), f'{self.prefix}weight', 1)
      return
    self.check_field(
      len(corpus.likes(self.liked_from)) > 0,
      'must leave a user who rated one item at least that high and another item lower',
      'liked_from',
    )

  def num_units(self, corpus: Corpus) -> int:
    return len(self._units(corpus))

  def _units(self, corpus: Corpus) -> Positions | Likes:
    return corpus.positions if self.pairs == 'unseen' else corpus.likes(self.liked_from)

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    first, position, end = self._units(corpus)[unit]
    values = corpus.train.values
    liked = values[position : position + 1]
    if self.pairs == 'unseen':
      other = corpus.negatives(draw.rng, values[first:end], 1, self.negatives)
    else:
      ratings = corpus.dataset.train_ratings[first:end]
      disliked = (ratings < self.liked_from) & (values[first:end] != liked)
      other = draw.rng.choice(values[first:end][disliked], 1)
    pair = np.concatenate([liked, other])
    before = values[first:position]
    history = before[~np.isin(before, pair)][-(self.max_items - 1) :]
    shown = pair[::-1] if draw.rng.random() < 0.5 else pair
    return history_example(self, corpus, draw, history, liked, candidates=shown)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rating(HistoryComponent):
  """History with ratings, and an item → the user's rating of it.

  The unit is a (user, position) pair of the training part with a rating. Ratings are written as numbers: 4, 3.5.
  Items of the history without a rating are shown without a number.

  Example: inputs  Ratings so far: <a_7> <b_2> <c_0> 5 <a_3> <b_9> <c_0> 2 . Rate <a_7> <b_1> <c_1>
  targets  4 <eos>

  Published: training on the task (Cao et al., arXiv 2404.00245). Ours: the form.
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
    return len(corpus.rated_positions)

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    first, position, _ = corpus.rated_positions[unit]
    values, ratings = corpus.train.values, corpus.dataset.train_ratings
    start = max(position - self.max_items + 1, first)
    inputs, at, lengths = self._inputs(
      corpus, self.prompt(draw), values[start:position], ratings[start:position], values[position]
    )
    return Example(inputs, self.answer(corpus, ratings[position]), None, at, lengths)

  def answer(self, corpus: Corpus, rating: float) -> np.ndarray:
    """Returns the tokens of a rating as an answer, with the end of the answer."""
    prompter = corpus.prompter
    return np.concatenate([prompter.text(number(rating)), prompter.end])

  def inference_prompt(
    self, corpus: Corpus, items: np.ndarray, ratings: np.ndarray, item: int
  ) -> np.ndarray:
    """Returns the prompt that asks for a user's rating of an item, in the first wording, as int32 tokens.

    Args:
      corpus: the data set.
      items: item indices of the history, oldest first. The last `max_items - 1` are shown.
      ratings: their ratings; NaN: none.
      item: index of the item to rate.
    """
    recent = slice(-(self.max_items - 1), None)
    prompt = self.used_prompts[0]
    return self._inputs(corpus, prompt, np.asarray(items)[recent], ratings[recent], item)[0]

  def _inputs(
    self, corpus: Corpus, prompt: str, items: np.ndarray, ratings: np.ndarray, item: int
  ) -> tuple[np.ndarray, int, tuple[int, ...]]:
    """Returns the inputs, the index of the history in them, and the tokens of each item of the history."""
    prompter = corpus.prompter
    parts = []
    for at, rating in enumerate(ratings.tolist()):
      tokens, _ = corpus.items(items[at : at + 1], self.show, self.title_tokens)
      known = [] if np.isnan(rating) else [prompter.text(number(rating))]
      parts.append(np.concatenate([tokens, *known]))
    rated, _ = corpus.items(np.array([item]), self.show, self.title_tokens)
    history = np.concatenate([rated[:0], *parts])
    inputs, starts = prompter.fill(prompt, {'history': history, 'item': rated})
    return inputs, starts['history'], tuple(map(len, parts))


def number(rating: float) -> str:
  """Returns a rating as a prompt shows it: 4, 3.5."""
  return f'{rating:g}'


def history_example(
  component: HistoryComponent,
  corpus: Corpus,
  draw: Draw,
  history: np.ndarray,
  answer: np.ndarray,
  **places: np.ndarray,
) -> Example:
  """Returns an example with a history and other items in the prompt, and semantic IDs as the answer.

  Args:
    component: gives the wordings and how items are shown.
    corpus: the data set.
    draw: chooses the wording.
    history: item indices. Packing may remove the oldest.
    answer: item indices.
    **places: item indices for the other placeholders of the prompt.
  """
  inputs, at, lengths = history_inputs(component, corpus, component.prompt(draw), history, **places)
  return Example(inputs, corpus.sid_tokens_IL[answer].ravel(), None, at, lengths)


def history_inputs(
  component: HistoryComponent,
  corpus: Corpus,
  prompt: str,
  history: np.ndarray,
  **places: np.ndarray,
) -> tuple[np.ndarray, int, tuple[int, ...]]:
  """Returns the inputs of `history_example` in one wording, the index of the history in them, and its lengths."""
  show, title_tokens = component.show, component.title_tokens
  tokens, lengths = corpus.items(history, show, title_tokens)
  shown = {name: corpus.items(items, show, title_tokens)[0] for name, items in places.items()}
  inputs, starts = component.fill(corpus, prompt, {'history': tokens, **shown})
  return inputs, starts['history'], lengths
