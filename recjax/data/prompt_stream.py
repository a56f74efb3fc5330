"""The stream of a stage of kind grpo: histories of training sequences, as the prompts of the search, and titles of items.

An example is a (user, position) pair of the training part, so held-out interactions are never targets, or an item with
its title. As in every stream, example n depends on n alone. A row of a batch is one prompt.

The search chooses among the distinct semantic IDs of the catalogue. They are numbered in lexicographic order, as the
leaves of the trie (`recjax.decode.trie`).
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import numpy as np

from recjax.data import mixture as mixture_lib
from recjax.data import packing
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.loader import Stream
from recjax.data.mixture import Mixture
from recjax.data.tasks.base import Component
from recjax.data.tasks.language import TitleToSid
from recjax.data.tasks.next_item import NextItem
from recjax.schema.checks import check
from recjax.schema.stream import Mixing

MOST_EXCLUDED = 512  # seen items of a history that are excluded, the latest

_PROMPT = ('title_tokens', 'gaps', 'events', 'max_items')  # fields that form a prompt


class Pairs(NextItem):
  """next_item with (user, position) pairs as units also for a decoder, in the form that the search shows."""

  @classmethod
  def of(cls, component: NextItem, corpus: Corpus, weight: float) -> 'Pairs':
    """Returns the pairs of a component, in its first wording and without augmentation."""
    fields = {name: getattr(component, name) for name in _PROMPT}
    fields['show'] = component.shown_as(corpus.is_encoder_decoder)
    return cls(**fields, prompts=component.used_prompts[:1], weight=weight)

  def _in_pairs(self, corpus: Corpus) -> bool:
    return True

  def identity(self, corpus: Corpus) -> dict[str, Any]:
    return super().identity(corpus) | {'unit': 'pair'}

  def asked(self, corpus: Corpus, unit: int) -> tuple[int, int, int]:
    """Returns the history of a unit, as the ends of a part of the flat training array, and the item that follows."""
    first, position, _ = corpus.positions[unit]
    return first, position, int(corpus.train.values[position])


class Titles(TitleToSid):
  """title_to_sid as a prompt of the search."""

  @classmethod
  def of(cls, component: TitleToSid, weight: float) -> 'Titles':
    """Returns the titles of a component, in its first wording."""
    return cls(
      title_tokens=component.title_tokens, prompts=component.used_prompts[:1], weight=weight
    )

  def asked(self, corpus: Corpus, unit: int) -> tuple[int, int, int]:
    """Returns an empty history, and the item of a unit; see `Pairs.asked`."""
    return 0, 0, int(corpus.titled_items[unit])

  def max_prompt_length(self, corpus: Corpus) -> int:
    """Returns the length of the longest prompt in tokens."""
    head, _ = corpus.prompter.fill(self.prompts[0], {'title': np.empty(0, np.int32)})
    return len(head) + int(corpus.titles(self.title_tokens).lengths.max())


def mixture(
  components: Mapping[str, Component], mixing: Mixing, corpus: Corpus, seed: int
) -> Mixture:
  """Returns the stream of the prompts of components of the tasks next_item and title_to_sid.

  Every pair of next_item, and every item of title_to_sid, occurs once in an epoch of its component. Beside each other
  the components have the shares of a mixture, by their final weights.

  Raises:
    ValueError: the data lack what a component needs.
  """
  is_alone, asked = len(components) == 1, {}
  for name, component in components.items():
    weight = 1.0 if is_alone else component.final_weight
    is_title = isinstance(component, TitleToSid)
    asked[name] = Titles.of(component, weight) if is_title else Pairs.of(component, corpus, weight)
  return mixture_lib.build(asked, mixing, corpus, seed)


@dataclasses.dataclass(frozen=True)
class Observer:
  """Another model that reads the same histories in its own vocabulary, such as a teacher.

  Attributes:
    corpus: its data.
    component: the form of its prompts.
    items_I: int32, its index of each item of the stream.
  """

  corpus: Corpus
  component: NextItem
  items_I: np.ndarray

  def prompt(self, items: np.ndarray) -> np.ndarray:
    """Returns its prompt for a history of the stream, int32 tokens."""
    return self.component.inference_prompt(self.corpus, self.items_I[items])

  @property
  def max_length(self) -> int:
    """The length of its longest prompt in tokens."""
    return self.component.max_prompt_length(self.corpus)


@dataclasses.dataclass(frozen=True)
class PromptStream(Stream):
  """A stream whose packing groups are single prompts.

  Attributes:
    leaves_I: int32, the semantic ID of each item, by its number.
    excluded: number of semantic IDs that may be excluded for a prompt (E).
    observer: reads the same histories. None: there is none.
  """

  leaves_I: np.ndarray
  excluded: int
  observer: Observer | None = None

  @property
  def description(self) -> str:
    steps = self.mixture.examples_in(1.0) / self.examples_per_batch
    return f'{self.examples_per_batch} prompts a step, {steps:.1f} steps an epoch'

  def group(self, index: int) -> dict[str, np.ndarray]:
    """Returns the arrays of example `index`, each with a first axis of 1.

    Returns:
      int32 `tokens` `[1, S]` and `lengths` `[1]`, the prompt; `target` `[1]`, the semantic ID of the item that follows;
      `excluded` `[1, E]`, semantic IDs that the search must not return, -1 is padding; `dropped` `[1]`, tokens that
      the row has no room for. With an observer `observer_tokens` and `observer_lengths`.
    """
    part, example = self.mixture[index]
    cut = packing.cut_to_row(example, self.plan)
    corpus = self.mixture.corpus
    first, end, item = part.component.asked(corpus, self.mixture.locate(index)[2])
    history = corpus.train.values[first:end]
    room = self.plan.row_length - (0 if corpus.is_encoder_decoder else len(example.targets) - 1)
    arrays = {
      'tokens': _padded(cut.inputs, room),
      'lengths': np.array([len(cut.inputs)], np.int32),
      'target': self.leaves_I[item : item + 1],
      'excluded': _padded(self._seen(first, end), self.excluded, -1),
      'dropped': np.array([len(example.inputs) - len(cut.inputs)], np.int32),
    }
    if self.observer is not None:
      tokens = self.observer.prompt(history)
      arrays['observer_tokens'] = _padded(tokens, self.observer.max_length)
      arrays['observer_lengths'] = np.array([len(tokens)], np.int32)
    return arrays

  def _seen(self, first: int, position: int) -> np.ndarray:
    """Returns the semantic IDs of which the history of a pair has every item, the latest last."""
    if not self.excluded or first == position:
      return np.empty(0, np.int32)
    dataset = self.mixture.corpus.dataset
    history = self.mixture.corpus.train.values[first:position]
    if dataset.target_events is not None:  # an item that was only context may be recommended
      history = history[dataset.target_events[dataset.train_events[first:position]]]
    items = np.unique(history)
    leaves, counts = np.unique(self.leaves_I[items], return_counts=True)
    whole = leaves[counts == self._sizes[leaves]]
    latest = self.leaves_I[history[-self.excluded :]]
    return latest[np.isin(latest, whole)]

  @functools.cached_property
  def _sizes(self) -> np.ndarray:
    return np.bincount(self.leaves_I)


def _padded(values: np.ndarray, size: int, padding: int = 0) -> np.ndarray:
  row = np.full((1, size), padding, np.int32)
  row[0, : len(values)] = values
  return row


def make_stream(
  prompts: Mixture,
  row_length: int,
  batch_size: int,
  exclude_seen: bool,
  start_id: int = 0,
  observer: Observer | None = None,
) -> PromptStream:
  """Returns the stream of batches of prompts.

  Args:
    prompts: of `mixture`.
    row_length: tokens of the longest prompt with its answer; longer histories lose their oldest items.
    batch_size: prompts of a global batch.
    exclude_seen: whether the search leaves out items of the history.
    start_id: the first token that the decoder of an encoder–decoder reads.
    observer: reads the same histories. None: there is none.

  Raises:
    ValueError: a row is too short for a prompt without its history.
  """
  corpus, dataset = prompts.corpus, prompts.corpus.dataset
  space = dataset.vocabulary.space
  L = space.num_levels
  longest = max(part.component.max_prompt_length(corpus) for part in prompts.parts)
  is_pair = corpus.is_encoder_decoder
  plan = packing.Plan(
    examples=1,
    rows=1,
    row_length=min(row_length, longest + (0 if is_pair else L - 1)),
    decoder_row_length=L if is_pair else 0,
    start_id=start_id,
    space=space,
  )
  sample = [example.without_spare() for part in prompts.survey for _, example in part]
  least = max(plan.lengths(example)[0] for example in sample)
  check(
    least <= plan.row_length,
    f'packing.row_length must hold a prompt without its history, and its answer: {least} tokens',
    row_length,
    'packing.row_length',
  )
  longest = int(corpus.train.lengths.max(initial=1))
  excluded = min(1 << (longest - 1).bit_length(), MOST_EXCLUDED) if exclude_seen else 0
  return PromptStream(prompts, plan, batch_size, leaves(dataset)[1], excluded, observer)


def leaves(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
  """Returns the distinct semantic IDs in lexicographic order, int32 `[S, L]`, and the number of each item's, int32 `[I]`."""
  of_item_I = dataset.sids.sid_I.astype(np.int32)
  _, first_S = np.unique(of_item_I, return_index=True)
  return dataset.sids.codes_IL[first_S], of_item_I
