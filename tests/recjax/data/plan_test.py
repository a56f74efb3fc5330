"""The plan of a group: it fills rows, holds every later group, and refuses examples that no row holds."""

import dataclasses

import numpy as np
import pytest

from recjax.data.packing import Plan, fit, pack
from recjax.data.plan import make_plan
from recjax.data.tasks.base import Example
from recjax.schema.stream import Packing
from recjax.sids.token_space import TokenSpace
from tests.recjax.data.fakes import Fake, fake_mixture

SPACE = TokenSpace(text_size=500, level_sizes=(8, 8, 8))


def random_lengths(longest):
  """A stream of examples with a fixed prompt and targets of a random length."""

  def make(unit, draw):
    units = int(draw.rng.integers(1, longest))
    return Example(np.zeros(3, np.int32), np.zeros(2 * units, np.int32), None, 1, (2,))

  return fake_mixture({'a': Fake(make=make, units=100_000)})


def test_a_plan_fills_rows_and_is_deterministic():
  packing = Packing(row_length=64, rows=16)
  stream = random_lengths(12)
  plan = make_plan(stream, packing)
  assert plan == make_plan(random_lengths(12), packing)
  filled = []
  for g in range(20):
    group = [stream[n] for n in range(g * plan.examples, (g + 1) * plan.examples)]
    filled.append((pack(group, plan)['segments'] > 0).mean())
  assert np.mean(filled) > 0.8
  assert make_plan(stream, dataclasses.replace(packing, examples=40)) == Plan(40, 16, 64)
  assert make_plan(stream, packing, is_encoder_decoder=True).sides == (64, 32)
  with pytest.raises(ValueError, match=r'packing.examples must fit in 16 rows'):
    make_plan(stream, dataclasses.replace(packing, examples=400))


@pytest.mark.parametrize(('rows', 'row_length'), [(4, 32), (8, 40), (16, 64)])
def test_every_group_of_a_long_stream_fits_the_plan(rows, row_length):
  stream = random_lengths(12)
  plan = make_plan(stream, Packing(row_length=row_length, rows=rows))
  assert plan.examples >= rows
  rng = np.random.default_rng(0)
  for _ in range(300):
    lengths = 2 * rng.integers(1, 12, plan.examples) + 2
    group = [
      Example(np.zeros(3, np.int32), np.zeros(n - 2, np.int32), None, 1, (2,)) for n in lengths
    ]
    fit(group, plan)


def test_a_row_shorter_than_an_example_is_refused():
  with pytest.raises(
    ValueError, match=r'every example without its history.*got packing.row_length=16'
  ):
    make_plan(random_lengths(12), Packing(row_length=16, rows=16))


def answers(inputs, count):
  """A stream of examples whose answers are `count` tokens of level 1."""

  def make(unit, draw):
    return Example(np.full(inputs, 2, np.int32), np.full(count, SPACE.sid_start, np.int32))

  return fake_mixture({'a': Fake(make=make, units=1000)})


@pytest.mark.parametrize('is_encoder_decoder', [False, True])
def test_a_plan_leaves_room_for_single_sid_tokens(is_encoder_decoder):
  stream = answers(1, 1)
  packing = Packing(row_length=24, decoder_row_length=12, rows=8)
  plan = make_plan(stream, packing, is_encoder_decoder, space=SPACE)
  in_row = SPACE.row_capacity(12 if is_encoder_decoder else 24)
  assert plan.examples == 8 * in_row
  for g in range(5):
    group = [stream[n] for n in range(g * plan.examples, (g + 1) * plan.examples)]
    arrays = pack(group, plan)
    assert (arrays['weights'] > 0).sum() == plan.examples
    assert (arrays['weights'] > 0).sum(axis=1).max() == in_row


def test_an_example_with_more_tokens_of_a_level_than_a_row_holds_is_refused():
  with pytest.raises(
    ValueError, match=r'up to 9 of one level; got packing.row_length=24, which has'
  ):
    make_plan(answers(3, 9), Packing(row_length=24, rows=8), space=SPACE)
  plan = make_plan(answers(3, 9), Packing(row_length=27, rows=8), space=SPACE)
  assert plan.examples == 8
