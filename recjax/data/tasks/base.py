"""Base classes of tasks: the example, the random draw, and the fields of a mixture component."""

import abc
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import numpy as np

from recjax.data.corpus import SHOWN, Corpus
from recjax.data.prompts import check_prompt
from recjax.schema.checks import Section, called, check, setting


class Example(NamedTuple):
  """One training example before packing.

  Attributes:
    inputs: int32 token ids that are read but not learnt.
    targets: int32 token ids that follow the inputs. Packing never removes any.
    learnt: bool mask of the learnt targets. None: all are learnt.
    history_start: index of the history in `inputs`.
    history: number of tokens of each history item, oldest first. Packing may remove items, oldest first.
    text: (start, end): `inputs[start:end]` is an item's text. Packing may remove tokens at its end.
  """

  inputs: np.ndarray
  targets: np.ndarray
  learnt: np.ndarray | None = None
  history_start: int = 0
  history: tuple[int, ...] = ()
  text: tuple[int, int] = (0, 0)

  @property
  def num_learnt(self) -> int:
    """The number of learnt targets."""
    return len(self.targets) if self.learnt is None else int(self.learnt.sum())

  @property
  def spare(self) -> tuple[int, int]:
    """The number of tokens of the history and of the text that packing may remove."""
    return sum(self.history), self.text[1] - self.text[0]

  def shorter(self, tokens: int) -> 'Example':
    """Removes the oldest history item; from an example without a history, up to `tokens` tokens of text."""
    start, end = self.text
    if self.history:
      at, length = self.history_start, self.history[0]
      inputs = np.concatenate([self.inputs[:at], self.inputs[at + length :]])
      text = (start - length, end - length) if start > at else self.text
      return self._replace(inputs=inputs, history=self.history[1:], text=text)
    cut = min(tokens, end - start)
    inputs = np.concatenate([self.inputs[: end - cut], self.inputs[end:]])
    return self._replace(inputs=inputs, text=(start, end - cut))

  def without_spare(self) -> 'Example':
    """Removes all of the history and of the text."""
    example = self
    while any(example.spare):
      example = example.shorter(example.spare[1])
    return example


class Draw:
  """The index of an example within its component, and its random numbers.

  Attributes:
    index: number of earlier examples of the component.
  """

  def __init__(self, seed: int, index: int):
    self.index = index
    self._seed = seed

  @functools.cached_property
  def rng(self) -> np.random.Generator:
    """The random generator of this component and index, created at its first use."""
    return np.random.Generator(np.random.Philox(key=[self._seed, self.index]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component(Section, abc.ABC):
  """A component of the mixture: a task, its share of the examples, and its wordings.

  Each subclass is a task. Its docstring gives the unit, the inputs, the targets and the publications.
  """

  task: str = setting(meaning='A name of recjax.data.tasks.TASKS.')
  weight: float = setting(1.0, 'Share of the examples; 0 turns the component off.', at_least=0)
  loss_weight: float = setting(
    1.0,
    "Factor λ on the loss of the component's targets; the mean still counts them fully.",
    at_least=0,
  )
  schedule: tuple[tuple[float, ...], ...] = setting(
    (), 'Pairs (examples seen, weight from then on).'
  )
  prompts: tuple[str, ...] = setting((), "Wordings that replace the task's own.")

  requires: ClassVar[frozenset[str]] = frozenset()  # see `needs`
  wordings: ClassVar[tuple[str, ...]]  # prompts with placeholders; the draw's index chooses one
  places: ClassVar[tuple[str, ...]]  # placeholders; every wording has each of them once
  marker: ClassVar[str] = ''  # the special token of the task for models of items alone; see `fill`

  @property
  def prefix(self) -> str:
    """The component's generic path in the config; `called` replaces it by the component's name."""
    return f'mixture.<{self.task}>.'

  def __post_init__(self):
    super().__post_init__()
    borders = [border for border, *_ in filter(None, self.schedule)]
    self.check_field(
      all(len(pair) == 2 and min(pair) >= 0 for pair in self.schedule)
      and borders == sorted(set(borders))
      and all(border == int(border) for border in borders),
      'must be pairs (examples seen, weight), none negative, in the order of the examples, which are whole numbers',
      'schedule',
    )
    for prompt in self.used_prompts:
      check_prompt(prompt, self.places, f'{self.prefix}prompts')

  @classmethod
  @contextlib.contextmanager
  def called(cls, path: str) -> Iterator[None]:
    """Makes errors raised inside the block name the component's fields by `path`, such as 'mixture.mim'."""
    with called(f'mixture.<{cls.task}>', path):
      yield

  def check_field(self, condition: bool, must: str, name: str) -> None:
    """Raises a ValueError unless the condition holds; `must` follows the field's name in the message."""
    check(condition, f'{self.prefix}{name} {must}', getattr(self, name), self.prefix + name)

  @property
  def text_targets(self) -> bool:
    """Whether the task has learnt text targets."""
    return False

  @property
  def needs(self) -> frozenset[str]:
    """The columns and stages that the data set must have: ratings, times, titles, …; see `Corpus.lacks`."""
    return self.requires

  def identity(self, corpus: Corpus) -> dict[str, Any]:
    """Returns all settings that the component's examples depend on, as JSON, for the fingerprint."""
    del corpus  # subclasses use it if a field matters only for some data sets
    return {**dataclasses.asdict(self), 'prompts': self.used_prompts}

  def weight_at(self, examples_seen: int) -> float:
    """Returns the weight that the schedule gives after `examples_seen` examples."""
    weights = [weight for border, weight in self.schedule if border <= examples_seen]
    return weights[-1] if weights else self.weight

  @property
  def final_weight(self) -> float:
    """The weight after the schedule's last border."""
    return self.schedule[-1][1] if self.schedule else self.weight

  @property
  def is_active(self) -> bool:
    """Whether the component has a positive weight at some point of the stream."""
    return self.weight > 0 or any(weight > 0 for _, weight in self.schedule)

  @property
  def used_prompts(self) -> tuple[str, ...]:
    """The wordings in use: those of the config, or else the task's own. Inference takes the first one."""
    return self.prompts or self.wordings

  def prompt(self, draw: Draw) -> str:
    """Returns the wording of an example."""
    return self.used_prompts[draw.index % len(self.used_prompts)]

  def fill(
    self, corpus: Corpus, prompt: str, contents: dict[str, np.ndarray]
  ) -> tuple[np.ndarray, dict[str, int]]:
    """Returns the inputs of an example, and the index of each place; see `Prompter.fill`.

    A model of items alone reads no words that tell the tasks apart. For it the marker stands in place of BOS.
    """
    inputs, starts = corpus.prompter.fill(prompt, contents)
    if corpus.items_alone and self.marker:
      inputs[0] = corpus.dataset.vocabulary.special_id(self.marker)
    return inputs, starts

  def check_corpus(self, corpus: Corpus) -> None:
    """Raises a ValueError if the data set does not support the task."""

  def longest_answer(self, corpus: Corpus) -> int:
    """Returns a bound on the tokens of an answer; 0: the plan looks at the sample of the stream alone."""
    del corpus
    return 0

  @abc.abstractmethod
  def num_units(self, corpus: Corpus) -> int:
    """Returns the number of units in one epoch."""

  @abc.abstractmethod
  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    """Returns the example of a unit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryComponent(Component):
  """Base class of tasks whose prompt shows a part of a user's training sequence."""

  max_items: int = setting(20, 'Items of a window, or of a history and its answer.', at_least=2)
  show: str = setting('sid', 'How items of a history are shown.', one_of=SHOWN)
  title_tokens: int = setting(16, 'Tokens at which a title in a history is cut.', above=0)

  @property
  def needs(self) -> frozenset[str]:
    return self.requires | ({'titles'} if self.show != 'sid' else frozenset())
