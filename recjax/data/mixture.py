"""The mixture: a closed-form map from one integer to a task's example, in exact proportions."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from grain.experimental import index_shuffle
import numpy as np

from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.data.tasks import Example, Task
from recjax.data.tasks.next_item import NextItem

BLOCK = (
  10_000  # proportions are integers of this sum, and exact over every block of so many examples
)

SMALL_EPOCH = 1 << 14  # below it the index shuffle is slow, and a permutation costs little memory

TASKS: dict[str, Callable[[config_lib.Component, Dataset, bool], Task]] = {'next_item': NextItem}


def proportions(weights: Mapping[str, float]) -> dict[str, int]:
  """Integers of sum BLOCK in proportion to the weights, by largest remainder (ties: the first name).

  Raises:
    ValueError: a component with a positive weight would get no example.
  """
  total = sum(weights.values())
  shares = {name: BLOCK * weight / total for name, weight in weights.items()}
  counts = {name: int(share) for name, share in shares.items()}
  by_remainder = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
  for name in by_remainder[: BLOCK - sum(counts.values())]:
    counts[name] += 1
  for name, count in counts.items():
    config_lib.check(
      count > 0,
      f'a mixture weight must be at least 1/{BLOCK} of their sum ({total}), or 0 to drop it',
      weights[name],
      f'mixture.{name}.weight',
    )
  return counts


@dataclasses.dataclass(frozen=True)
class Part:
  """One component of the mixture: a task with its integer share of every block."""

  name: str
  task: Task
  proportion: int
  loss_weight: float


class Mixture:
  """`mixture[n]` is example n of the stream, for any n >= 0, without state.

  Within every block of BLOCK examples each part appears exactly `proportion` times, spread evenly. A part
  runs through its units in a new pseudo-random order each epoch (a permutation computed from the index
  by grain's index shuffle), so every unit appears exactly once an epoch.
  """

  def __init__(self, parts: list[Part], seed: int):
    self.parts = parts
    self._seed = seed
    # The k-th example of a part with proportion p stands at (k + 1/2) / p of the block.
    at = np.concatenate([(np.arange(part.proportion) + 0.5) / part.proportion for part in parts])
    owner = np.repeat(np.arange(len(parts)), [part.proportion for part in parts])
    self._part_at = owner[np.argsort(at, kind='stable')].astype(np.int32)
    self._rank_at = np.empty(BLOCK, np.int64)
    for p in range(len(parts)):
      here = self._part_at == p
      self._rank_at[here] = np.arange(here.sum())

  def locate(self, n: int) -> tuple[int, int, int]:
    """Which part example n is of, how many of that part came before, and the unit it shows."""
    block, slot = divmod(n, BLOCK)
    p = int(self._part_at[slot])
    draw = block * self.parts[p].proportion + int(self._rank_at[slot])
    units = len(self.parts[p].task)
    epoch, place = divmod(draw, units)
    if units < SMALL_EPOCH:
      return p, draw, int(self._permutation(p, epoch)[place])
    seed = self._epoch_seed(p, epoch)
    return p, draw, index_shuffle(place, max_index=units - 1, seed=seed, rounds=4)

  @functools.lru_cache(maxsize=1024)  # noqa: B019 - a mixture lives as long as its run
  def _epoch_seed(self, p: int, epoch: int) -> int:
    return int(config_lib.digest([self._seed, self.parts[p].name, epoch])[:8], 16)

  @functools.lru_cache(maxsize=64)  # noqa: B019
  def _permutation(self, p: int, epoch: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(self._epoch_seed(p, epoch)))
    return generator.permutation(len(self.parts[p].task))

  def __getitem__(self, n: int) -> tuple[Part, Example]:
    p, draw, unit = self.locate(n)
    part = self.parts[p]
    return part, part.task.example(unit, draw)

  @property
  def has_text_targets(self) -> bool:
    return any(part.task.has_text_targets for part in self.parts)

  def describe(self) -> list[dict[str, Any]]:
    """One row a part for the start-up table and the report: name, share and units of an epoch."""
    return [
      {'name': part.name, 'share': part.proportion / BLOCK, 'units': len(part.task)}
      for part in self.parts
    ]


def build(config: config_lib.Config, dataset: Dataset) -> Mixture:
  """The mixture that the config names over a data set.

  Raises:
    ValueError: an unknown task, or one for which the data set has no unit.
  """
  active = {name: c for name, c in config.mixture.items() if c.weight > 0}
  counts = proportions({name: component.weight for name, component in active.items()})
  parts = []
  for name, component in active.items():
    config_lib.check_choice(component.task, tuple(TASKS), f'mixture.{name}.task')
    task = TASKS[component.task](component, dataset, config.model.is_encoder_decoder)
    config_lib.check(
      len(task) > 0,
      f'task {component.task!r} must have at least one unit in {dataset.folder}',
      len(task),
      f'mixture.{name}.weight',
    )
    parts.append(Part(name, task, counts[name], component.loss_weight))
  return Mixture(parts, config.seed)
