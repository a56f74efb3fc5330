"""The closed-form mixture: exact proportions, whole epochs, random access."""

import collections

import numpy as np
import pytest

from recjax.data.mixture import BLOCK, Mixture, Part, proportions
from recjax.data.tasks import Example


class Counting:
  """A task whose example shows its unit and draw."""

  has_text_targets = False

  def __init__(self, units):
    self._units = units

  def __len__(self):
    return self._units

  def example(self, unit, draw):
    return Example(np.array([unit], np.int32), np.array([draw], np.int32))


def mixture(weights, units, seed=0):
  counts = proportions(weights)
  return Mixture([Part(name, Counting(units[name]), counts[name], 1.0) for name in weights], seed)


def test_proportions_are_largest_remainders():
  assert proportions({'a': 1.0, 'b': 1.0, 'c': 1.0}) == {'a': 3334, 'b': 3333, 'c': 3333}
  assert proportions({'a': 0.7, 'b': 0.3}) == {'a': 7000, 'b': 3000}
  counts = proportions({f'{i}': w for i, w in enumerate((3.3, 1.7, 0.41, 9.123))})
  assert sum(counts.values()) == BLOCK
  with pytest.raises(ValueError, match=r'at least 1/10000 of their sum.*mixture.b.weight'):
    proportions({'a': 1.0, 'b': 1e-6})


def test_every_block_has_the_exact_counts_spread_evenly():
  mix = mixture({'a': 0.5, 'b': 0.3, 'c': 0.2}, {'a': 37, 'b': 11, 'c': 23})
  names = [mix.parts[mix.locate(n)[0]].name for n in range(20_000)]
  for block in (names[:BLOCK], names[BLOCK:]):
    assert collections.Counter(block) == {'a': 5000, 'b': 3000, 'c': 2000}
  for start in range(0, 20_000, 100):
    counts = collections.Counter(names[start : start + 100])
    assert abs(counts['a'] - 50) <= 1
    assert abs(counts['b'] - 30) <= 1


def test_an_epoch_shows_each_unit_once_in_a_new_order():
  mix = mixture({'a': 0.7, 'b': 0.3}, {'a': 100, 'b': 9000})
  shown = collections.defaultdict(list)
  draws = collections.defaultdict(list)
  for n in range(40_000):
    p, draw, unit = mix.locate(n)
    shown[p].append(unit)
    draws[p].append(draw)
  for p, units in ((0, 100), (1, 9000)):
    assert draws[p] == list(range(len(draws[p])))
    epochs = [shown[p][k : k + units] for k in range(0, len(shown[p]) - units + 1, units)]
    assert all(sorted(epoch) == list(range(units)) for epoch in epochs)
  assert len({tuple(shown[0][k : k + 100]) for k in range(0, 2800, 100)}) == 28


def test_far_examples_need_no_history_and_seeds_differ():
  mix = mixture({'a': 1.0}, {'a': 1000})
  _, draw, unit = mix.locate(10**9 + 7)
  assert draw == 10**9 + 7
  assert 0 <= unit < 1000
  other = mixture({'a': 1.0}, {'a': 1000}, seed=1)
  assert [mix.locate(n)[2] for n in range(20)] != [other.locate(n)[2] for n in range(20)]
