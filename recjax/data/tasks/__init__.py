"""Tasks: each turns a unit of the data (a window of a user's sequence, an item, …) into an example."""

from typing import NamedTuple, Protocol

import numpy as np


class Example(NamedTuple):
  """One training example before packing.

  Attributes:
    inputs: int32 token ids that are read but not learnt.
    targets: int32 token ids that are learnt, following the inputs; never cut.
    history: (start, end, unit): `inputs[start:end]` may lose whole units from its start, oldest first.
  """

  inputs: np.ndarray
  targets: np.ndarray
  history: tuple[int, int, int] = (0, 0, 1)

  def without_oldest(self) -> 'Example':
    """The same example with its oldest unit of history forgotten."""
    start, end, unit = self.history
    inputs = np.concatenate([self.inputs[:start], self.inputs[start + unit :]])
    return Example(inputs, self.targets, (start, end - unit, unit))


class Task(Protocol):
  """What the mixture needs of a task."""

  has_text_targets: bool

  def __len__(self) -> int:
    """The units of one epoch."""
    ...

  def example(self, unit: int, draw: int) -> Example:
    """The example of a unit; `draw` (how many of this task came before) seeds whatever is random."""
    ...
