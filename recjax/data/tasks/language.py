"""Tasks that connect semantic IDs with language: item titles and descriptions of SID tokens."""

import dataclasses
from typing import ClassVar

import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.tasks.base import Component, Draw, Example, HistoryComponent
from recjax.schema.checks import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class TitleToSid(Component):
  """An item's title → its semantic ID. The unit is an item that has a title (or another text).

  Example: inputs  The item called Argan oil shampoo is    targets  <a_7> <b_2> <c_0>

  Published: the alignment stage of IIRG (arXiv 2606.17276; its repository trains only new rows on it), and a task
  of LC-Rec, MiniOneRec and TS-Rec. Ours: the wordings.
  """

  task: str = 'title_to_sid'
  title_tokens: int = setting(64, 'Tokens at which a title is cut.', above=0)

  requires: ClassVar = frozenset({'titles'})
  wordings: ClassVar = (
    'The item called {title} is',
    'Which item has the title {title}?',
    'Identify: {title}',
  )
  places: ClassVar = ('title',)

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.titled_items)

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    item = corpus.titled_items[unit]
    title = corpus.titles(self.title_tokens)[item]
    inputs, starts = corpus.prompter.fill(self.prompt(draw), {'title': title})
    text = (starts['title'], starts['title'] + len(title))
    return Example(inputs, corpus.sid_tokens_IL[item], text=text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SidToTitle(Component):
  """A semantic ID → its item's title. The unit is an item that has a title (or another text).

  Example: inputs  The title of <a_7> <b_2> <c_0> is    targets  Argan oil shampoo <eos>

  Published: a task of LC-Rec, MiniOneRec and TS-Rec. Ours: the wordings.
  """

  task: str = 'sid_to_title'
  title_tokens: int = setting(64, 'Tokens at which a title is cut.', above=0)

  requires: ClassVar = frozenset({'titles'})
  wordings: ClassVar = (
    'The title of {item} is',
    'What is {item} called?',
    'Name this item: {item}',
  )
  places: ClassVar = ('item',)

  @property
  def text_targets(self) -> bool:
    return True

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.titled_items)

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    item = corpus.titled_items[unit]
    title = corpus.titles(self.title_tokens)[item]
    targets = np.concatenate([title, corpus.prompter.end])
    return Example(self._inputs(corpus, self.prompt(draw), item), targets)

  def inference_prompt(self, corpus: Corpus, item: int) -> np.ndarray:
    """Returns the prompt for the title of an item, in the first wording, as int32 tokens."""
    return self._inputs(corpus, self.used_prompts[0], item)

  def _inputs(self, corpus: Corpus, prompt: str, item: int) -> np.ndarray:
    return corpus.prompter.fill(prompt, {'item': corpus.sid_tokens_IL[item]})[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryToTitle(HistoryComponent):
  """History → the title of the next item. The unit is a (user, position) pair of the training part.

  Example: inputs  After <a_7> <b_2> <c_0> comes the item titled    targets  Hair brush <eos>

  If the item has no title, the answer is only the end token.

  Published: a task of MiniOneRec and TS-Rec, from a history of SIDs. Ours: the wordings.
  """

  task: str = 'history_to_title'
  answer_tokens: int = setting(64, 'Tokens at which the answer is cut.', above=0)

  requires: ClassVar = frozenset({'titles'})
  wordings: ClassVar = (
    'A customer bought {history}. The title of the next item is',
    'Purchases: {history}. What is the next one called?',
    'After {history} comes the item titled',
  )
  places: ClassVar = ('history',)

  @property
  def text_targets(self) -> bool:
    return True

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.positions)

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    first, position, _ = corpus.positions[unit]
    values = corpus.train.values
    inputs, at, lengths = self._inputs(corpus, self.prompt(draw), values[first:position])
    title = corpus.titles(self.answer_tokens)[values[position]]
    targets = np.concatenate([title, corpus.prompter.end])
    return Example(inputs, targets, None, at, lengths)

  def inference_prompt(self, corpus: Corpus, items: np.ndarray) -> np.ndarray:
    """Returns the prompt for the title of the item after a history, in the first wording, as int32 tokens.

    Args:
      corpus: the data set.
      items: item indices, oldest first. The last `max_items - 1` are shown.
    """
    return self._inputs(corpus, self.used_prompts[0], np.asarray(items))[0]

  def _inputs(
    self, corpus: Corpus, prompt: str, items: np.ndarray
  ) -> tuple[np.ndarray, int, tuple[int, ...]]:
    """Returns the inputs, the index of the history in them, and the number of tokens of each shown item."""
    shown = items[-(self.max_items - 1) :]
    tokens, lengths = corpus.items(shown, self.show, self.title_tokens)
    inputs, starts = corpus.prompter.fill(prompt, {'history': tokens})
    return inputs, starts['history'], lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenToDescription(Component):
  """One SID token → the description of its items. The unit is a SID token that has a description.

  Example: inputs  Items with <b_9> are    targets  Styling tools with heat control. <eos>

  Published: TS-Align of TS-Rec (arXiv 2602.22632), on the teacher's descriptions. Ours: the wordings.
  """

  task: str = 'token_to_description'
  description_tokens: int = setting(128, 'Tokens at which a description is cut.', above=0)

  requires: ClassVar = frozenset({'keywords'})
  wordings: ClassVar = (
    'What do items with {token} have in common?',
    'Describe the items of {token}:',
    'Items with {token} are',
  )
  places: ClassVar = ('token',)

  @property
  def text_targets(self) -> bool:
    return True

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.descriptions[0])

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    tokens, descriptions = corpus.descriptions
    inputs, _ = corpus.prompter.fill(self.prompt(draw), {'token': tokens[unit : unit + 1]})
    description = descriptions[unit][: self.description_tokens]
    return Example(inputs, np.concatenate([description, corpus.prompter.end]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DescriptionToToken(Component):
  """A description of items → their SID token. The unit is a SID token that has a description.

  Example: inputs  Which token stands for: Styling tools with heat control.    targets  <b_9>

  The targets are padded with unlearnt end tokens to the length of a semantic ID, so that examples pack as densely
  as those of items.

  Published: TS-Align of TS-Rec (arXiv 2602.22632). Ours: the wordings.
  """

  task: str = 'description_to_token'
  description_tokens: int = setting(128, 'Tokens at which a description is cut.', above=0)

  requires: ClassVar = frozenset({'keywords'})
  wordings: ClassVar = (
    'Which token stands for these items: {description}',
    'Find the token of this description: {description}',
    '{description} The token of such items is',
  )
  places: ClassVar = ('description',)

  def num_units(self, corpus: Corpus) -> int:
    return len(corpus.descriptions[0])

  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    tokens, descriptions = corpus.descriptions
    description = descriptions[unit][: self.description_tokens]
    inputs, starts = corpus.prompter.fill(self.prompt(draw), {'description': description})
    L = corpus.sid_tokens_IL.shape[1]
    targets = np.full(L, corpus.prompter.end[0], np.int32)
    targets[0] = tokens[unit]
    text = (starts['description'], starts['description'] + len(description))
    return Example(inputs, targets, np.arange(L) == 0, text=text)
