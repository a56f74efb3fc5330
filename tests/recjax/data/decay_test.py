"""Weights of history items that decay with age, by hand."""

from recjax.data.decay import decayed
from recjax.data.sequences import Sequences


def test_the_last_item_has_weight_one_and_repeats_are_summed():
  histories = Sequences.from_lists([[2, 0, 2], [], [1]])
  weights = decayed(histories, 0.5, 4)
  assert weights.toarray().tolist() == [[0.5, 0, 1.25, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
