"""A mixture of tasks that need no data set."""

from collections.abc import Callable
import dataclasses
import types
from typing import ClassVar

from recjax.data.mixture import Interval, Mixture, Part, proportions
from recjax.data.sequences import Sequences
from recjax.data.tasks.base import Component, Draw, Example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fake(Component):
  """A task of `units` units; `make` returns the example of (unit, draw)."""

  task: str = 'fake'
  units: int = 1000
  make: Callable[[int, Draw], Example]

  wordings: ClassVar = ('',)
  places: ClassVar = ()

  def num_units(self, corpus):
    return self.units

  def example(self, corpus, unit, draw):
    return self.make(unit, draw)


def fake_mixture(components: dict[str, Fake], seed: int = 0) -> Mixture:
  """Returns the mixture of components with their weights and schedules."""
  parts = [Part(name, component, component.units) for name, component in components.items()]
  borders = sorted({0, *(int(start) for c in components.values() for start, _ in c.schedule)})
  intervals = []
  for start in borders:
    counts = proportions({name: c.weight_at(start) for name, c in components.items()})
    intervals.append(Interval(start, tuple(counts.values())))
  corpus = types.SimpleNamespace(train=Sequences.from_lists([]))
  return Mixture(parts, intervals, corpus, seed)
