"""The mixture: computes example n of the stream from n alone, with exact proportions of the tasks."""

import bisect
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any

from grain.experimental import index_shuffle
import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.read_ahead import consecutive
from recjax.data.tasks import Component
from recjax.data.tasks.base import Draw, Example
from recjax.data.tasks.items_alone import check_items_alone
from recjax.runtime.files import digest
from recjax.schema.checks import check
from recjax.schema.stream import Mixing

# Proportions are integers with this sum; they hold exactly in every block of BLOCK examples.
BLOCK = 10_000

# Epochs with fewer units use a stored permutation, because the index shuffle is slow for them.
SMALL_EPOCH = 1 << 14


# --- proportions


def proportions(weights: Mapping[str, float]) -> dict[str, int]:
  """Returns integers with sum BLOCK in proportion to the weights (largest remainders).

  Among equal remainders the first name comes first.

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
    check(
      count > 0 or weights[name] == 0,
      f'a mixture weight must be at least 1/{BLOCK} of their sum ({total}), or 0 to drop it',
      weights[name],
      f'mixture.{name}.weight',
    )
  return counts


@dataclasses.dataclass(frozen=True)
class Part:
  """One component of the mixture over a data set.

  Attributes:
    name: the component's name in the config.
    component: its task.
    units: number of units in one epoch.
  """

  name: str
  component: Component
  units: int


@dataclasses.dataclass(frozen=True)
class Interval:
  """An interval of the stream with constant proportions.

  Attributes:
    start: its first example.
    counts: examples of each part in every block of BLOCK examples; their sum is BLOCK.
  """

  start: int
  counts: tuple[int, ...]

  @functools.cached_property
  def part_at(self) -> np.ndarray:
    """The part of each slot of a block, int32 `[BLOCK]`. Every part is spread evenly."""
    # The k-th example of a part with count p is at the fraction (k + 1/2) / p of the block.
    at = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in self.counts])
    owner = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
    return owner[np.argsort(at, kind='stable')]

  @functools.cached_property
  def rank_at(self) -> np.ndarray:
    """For each slot, the number of earlier slots of its part in the block, int64 `[BLOCK]`."""
    ranks = np.empty(BLOCK, np.int64)
    for p, count in enumerate(self.counts):
      ranks[self.part_at == p] = np.arange(count)
    return ranks

  def counts_before(self, examples: int) -> np.ndarray:
    """Returns the number of examples of each part among the interval's first `examples`, int64."""
    blocks, rest = divmod(examples, BLOCK)
    partial = np.bincount(self.part_at[:rest], minlength=len(self.counts))
    return blocks * np.array(self.counts, np.int64) + partial


# --- the stream of examples


class Mixture:
  """The stream of examples: `mixture[n]` computes example n, for any n >= 0, without state.

  In every block of BLOCK examples of an interval, each part has exactly its proportion of examples, spread
  evenly. The last block of an interval is cut where the next interval begins.

  A part draws its units in a new pseudo-random order each epoch, so every unit appears exactly once per epoch.
  The order is a permutation that grain's index shuffle computes from the index. A new interval continues the
  epoch.
  """

  def __init__(self, parts: list[Part], intervals: Sequence[Interval], corpus: Corpus, seed: int):
    self.parts = parts
    self.intervals = list(intervals)
    self.corpus = corpus
    self.seed = seed
    self._starts = [interval.start for interval in intervals]
    self._drawn_before = before = [np.zeros(len(parts), np.int64)]
    for interval, following in itertools.pairwise(intervals):
      before.append(before[-1] + interval.counts_before(following.start - interval.start))
    self._draw_seeds = [int(digest([seed, part.name])[:15], 16) for part in parts]
    # Caches of this object. Readers work on at most two neighbouring epochs of a part at a time.
    self._epoch_seed = functools.lru_cache(4 * len(parts))(self._make_epoch_seed)
    self._permutation = functools.lru_cache(4 * len(parts))(self._make_permutation)

  def __reduce__(self):  # a reader process computes the derived fields itself
    return Mixture, (self.parts, self.intervals, self.corpus, self.seed)

  def locate(self, n: int) -> tuple[int, int, int]:
    """Returns the part of example n, the number of earlier examples of that part, and the unit."""
    number = bisect.bisect_right(self._starts, n) - 1
    interval = self.intervals[number]
    block, slot = divmod(n - interval.start, BLOCK)
    p = int(interval.part_at[slot])
    in_interval = block * interval.counts[p] + int(interval.rank_at[slot])
    draw = int(self._drawn_before[number][p]) + in_interval
    units = self.parts[p].units
    epoch, place = divmod(draw, units)
    if units < SMALL_EPOCH:
      return p, draw, int(self._permutation(p, epoch)[place])
    seed = self._epoch_seed(p, epoch)
    return p, draw, index_shuffle(place, max_index=units - 1, seed=seed, rounds=4)

  # --- epochs

  @functools.cached_property
  def epoch_part(self) -> int:
    """The part whose units define an epoch: next_item, or in a mixture without it the part with the largest weight.

    Of several next_item components it is the one with the largest final weight, whose prompt the search continues.
    """
    parts = [p for p, part in enumerate(self.parts) if part.component.task == 'next_item']
    return max(parts or range(len(self.parts)), key=lambda p: self.parts[p].component.final_weight)

  def epochs(self, examples: int) -> float:
    """Returns the epochs in the first `examples` examples: draws of `epoch_part`, divided by its units."""
    return int(self._drawn(examples)[self.epoch_part]) / self.parts[self.epoch_part].units

  def ends_before(self, epochs: float) -> bool:
    """Returns whether the schedule of the weights ends `epoch_part` before so many epochs."""
    p, last = self.epoch_part, self.intervals[-1]
    return not last.counts[p] and self._drawn(last.start)[p] < self._draws_in(epochs)

  def examples_in(self, epochs: float) -> int:
    """Returns the least number of examples that hold so many epochs.

    Raises:
      ValueError: the schedule of the weights ends the part before.
    """
    check(
      not self.ends_before(epochs),
      'num_epochs must be reached before the schedule ends the component that defines an epoch',
      epochs,
      'num_epochs to less, or num_train_steps',
    )
    p, most, draws = self.epoch_part, self.intervals[-1].start + BLOCK, self._draws_in(epochs)
    while self._drawn(most)[p] < draws:
      most *= 2
    return bisect.bisect_left(range(most), draws, key=lambda n: int(self._drawn(n)[p]))

  def _draws_in(self, epochs: float) -> int:
    return math.ceil(epochs * self.parts[self.epoch_part].units)

  def _drawn(self, examples: int) -> np.ndarray:
    """The number of examples of each part among the first ones, int64."""
    number = bisect.bisect_right(self._starts, examples) - 1
    in_interval = examples - self.intervals[number].start
    return self._drawn_before[number] + self.intervals[number].counts_before(in_interval)

  def _make_epoch_seed(self, p: int, epoch: int) -> int:
    return int(digest([self.seed, self.parts[p].name, epoch])[:8], 16)

  def _make_permutation(self, p: int, epoch: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(self._epoch_seed(p, epoch)))
    return generator.permutation(self.parts[p].units)

  def __getitem__(self, n: int) -> tuple[Part, Example]:
    p, draw, unit = self.locate(n)
    part = self.parts[p]
    return part, part.component.example(self.corpus, unit, Draw(self._draw_seeds[p], draw))

  @property
  def text_targets(self) -> bool:
    """Whether some part has learnt text targets."""
    return any(part.component.text_targets for part in self.parts)

  @functools.cached_property
  def survey(self) -> list[list[tuple[Part, Example]]]:
    """The first BLOCK examples of every interval: the sample that gives shares and lengths."""
    return [consecutive(self, interval.start, BLOCK) for interval in self.intervals]

  # --- the table

  def table(self) -> list[dict[str, Any]]:
    """Measures the stream over the first block of every interval.

    Returns:
      One row for each part and interval: `name`, `task`, `from_example`, `examples` (of BLOCK), `units` per
      epoch, `loss_weight`, and the part's `share` of the examples, `token_share` of all tokens and
      `target_share` of the learnt tokens.
    """
    rows = []
    for interval, sample in zip(self.intervals, self.survey, strict=True):
      sums = {part.name: np.zeros(3, np.int64) for part in self.parts}
      for part, example in sample:
        tokens = len(example.inputs) + len(example.targets)
        sums[part.name] += (1, tokens, example.num_learnt)
      totals = sum(sums.values())
      for part in self.parts:
        shares = sums[part.name] / np.maximum(totals, 1)
        rows.append(
          {
            'name': part.name,
            'task': part.component.task,
            'from_example': interval.start,
            'examples': int(sums[part.name][0]),
            'units': part.units,
            'share': float(shares[0]),
            'token_share': float(shares[1]),
            'target_share': float(shares[2]),
            'loss_weight': part.component.loss_weight,
          }
        )
    return rows


def format_table(rows: list[dict[str, Any]]) -> str:
  """Returns the rows of `Mixture.table` as text."""
  lines = [f'{"":24} examples  share   tokens  targets  λ      units an epoch']
  for row in rows:
    since = f' (from {row["from_example"]:,})' if row['from_example'] else ''
    lines.append(
      f'{row["name"] + since:24} {row["examples"]:8,}  {row["share"]:6.2%} {row["token_share"]:7.2%} '
      f'{row["target_share"]:7.2%}  {row["loss_weight"]:<5g} {row["units"]:14,}'
    )
  return '\n'.join(lines)


# --- construction


def build(
  components: Mapping[str, Component], mixing: Mixing, corpus: Corpus, seed: int
) -> Mixture:
  """Builds the mixture of named components over a data set.

  Raises:
    ValueError: the data set lacks a column or stage that a task needs, or a task has no unit in it.
  """
  dataset = corpus.dataset
  parts = []
  for name, component in components.items():
    lacks = corpus.lacks(component.needs)
    may_lack = set(lacks) == {'titles'} and 'titles' not in component.requires
    way = 'set its show and learn to sid, or drop the task' if may_lack else 'drop the task'
    check(
      not lacks,
      f'task {component.task!r} must have {", ".join(sorted(component.needs))}; the data in '
      f'{dataset.folder} have no {", ".join(lacks)}. Run --mode=prepare with this config; if the source has '
      f'none, {way}',
      component.weight,
      f'mixture.{name}.weight',
    )
    with component.called(f'mixture.{name}'):
      component.check_corpus(corpus)
    units = component.num_units(corpus)
    check(
      units > 0,
      f'task {component.task!r} must have at least one unit in {dataset.folder}',
      units,
      f'mixture.{name}.weight',
    )
    if corpus.items_alone:
      check_items_alone(name, component, corpus)
    parts.append(Part(name, component, units))
  return Mixture(parts, _intervals(parts, mixing), corpus, seed)


def _intervals(parts: list[Part], mixing: Mixing) -> list[Interval]:
  """Returns the intervals between the steps of all schedules."""
  starts = sorted({0, *(int(border) for p in parts for border, _ in p.component.schedule)})
  intervals = []
  for start in starts:
    weights = {
      part.name: part.component.weight_at(start) * mixing.size_factor(part.units) for part in parts
    }
    check(
      sum(weights.values()) > 0,
      f'the mixture must hold a component with a positive weight from example {start} on',
      weights,
      'mixture.<name>.schedule',
    )
    counts = proportions(weights)
    intervals.append(Interval(start, tuple(counts[part.name] for part in parts)))
  return intervals
