"""Packing groups: everything fits, nothing is lost but the oldest history, and the sizes are fixed."""

import dataclasses

import numpy as np
import pytest

from recjax.config import Packing
from recjax.data.mixture import Part
from recjax.data.packing import Plan, first_fit_decreasing, fit, make_plan, pack
from recjax.data.tasks import Example

PART = Part('a', None, 10_000, 0.5)


def example(history, targets, first=100):
  """BOS, `history` units of two tokens, `targets` tokens, all distinct."""
  inputs = np.array([1, *range(first, first + 2 * history)], np.int32)
  target = np.arange(first + 50, first + 50 + targets, dtype=np.int32)
  return Example(inputs, target, (1, len(inputs), 2))


def test_first_fit_decreasing_by_hand():
  # 7 opens row 0, 6 row 1, 3 goes to row 0 (10), 2 to row 1 (8), 2 to row 1 (10).
  lengths = np.array([[2], [7], [3], [6], [2]])
  assert first_fit_decreasing(lengths, 2, (10,)).tolist() == [1, 0, 0, 1, 1]
  assert first_fit_decreasing(np.array([[6], [6], [6]]), 2, (10,)) is None
  # The second side is full before the first: 7 and 2 would share row 0 but for it.
  two = np.array([[2, 4], [7, 4], [3, 1]])
  assert first_fit_decreasing(two, 2, (10, 5)).tolist() == [1, 0, 0]


def test_rows_hold_every_token_target_and_weight():
  rng = np.random.default_rng(0)
  group = [
    (PART, example(int(rng.integers(1, 5)), int(rng.integers(1, 7)), 100 * i)) for i in range(12)
  ]
  arrays = pack(group, Plan(12, 5, 32))
  assert arrays['dropped'].tolist() == [0] * 5
  found = 0
  for row in range(5):
    for segment in range(1, arrays['segments'][row].max() + 1):
      here = arrays['segments'][row] == segment
      tokens, targets = arrays['tokens'][row, here], arrays['targets'][row, here]
      weights = arrays['weights'][row, here]
      ours = next(e for _, e in group if len(e.inputs) > 1 and e.inputs[1] == tokens[1])
      whole = np.concatenate([ours.inputs, ours.targets])
      np.testing.assert_array_equal(tokens, whole[:-1])
      np.testing.assert_array_equal(targets, whole[1:])
      np.testing.assert_array_equal(weights > 0, np.isin(targets, ours.targets))
      assert set(weights[weights > 0]) == {0.5}
      np.testing.assert_array_equal(arrays['positions'][row, here], np.arange(len(tokens)))
      found += 1
  assert found == 12
  padding = arrays['segments'] == 0
  assert (arrays['weights'][padding] == 0).all()


def test_overflow_forgets_the_oldest_items_of_the_longest_histories_and_no_target():
  group = [example(6, 2, 0), example(1, 6, 200)]  # 14 and 8 positions into one row of 16
  shorter, row_of, dropped = fit(group, Plan(2, 1, 16))
  assert dropped == 3
  assert row_of.tolist() == [0, 0]
  assert shorter[0].inputs.tolist() == [1, 6, 7, 8, 9, 10, 11]
  assert shorter[1].inputs.tolist() == [1, 200, 201]
  for before, after in zip(group, shorter, strict=True):
    np.testing.assert_array_equal(before.targets, after.targets)


def test_targets_that_cannot_fit_are_an_error():
  with pytest.raises(
    ValueError, match=r'targets of 3 examples must fit in 1 rows of \(16,\) tokens'
  ):
    fit([example(1, 8)] * 3, Plan(3, 1, 16))


class Lengths:
  """A stream of examples with the lengths of a seeded draw."""

  def __init__(self, longest):
    self._longest = longest

  def __getitem__(self, n):
    units = int(np.random.default_rng(n).integers(1, self._longest))
    return PART, Example(np.zeros(3, np.int32), np.zeros(2 * units, np.int32), (1, 3, 2))


def test_a_plan_fills_rows_and_is_the_same_everywhere():
  packing = Packing(row_length=64, rows=16)
  plan = make_plan(Lengths(12), packing)
  assert plan == make_plan(Lengths(12), packing)
  stream = Lengths(12)
  filled = []
  for g in range(20):
    group = [stream[n] for n in range(g * plan.examples, (g + 1) * plan.examples)]
    filled.append((pack(group, plan)['segments'] > 0).mean())
  assert np.mean(filled) > 0.8
  fixed = make_plan(Lengths(12), dataclasses.replace(packing, examples=40))
  assert fixed == Plan(40, 16, 64)
  assert make_plan(Lengths(12), packing, is_encoder_decoder=True).capacity == (64, 32)


@pytest.mark.parametrize(('rows', 'row_length'), [(4, 32), (8, 40), (16, 64)])
def test_no_group_of_a_long_stream_outgrows_its_plan(rows, row_length):
  stream = Lengths(12)
  plan = make_plan(stream, Packing(row_length=row_length, rows=rows))
  assert plan.examples >= rows
  rng = np.random.default_rng(0)
  for _ in range(300):
    lengths = 2 * rng.integers(1, 12, plan.examples) + 2
    group = [Example(np.zeros(3, np.int32), np.zeros(n - 2, np.int32), (1, 3, 2)) for n in lengths]
    fit(group, plan)


def test_a_row_shorter_than_an_example_is_refused():
  with pytest.raises(ValueError, match=r'longest example.*got packing.row_length=16'):
    make_plan(Lengths(12), Packing(row_length=16, rows=16))


def test_both_sides_of_an_encoder_decoder_share_row_and_segment():
  group = [(PART, example(2, 3, 100)), (PART, example(1, 3, 300)), (PART, example(4, 3, 500))]
  arrays = pack(group, Plan(3, 2, 12, 6), start_id=7)
  for _, ours in group:
    row, at = np.argwhere(arrays['encoder_tokens'] == ours.inputs[1])[0]
    segment = arrays['encoder_segments'][row, at]
    here = arrays['encoder_segments'][row] == segment
    np.testing.assert_array_equal(arrays['encoder_tokens'][row, here], ours.inputs)
    np.testing.assert_array_equal(arrays['encoder_positions'][row, here], np.arange(here.sum()))
    here = arrays['segments'][row] == segment
    np.testing.assert_array_equal(arrays['tokens'][row, here], [7, *ours.targets[:-1]])
    np.testing.assert_array_equal(arrays['targets'][row, here], ours.targets)
    np.testing.assert_array_equal(arrays['weights'][row, here], [0.5, 0.5, 0.5])
  assert (arrays['weights'] > 0).sum() == 9
