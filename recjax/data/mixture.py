"""The mixture: a closed-form map from one integer to a task's example, in exact proportions."""

import bisect
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import Any

from grain.experimental import index_shuffle
import numpy as np

from recjax.data.corpus import Corpus
from recjax.data.tasks import Component
from recjax.data.tasks.base import Draw, Example
from recjax.runtime.files import digest
from recjax.schema.checks import check
from recjax.schema.stream import Mixing

BLOCK = (
  10_000  # proportions are integers of this sum, and exact over every block of so many examples
)

SMALL_EPOCH = 1 << 14  # below it the index shuffle is slow, and a permutation costs little memory


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
    name: of the component.
    component: its task.
    units: of one epoch.
  """

  name: str
  component: Component
  units: int


@dataclasses.dataclass(frozen=True)
class Piece:
  """A stretch of the stream with constant proportions.

  Attributes:
    start: its first example.
    counts: of each part in every block of BLOCK examples; their sum is BLOCK.
  """

  start: int
  counts: tuple[int, ...]

  @functools.cached_property
  def part_at(self) -> np.ndarray:
    """The part of each slot of a block, int32 `[BLOCK]`: every part is spread evenly."""
    # The k-th example of a part with proportion p stands at (k + 1/2) / p of the block.
    at = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in self.counts])
    owner = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
    return owner[np.argsort(at, kind='stable')]

  @functools.cached_property
  def rank_at(self) -> np.ndarray:
    """How many of a slot's part stand before it in its block, int64 `[BLOCK]`."""
    ranks = np.empty(BLOCK, np.int64)
    for p, count in enumerate(self.counts):
      ranks[self.part_at == p] = np.arange(count)
    return ranks

  def counts_before(self, examples: int) -> np.ndarray:
    """How many of each part stand among so many examples from the start, int64."""
    blocks, rest = divmod(examples, BLOCK)
    partial = np.bincount(self.part_at[:rest], minlength=len(self.counts))
    return blocks * np.array(self.counts, np.int64) + partial


class Mixture:
  """`mixture[n]` is example n of the stream, for any n >= 0, without state.

  Within every block of BLOCK examples of a piece each part appears exactly as often as its proportion says,
  spread evenly; a block is cut where a new piece begins. A part runs through its units in a new pseudo-random
  order each epoch (a permutation computed from the index by grain's index shuffle), so every unit appears
  exactly once an epoch; a new piece continues the epoch.
  """

  def __init__(self, parts: list[Part], pieces: Sequence[Piece], corpus: Corpus, seed: int):
    self.parts = parts
    self.pieces = list(pieces)
    self.corpus = corpus
    self.seed = seed
    self._starts = [piece.start for piece in pieces]
    before = [np.zeros(len(parts), np.int64)]
    for piece, after in itertools.pairwise(pieces):
      before.append(before[-1] + piece.counts_before(after.start - piece.start))
    self._drawn_before = before
    self._draw_seeds = [int(digest([seed, part.name])[:15], 16) for part in parts]

  def __reduce__(self):  # without what was computed: a reading process computes it again
    return Mixture, (self.parts, self.pieces, self.corpus, self.seed)

  def locate(self, n: int) -> tuple[int, int, int]:
    """Which part example n is of, how many of that part came before, and the unit it shows."""
    number = bisect.bisect_right(self._starts, n) - 1
    piece = self.pieces[number]
    block, slot = divmod(n - piece.start, BLOCK)
    p = int(piece.part_at[slot])
    in_piece = block * piece.counts[p] + int(piece.rank_at[slot])
    draw = int(self._drawn_before[number][p]) + in_piece
    units = self.parts[p].units
    epoch, place = divmod(draw, units)
    if units < SMALL_EPOCH:
      return p, draw, int(self._permutation(p, epoch)[place])
    seed = self._epoch_seed(p, epoch)
    return p, draw, index_shuffle(place, max_index=units - 1, seed=seed, rounds=4)

  @functools.lru_cache(maxsize=1024)  # noqa: B019 - a mixture lives as long as its run
  def _epoch_seed(self, p: int, epoch: int) -> int:
    return int(digest([self.seed, self.parts[p].name, epoch])[:8], 16)

  @functools.lru_cache(maxsize=64)  # noqa: B019
  def _permutation(self, p: int, epoch: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(self._epoch_seed(p, epoch)))
    return generator.permutation(self.parts[p].units)

  def __getitem__(self, n: int) -> tuple[Part, Example]:
    p, draw, unit = self.locate(n)
    part = self.parts[p]
    return part, part.component.example(self.corpus, unit, Draw(self._draw_seeds[p], draw))

  @property
  def text_targets(self) -> bool:
    return any(part.component.text_targets for part in self.parts)

  @functools.cached_property
  def survey(self) -> list[list[tuple[Part, Example]]]:
    """The first BLOCK examples of every piece: what shares and lengths are told from."""
    return [[self[piece.start + n] for n in range(BLOCK)] for piece in self.pieces]

  def table(self) -> list[dict[str, Any]]:
    """What is really in the stream: one row a part and piece, over the first block of each piece.

    Returns:
      `name`, `task`, `from_example`, `examples` (of BLOCK), `units` of an epoch, and the shares of the
      examples, of all tokens and of the learnt tokens.
    """
    rows = []
    for piece, sample in zip(self.pieces, self.survey, strict=True):
      sums = {part.name: np.zeros(3, np.int64) for part in self.parts}
      for part, (inputs, targets, learnt, *_) in sample:
        answer = len(targets) if learnt is None else int(learnt.sum())
        sums[part.name] += (1, len(inputs) + len(targets), answer)
      totals = sum(sums.values())
      for part in self.parts:
        shares = sums[part.name] / np.maximum(totals, 1)
        rows.append(
          {
            'name': part.name,
            'task': part.component.task,
            'from_example': piece.start,
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
  """The rows of `Mixture.table` as text."""
  lines = [f'{"":24} examples  share   tokens  targets  λ      units an epoch']
  for row in rows:
    since = f' (from {row["from_example"]:,})' if row['from_example'] else ''
    lines.append(
      f'{row["name"] + since:24} {row["examples"]:8,}  {row["share"]:6.2%} {row["token_share"]:7.2%} '
      f'{row["target_share"]:7.2%}  {row["loss_weight"]:<5g} {row["units"]:14,}'
    )
  return '\n'.join(lines)


def build(
  components: Mapping[str, Component], mixing: Mixing, corpus: Corpus, seed: int
) -> Mixture:
  """The mixture of named components over a data set.

  Raises:
    ValueError: a task that the data set cannot give, or one without a unit.
  """
  dataset = corpus.dataset
  parts = []
  for name, component in components.items():
    lacks = corpus.lacks(component.needs)
    check(
      not lacks,
      f'task {component.task!r} must have {", ".join(sorted(component.needs))}; the data in '
      f'{dataset.folder} have no {", ".join(lacks)}; where --mode=prepare with this config does not make them, drop the task',
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
    parts.append(Part(name, component, units))
  return Mixture(parts, _pieces(parts, mixing), corpus, seed)


def _pieces(parts: list[Part], mixing: Mixing) -> list[Piece]:
  """Stretches of the stream between the borders of all schedules."""
  starts = sorted({0, *(int(border) for p in parts for border, _ in p.component.schedule)})
  pieces = []
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
    pieces.append(Piece(start, tuple(counts[part.name] for part in parts)))
  return pieces
