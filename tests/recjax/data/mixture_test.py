"""The mixture: exact proportions, epochs, schedules, random access."""

import collections
import dataclasses

import numpy as np
import pytest

from recjax import config as config_lib
from recjax import train
from recjax.data import loader, packing
from recjax.data import mixture as mixture_lib
from recjax.data.mixture import BLOCK, proportions
from recjax.data.sequences import Sequences
from recjax.data.tasks.base import Example
from recjax.schema.stream import Mixing
from tests.recjax.data.fakes import Fake, fake_mixture


def counting(unit, draw):
  return Example(np.array([unit], np.int32), np.array([draw.index], np.int32))


def mixture(weights, units, seed=0, schedules=None):
  schedules = schedules or {}
  return fake_mixture(
    {
      name: Fake(
        weight=weights[name], units=units[name], make=counting, schedule=schedules.get(name, ())
      )
      for name in weights
    },
    seed,
  )


def test_proportions_are_largest_remainders():
  assert proportions({'a': 1.0, 'b': 1.0, 'c': 1.0}) == {'a': 3334, 'b': 3333, 'c': 3333}
  assert proportions({'a': 0.7, 'b': 0.3}) == {'a': 7000, 'b': 3000}
  counts = proportions({f'{i}': w for i, w in enumerate((3.3, 1.7, 0.41, 9.123))})
  assert sum(counts.values()) == BLOCK
  assert proportions({'a': 1.0, 'b': 0.0}) == {'a': BLOCK, 'b': 0}
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


def test_any_example_is_computed_without_earlier_ones_and_seeds_differ():
  mix = mixture({'a': 1.0}, {'a': 1000})
  _, draw, unit = mix.locate(10**9 + 7)
  assert draw == 10**9 + 7
  assert 0 <= unit < 1000
  other = mixture({'a': 1.0}, {'a': 1000}, seed=1)
  assert [mix.locate(n)[2] for n in range(20)] != [other.locate(n)[2] for n in range(20)]


def test_a_schedule_changes_the_counts_at_its_borders_and_continues_the_epochs():
  schedules = {'b': ((0, 0.0), (12_345, 1.0)), 'a': ((31_000, 0.5),)}
  units = {'a': 700, 'b': 300, 'c': 20_000}
  mix = mixture({'a': 2.0, 'b': 7.0, 'c': 1.0}, units, schedules=schedules)
  assert [interval.start for interval in mix.intervals] == [0, 12_345, 31_000]
  names, shown = [], collections.defaultdict(list)
  for n in range(45_000):
    p, draw, unit = mix.locate(n)
    name = mix.parts[p].name
    assert draw == len(shown[name])
    names.append(name)
    shown[name].append(unit)
  # a : b : c = 2 : 0 : 1, then 2 : 1 : 1, then .5 : 1 : 1; complete blocks are exact.
  assert collections.Counter(names[:BLOCK]) == {'a': 6667, 'c': 3333}
  assert collections.Counter(names[12_345:22_345]) == {'a': 5000, 'b': 2500, 'c': 2500}
  assert collections.Counter(names[31_000:41_000]) == {'a': 2000, 'b': 4000, 'c': 4000}
  # At every border the counts are the closed form.
  for interval, end in zip(mix.intervals, (12_345, 31_000, 45_000), strict=True):
    counts = collections.Counter(names[interval.start : end])
    closed = dict(
      zip(('a', 'b', 'c'), interval.counts_before(end - interval.start).tolist(), strict=True)
    )
    assert {name: counts[name] for name in closed} == closed
  for name, count in units.items():
    for at in range(0, len(shown[name]) - count + 1, count):
      assert sorted(shown[name][at : at + count]) == list(range(count))


def test_epochs_are_counted_over_the_stream_also_with_a_schedule():
  units = {'a': 700, 'b': 300}
  mix = mixture({'a': 2.0, 'b': 1.0}, units, schedules={'a': ((0, 0.5), (12_345, 3.0))})
  assert mix.epoch_part == 0  # the largest final weight, without next_item
  parts = np.array([mix.locate(n)[0] for n in range(30_000)])
  for epochs in (0.001, 1.0, 2.5, 9.0):
    examples = mix.examples_in(epochs)
    draws = int((parts[:examples] == 0).sum())
    assert draws == max(round(epochs * 700), 1)
    assert mix.epochs(examples) == draws / 700 > mix.epochs(examples - 1)
  tasks = [dataclasses.replace(part.component, task='next_item') for part in mix.parts[1:]]
  mix.parts[1] = dataclasses.replace(mix.parts[1], component=tasks[0])
  other = mixture_lib.Mixture(mix.parts, mix.intervals, None, 0)
  assert other.epoch_part == 1  # next_item, whatever its weight
  ended = mixture({'a': 1.0, 'b': 1.0}, units, schedules={'a': ((0, 3.0), (1400, 0.0))})
  ended.epoch_part = 0
  assert ended.examples_in(1.0) < 1400
  with pytest.raises(ValueError, match=r'num_epochs must be reached before the schedule ends'):
    ended.examples_in(2.0)
  assert [ended.ends_before(epochs) for epochs in (1.0, 1.5, 2.0)] == [False, False, True]
  plan = packing.Plan(examples=20, rows=4, row_length=8)
  assert loader.Stream(ended, plan, 2).description.endswith(
    '40 examples a step, 23.3 steps an epoch'
  )
  early = mixture({'a': 1.0, 'b': 1.0}, units, schedules={'a': ((0, 3.0), (100, 0.0))})
  early.epoch_part = 0
  assert loader.Stream(early, plan, 2).description.endswith('; 40 examples a step')


def test_the_table_equals_counts_over_the_stream():
  def long(unit, draw):
    learnt = np.array([True, False, False])
    return Example(np.zeros(5, np.int32), np.zeros(3, np.int32), learnt)

  mix = fake_mixture(
    {
      'short': Fake(weight=3.0, units=10, make=counting),
      'long': Fake(weight=1.0, units=20, make=long, loss_weight=0.5),
    }
  )
  short, long_row = mix.table()
  assert (short['examples'], long_row['examples']) == (7500, 2500)
  assert short['token_share'] == pytest.approx(7500 * 2 / (7500 * 2 + 2500 * 8))
  assert long_row['target_share'] == pytest.approx(2500 / (7500 + 2500))
  assert (short['units'], long_row['loss_weight']) == (10, 0.5)
  assert 'long' in mixture_lib.format_table(mix.table())


def test_the_size_factor_is_the_units_to_the_power_of_one_over_temperature():
  assert Mixing().size_factor(100) == 1.0
  assert Mixing(by='size').size_factor(100) == 100
  assert Mixing(by='size', temperature=2.0).size_factor(100) == 10
  with pytest.raises(ValueError, match=r'mixing.by must be one of weight, size; got'):
    Mixing(by='units')


def test_mixing_by_size_gives_shares_in_proportion_to_the_units(tiny_world):
  config, dataset = tiny_world
  two = {
    'next_item': config.mixture['next_item'],
    'titles': mixture_lib_component('title_to_sid'),
  }
  config = dataclasses.replace(config, mixture=two, mixing=Mixing(by='size'))
  mix = train.make_mixture(config, dataset)
  units = [part.units for part in mix.parts]
  expected = [BLOCK * n / sum(units) for n in units]
  np.testing.assert_allclose(mix.intervals[0].counts, expected, atol=1)


def mixture_lib_component(task, **fields):
  values = config_lib.component(task, **fields).to_dict()
  return config_lib.TASKS[task](**values)


def test_tasks_that_the_data_set_does_not_support_are_refused(tiny_world):
  config, dataset = tiny_world

  def build(**components):
    train.make_mixture(dataclasses.replace(config, mixture=components), dataset)

  with pytest.raises(ValueError, match=r"task 'rating' must have ratings.*have no ratings"):
    build(rating=mixture_lib_component('rating'))
  with pytest.raises(
    ValueError, match=r'must have collaborative.*Set --config.mixture.near.weight'
  ):
    build(near=mixture_lib_component('collaborative_neighbours'))
  dataset = dataclasses.replace(dataset)
  dataset.__dict__['titles'] = Sequences.from_lists([[]] * dataset.num_items)
  message = r"'next_item' must have titles.*set its show and learn to sid, or drop the task"
  with pytest.raises(ValueError, match=message):
    build(next_item=mixture_lib_component('next_item', learn='both'))
  with pytest.raises(ValueError, match=r"task 'token_to_description' must have keywords"):
    build(tokens=mixture_lib_component('token_to_description'))
  with pytest.raises(ValueError, match=r'candidates must leave room in the catalogue of 120 items'):
    build(ranking=mixture_lib_component('ranking', candidates=110))
