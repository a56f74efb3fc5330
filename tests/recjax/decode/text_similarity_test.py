"""Similarities of texts as scores: by brute force over the items, and by hand."""

import math

import numpy as np
import pytest

from recjax.decode.text_similarity import TextSimilarity
from recjax.schema import blend

VECTORS = np.array([[2, 0], [0, 3], [1, 1], [-1, 0], [0, 0]], np.float16)


def similarity(vectors=VECTORS, **changes):
  return TextSimilarity(blend.Text(vectors='encoder', **changes), vectors)


def test_cosines_are_summed_with_decay_and_a_zero_vector_is_similar_to_none():
  made = similarity(decay=0.5, candidates=4)
  query = made.read([np.array([1, 0]), np.array([4]), np.array([], int)])
  assert query.tolist() == [[1, 0.5], [0, 0], [0, 0]] and query.dtype == np.float32
  scores = made.scores(query, np.array([[0, 2, 3, 4, -1]] * 3))
  assert scores[0] == pytest.approx([1, 1.5 / math.sqrt(2), -1, 0, -math.inf])
  assert not scores[1:, :4].any()
  best = made.best(query, [np.array([0, 1]), np.array([]), np.array([], int)])
  assert best.tolist() == [[2, 4, 3, -1], [-1] * 4, [-1] * 4]


def test_scores_and_best_items_equal_brute_force_and_ties_go_by_index():
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(30, 5))
  vectors[20:25] = vectors[3] * 2  # the same text
  made = similarity(vectors, decay=0.7, candidates=6)
  unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  histories = [rng.integers(0, 30, n) for n in (1, 3, 8, 20)] + [np.array([3])]
  excluded = [history[:2] for history in histories]
  query = made.read(histories)
  best = made.best(query, excluded)
  asked = rng.integers(-1, 30, (5, 12))
  scores = made.scores(query, asked)
  for u, history in enumerate(histories):
    total = sum(0.7**age * unit @ unit[item] for age, item in enumerate(history[::-1]))
    order = sorted(range(30), key=lambda i: (-round(total[i], 5), i))
    assert best[u].tolist() == [i for i in order if i not in excluded[u]][:6]
    for item, score in zip(asked[u], scores[u], strict=True):
      assert score == pytest.approx(total[item] if item >= 0 else -math.inf, abs=1e-5)
  assert best[4].tolist()[:5] == [20, 21, 22, 23, 24]


def test_any_number_of_rows_and_candidates_finds_the_same_items(monkeypatch):
  rng = np.random.default_rng(1)
  vectors = rng.normal(size=(40, 8))
  histories = [rng.integers(0, 40, 4) for _ in range(9)]
  made = similarity(vectors, candidates=100)
  query, none = made.read(histories), [np.array([], int)] * 9
  together = made.best(query, none)
  assert (
    together.shape == (9, 100) and (together[:, :40] >= 0).all() and (together[:, 40:] < 0).all()
  )
  monkeypatch.setattr('recjax.decode.text_similarity._BLOCK_CELLS', 80)
  np.testing.assert_array_equal(made.best(query, none), together)
  assert similarity(candidates=0).best(np.ones((2, 2), np.float32), none[:2]).shape == (2, 0)


def test_settings_are_checked():
  with pytest.raises(ValueError, match=r'eval.text.vectors must be one of none, encoder; got'):
    blend.Text(vectors='titles')
  with pytest.raises(ValueError, match=r'eval.text.decay must be in \(0, 1\]; got 0'):
    blend.Text(decay=0)
