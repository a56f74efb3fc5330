import numpy as np

from recjax.metrics import doubts


def test_equal_scores_and_constant_rankings_are_noticed():
  rng = np.random.default_rng(0)
  ranked = np.array([rng.permutation(9)[:5] for _ in range(30)])
  scores = -np.sort(rng.random((30, 5)))
  assert list(doubts.of_ranking(ranked, scores, 9)) == []
  [doubt] = doubts.of_ranking(ranked, np.zeros((30, 5)), 9)
  assert 'in 30 of 30 rankings all items have one score' in doubt
  padded = np.where(np.arange(5) < 3, ranked, -1)  # lists of three items
  equal = np.where(np.arange(5) < 3, -1.0, -np.inf)
  [doubt] = doubts.of_ranking(padded, np.tile(equal, (30, 1)), 9)
  assert 'one score' in doubt
  ranked[:, 0] = 4
  [doubt] = doubts.of_ranking(ranked, scores, 9)
  assert 'the first item is the same in all 30 rankings' in doubt
  assert list(doubts.of_ranking(ranked[:3], scores[:3], 9)) == []  # too few rows to say


def test_a_loss_that_does_not_fall_is_noticed():
  assert list(doubts.of_losses(np.linspace(3, 2, 40))) == []
  [doubt] = doubts.of_losses([2.0] * 40)
  assert 'its mean was 2.0000 in the first 4 steps and 2.0000 in the last 4' in doubt
  assert list(doubts.of_losses([2.0] * 5)) == []
