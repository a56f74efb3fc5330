"""What all tasks share: the example, the random draw, and the fields of a component of the mixture."""

import abc
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import numpy as np

from recjax.data.corpus import SHOWN, Corpus
from recjax.data.prompts import check_prompt
from recjax.schema.checks import check, check_choice


class Example(NamedTuple):
  """One training example before packing.

  Attributes:
    inputs: int32 token ids that are read but not learnt.
    targets: int32 token ids that follow the inputs; never cut.
    learnt: bool, which of the targets are learnt; None: all.
    history_start: where the history begins in `inputs`.
    history: tokens of each item of the history, oldest first; whole items may be forgotten from its start.
    text: (start, end): `inputs[start:end]` is an item's text, which may be cut at its end.
  """

  inputs: np.ndarray
  targets: np.ndarray
  learnt: np.ndarray | None = None
  history_start: int = 0
  history: tuple[int, ...] = ()
  text: tuple[int, int] = (0, 0)

  @property
  def spare(self) -> tuple[int, int]:
    """Tokens of the history and of the text: what could be left out, in this order."""
    return sum(self.history), self.text[1] - self.text[0]

  def shorter(self, tokens: int) -> 'Example':
    """The same example without the oldest item of its history; without a history, up to `tokens` of its text."""
    start, end = self.text
    if self.history:
      at, length = self.history_start, self.history[0]
      inputs = np.concatenate([self.inputs[:at], self.inputs[at + length :]])
      text = (start - length, end - length) if start > at else self.text
      return self._replace(inputs=inputs, history=self.history[1:], text=text)
    cut = min(tokens, end - start)
    inputs = np.concatenate([self.inputs[: end - cut], self.inputs[end:]])
    return self._replace(inputs=inputs, text=(start, end - cut))


class Draw:
  """Which of a component's examples this is, and the random numbers that belong to it.

  Attributes:
    index: how many examples of the component came before.
  """

  def __init__(self, seed: int, index: int):
    self.index = index
    self._seed = seed

  @functools.cached_property
  def rng(self) -> np.random.Generator:
    """A generator of its own for every (component, index); made only where a task asks for it."""
    return np.random.Generator(np.random.Philox(key=[self._seed, self.index]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component(abc.ABC):
  """A component of the mixture: a task, its share of the examples, and its wordings.

  A subclass is a task. Its docstring states its unit, what goes in and out, and what is published of it.
  """

  task: str
  weight: float = 1.0  # share of the examples; 0 drops the component
  loss_weight: float = 1.0  # of each of its target tokens (λ of IIRG)
  schedule: tuple[tuple[float, ...], ...] = ()  # (examples seen, weight from there on), …
  prompts: tuple[str, ...] = ()  # wordings to use instead of the task's own

  requires: ClassVar[frozenset[str]] = frozenset()
  wordings: ClassVar[tuple[str, ...]]  # chosen by the index of the example
  places: ClassVar[tuple[str, ...]]  # what a wording must name once

  def __post_init__(self):
    self.check_field(self.weight >= 0, 'must not be negative', 'weight')
    self.check_field(self.loss_weight >= 0, 'must not be negative', 'loss_weight')
    borders = [border for border, *_ in self.schedule]
    self.check_field(
      all(len(piece) == 2 and min(piece) >= 0 for piece in self.schedule)
      and borders == sorted(set(borders)),
      'must be pairs (examples seen, weight), none negative, in the order of the examples',
      'schedule',
    )
    for prompt in self.prompts or self.wordings:
      check_prompt(prompt, self.places, f'mixture.<{self.task}>.prompts')

  @classmethod
  @contextlib.contextmanager
  def called(cls, path: str) -> Iterator[None]:
    """Inside, errors name the fields of a component as the config does; `path` is `mixture.<its name>`."""
    try:
      yield
    except ValueError as error:
      raise ValueError(str(error).replace(f'mixture.<{cls.task}>', path)) from None

  def check_field(self, condition: bool, must: str, name: str) -> None:
    field = f'mixture.<{self.task}>.{name}'
    check(condition, f'{field} {must}', getattr(self, name), field)

  def check_choice(self, name: str, choices: tuple[str, ...]) -> None:
    check_choice(getattr(self, name), choices, f'mixture.<{self.task}>.{name}')

  @property
  def text_targets(self) -> bool:
    """Whether text is learnt."""
    return False

  @property
  def needs(self) -> frozenset[str]:
    """What the data set must have: ratings, times, titles, … (see `Corpus.lacks`)."""
    return self.requires

  def identity(self) -> dict[str, Any]:
    """What the component's examples depend on, as JSON: its fields and its wordings."""
    return {**dataclasses.asdict(self), 'prompts': self.prompts or self.wordings}

  def weight_at(self, examples_seen: int) -> float:
    """The weight from an example on: of the last border of the schedule that it has reached."""
    weights = [weight for border, weight in self.schedule if border <= examples_seen]
    return weights[-1] if weights else self.weight

  @property
  def is_active(self) -> bool:
    """Whether the component is ever drawn."""
    return self.weight > 0 or any(weight > 0 for _, weight in self.schedule)

  def prompt(self, draw: Draw) -> str:
    """The wording of an example."""
    prompts = self.prompts or self.wordings
    return prompts[draw.index % len(prompts)]

  def check_corpus(self, corpus: Corpus) -> None:  # noqa: B027 - most tasks have nothing to check
    """Raises a ValueError where the task cannot be done on this data set."""

  @abc.abstractmethod
  def num_units(self, corpus: Corpus) -> int:
    """The units of one epoch."""

  @abc.abstractmethod
  def example(self, corpus: Corpus, unit: int, draw: Draw) -> Example:
    """The example of a unit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryComponent(Component):
  """A task that shows a part of a user's training sequence."""

  max_items: int = 20  # items of a window, or of a history and what is asked
  show: str = 'sid'  # sid | title | both: what items of a history are shown as
  title_tokens: int = 16  # a title in a history is cut here

  def __post_init__(self):
    super().__post_init__()
    self.check_field(self.max_items >= 2, 'must be at least 2', 'max_items')
    self.check_field(self.title_tokens > 0, 'must be positive', 'title_tokens')
    self.check_choice('show', SHOWN)

  @property
  def needs(self) -> frozenset[str]:
    return self.requires | ({'titles'} if self.show != 'sid' else frozenset())
