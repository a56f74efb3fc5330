"""The order of candidates by a weighted sum of their scores, by hand."""

import numpy as np
import pytest

from recjax.decode import blend
from recjax.decode.blend import Weights
from recjax.decode.candidates import Candidates

INF = np.float32(np.inf)
ITEMS = np.array([[7, 3, 5, -1], [2, 4, -1, -1]], np.int32)
CODES = np.array([[-1, -2, -3, -INF], [-5, -5, -INF, -INF]], np.float32)
HEAD = np.array([[-4, -1, -3, -INF], [-2, -1, -INF, -INF]], np.float32)
MEMORY = np.array([[0, 0, 2, -INF], [1, 0, -INF, -INF]], np.float32)
TEXT = np.array([[0, 1, 0, -INF], [0, 1, -INF, -INF]], np.float32)
ALL = Candidates(ITEMS, CODES, HEAD, MEMORY, TEXT)


@pytest.mark.parametrize(
  ('weights', 'first', 'second', 'scores'),
  [
    (Weights(), [7, 3, 5], [2, 4], [-1, -2, -3]),
    (Weights(head=1), [3, 5, 7], [4, 2], [-1, -3, -4]),
    (Weights(head=0.25), [7, 3, 5], [4, 2], [-1.75, -1.75, -3]),  # a tie keeps the order
    (Weights(memory=2), [5, 7, 3], [2, 4], [1, -1, -2]),
    (Weights(head=1, memory=1), [3, 5, 7], [2, 4], [-1, -1, -4]),
    (Weights(text=2), [3, 7, 5], [4, 2], [0, -1, -3]),
  ],
)
def test_the_order_is_that_of_the_weighted_sum(weights, first, second, scores):
  items, found = blend.ranked(ALL, weights, 3)
  assert items.tolist() == [first, [*second, -1]]
  assert found[0].tolist() == pytest.approx(scores) and found[1, 2] == -INF
  assert found.dtype == np.float32 and items.dtype == np.int32


def test_an_infinite_beta_and_codes_plus_beta_times_head_give_the_same_order():
  """(1 - h) codes + h head + m memory is in the order of codes + β head + γ memory."""
  rng = np.random.default_rng(0)
  codes, head, memory = (rng.normal(size=(5, 30)).astype(np.float32) for _ in range(3))
  items = np.tile(np.arange(30, dtype=np.int32), (5, 1))
  for h, m in ((0.2, 0.0), (0.5, 0.3), (0.8, 1.0)):
    beta, gamma = h / (1 - h), m / (1 - h)
    expected = np.argsort(-(codes + beta * head + gamma * memory), axis=1)
    found, _ = blend.ranked(Candidates(items, codes, head, memory), Weights(h, m), 30)
    np.testing.assert_array_equal(found, expected)


def test_the_rankers_by_one_score_are_those_of_the_model():
  assert blend.alone(ALL) == {'codes': Weights(0, 0), 'head': Weights(1, 0)}
  assert blend.alone(ALL._replace(head_BM=None)) == {'codes': Weights(0, 0)}
  assert blend.alone(Candidates(ITEMS, CODES)) == {}
  items, scores = blend.ranked(Candidates(ITEMS, CODES), Weights(), 2)
  np.testing.assert_array_equal(items, ITEMS[:, :2])
  np.testing.assert_array_equal(scores, CODES[:, :2])
