"""Packing groups: everything fits, and only the oldest history and the end of texts are removed."""

import numpy as np
import pytest

from recjax.data.mixture import Part
from recjax.data.packing import Plan, first_fit_decreasing, fit, pack
from recjax.data.tasks.base import Example
from recjax.sids.token_space import TokenSpace
from tests.recjax.data.fakes import Fake

PART = Part('a', Fake(make=None, loss_weight=0.5), 1000)


def example(history, targets, first=100):
  """BOS, `history` units of two tokens, `targets` tokens, all distinct."""
  inputs = np.array([1, *range(first, first + 2 * history)], np.int32)
  target = np.arange(first + 50, first + 50 + targets, dtype=np.int32)
  return Example(inputs, target, None, 1, (2,) * history)


def test_first_fit_decreasing_equals_a_hand_computation():
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
  np.testing.assert_array_equal(arrays['learnt'], (arrays['weights'] > 0).sum(axis=1))


def test_overflow_removes_the_oldest_items_of_the_longest_histories_and_no_target():
  group = [example(6, 2, 0), example(1, 6, 200)]  # 14 and 8 positions into one row of 16
  shorter, row_of, dropped = fit(group, Plan(2, 1, 16))
  assert dropped == 6
  assert row_of.tolist() == [0, 0]
  assert shorter[0].inputs.tolist() == [1, 6, 7, 8, 9, 10, 11]
  assert shorter[1].inputs.tolist() == [1, 200, 201]
  for before, after in zip(group, shorter, strict=True):
    np.testing.assert_array_equal(before.targets, after.targets)


def test_targets_that_do_not_fit_are_refused():
  with pytest.raises(
    ValueError, match=r'targets of 3 examples must fit in 1 rows of \(16,\) tokens'
  ):
    fit([example(1, 8)] * 3, Plan(3, 1, 16))


def test_overflow_shortens_the_longest_text_if_no_history_is_left():
  bare = Example(np.array([1, 2, 3], np.int32), np.array([4], np.int32))
  text = Example(np.arange(10, 20, dtype=np.int32), np.array([5, 6], np.int32), text=(1, 9))
  shorter, _, dropped = fit([bare, text, example(1, 2, 200)], Plan(3, 1, 13))
  # 3 + 11 + 4 positions into 13: the history of two goes first, then three tokens of text.
  assert dropped == 5
  assert shorter[2].inputs.tolist() == [1]
  assert shorter[1].inputs.tolist() == [10, 11, 12, 13, 14, 15, 19]
  assert shorter[1].text == (1, 6)
  with pytest.raises(ValueError, match='without any history or text'):
    fit([bare] * 5, Plan(5, 1, 14))


def test_an_example_longer_than_a_row_is_shortened():
  (alone,), _, dropped = fit([example(9, 3)], Plan(1, 4, 12))
  assert len(alone.inputs) + len(alone.targets) - 1 <= 12
  assert dropped == 10


def test_removing_history_shifts_the_range_of_a_later_text():
  inputs = np.arange(12, dtype=np.int32)
  whole = Example(inputs, np.array([5], np.int32), None, 2, (3, 2), (8, 11))
  shorter = whole.shorter(1)
  assert shorter.inputs.tolist() == [0, 1, 5, 6, 7, 8, 9, 10, 11]
  assert (shorter.history, shorter.text) == ((2,), (5, 8))
  assert shorter.shorter(1).shorter(2).inputs.tolist() == [0, 1, 7, 8, 11]


def test_unlearnt_targets_have_weight_0():
  learnt = np.array([True, False, True])
  masked = Example(np.array([1, 2], np.int32), np.array([3, 4, 5], np.int32), learnt)
  arrays = pack([(PART, masked)], Plan(1, 1, 8))
  assert arrays['targets'][0, :4].tolist() == [2, 3, 4, 5]
  assert arrays['weights'][0].tolist() == [0, 0.5, 0, 0.5, 0, 0, 0, 0]
  assert arrays['learnt'].tolist() == [2]


def test_both_sides_of_an_encoder_decoder_share_row_and_segment():
  group = [(PART, example(2, 3, 100)), (PART, example(1, 3, 300)), (PART, example(4, 3, 500))]
  arrays = pack(group, Plan(3, 2, 12, 6, start_id=7))
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


def test_learnt_targets_with_loss_weight_0_are_counted():
  free = Part('free', Fake(make=None, loss_weight=0.0), 1000)
  arrays = pack([(PART, example(1, 2)), (free, example(1, 3, 200))], Plan(2, 1, 32))
  assert arrays['learnt'].tolist() == [5]
  assert (arrays['weights'] > 0).sum() == 2


SPACE = TokenSpace(text_size=500, level_sizes=(8, 8, 8))


def single(level, code):
  """BOS and one text token, then the token of one code."""
  token = SPACE.tokens(np.array([[code] * 3]))[0, level]
  return Example(np.array([1, 2], np.int32), np.array([token], np.int32))


@pytest.mark.parametrize('decoder_row_length', [0, 8])
def test_single_sid_tokens_are_spread_over_rows_and_none_is_lost(decoder_row_length):
  plan = Plan(8, 4, 24, decoder_row_length, space=SPACE)  # 8 or 3 targets of a level in a row
  group = [(PART, single(0, n)) for n in range(8)]
  arrays = pack(group, plan)
  in_rows = (arrays['weights'] > 0).sum(axis=1)
  assert in_rows.sum() == 8
  assert in_rows.max() <= plan.level_capacity == SPACE.row_capacity(decoder_row_length or 24)
  assert sorted(arrays['targets'][arrays['weights'] > 0].tolist()) == [500 + n for n in range(8)]
  unlimited = pack(group, Plan(8, 4, 24, decoder_row_length))
  assert (unlimited['weights'] > 0).sum(axis=1).max() == 8


def test_the_level_capacity_does_not_change_rows_of_complete_semantic_ids():
  rng = np.random.default_rng(0)
  for _ in range(20):
    group = [
      (PART, Example(np.array([1], np.int32), SPACE.tokens(rng.integers(0, 8, (n, 3))).ravel()))
      for n in rng.integers(1, 7, 12)
    ]
    arrays, free = pack(group, Plan(12, 12, 20, space=SPACE)), pack(group, Plan(12, 12, 20))
    for name in arrays:
      np.testing.assert_array_equal(arrays[name], free[name])
