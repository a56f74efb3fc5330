import collections

import numpy as np
import pytest

from data_prep import cooccurrence
from recjax.data import sequences


def _train(seed=0, users=60, items=30):
  rng = np.random.default_rng(seed)
  return sequences.Sequences.from_lists(
    [rng.integers(0, items, rng.integers(0, 9)).tolist() for _ in range(users)]
  )


def _counted(train, window):
  counts = collections.Counter()
  for u in range(len(train)):
    items = train[u].tolist()
    for a, left in enumerate(items):
      for distance in range(1, window + 1):
        if a + distance < len(items) and items[a + distance] != left:
          counts[left, items[a + distance]] += 1 / distance
          counts[items[a + distance], left] += 1 / distance
  return counts


@pytest.mark.parametrize('window', [1, 3, 5, 100])
def test_counts_equal_a_loop(window):
  train = _train()
  got = cooccurrence.cooccurrence_counts(train, 32, window)
  expected = np.zeros((32, 32))
  for pair, weight in _counted(train, window).items():
    expected[pair] = weight
  np.testing.assert_allclose(got.toarray(), expected, rtol=1e-12)
  assert (got != got.T).nnz == 0
  assert got.has_canonical_format


def test_vectors_equal_a_dense_svd():
  train = _train()
  dense = np.zeros((32, 32))  # items 30 and 31 are never seen
  for pair, weight in _counted(train, 5).items():
    dense[pair] = weight
  roots = np.sqrt(np.maximum(dense.sum(1), 1e-9))
  left, singular, _ = np.linalg.svd(dense / (roots[:, None] * roots[None, :]))
  expected = left[:, :6] * np.sqrt(singular[:6])
  expected[:30] /= np.linalg.norm(expected[:30], axis=1, keepdims=True)
  expected[30:] = 0
  got = cooccurrence.vectors(train, 32, 6, 5, seed=0)
  assert got.dtype == np.float32 and got.shape == (32, 6)
  np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-4)  # signs are free
  np.testing.assert_allclose(np.linalg.norm(got[:30], axis=1), 1, atol=1e-6)
  assert not got[30:].any()


def test_vectors_repeat_bit_for_bit():
  first, second = (cooccurrence.vectors(_train(), 32, 6, 5, seed=3) for _ in range(2))
  assert first.tobytes() == second.tobytes()


def test_more_columns_than_items():
  train = sequences.Sequences.from_lists([[0, 1, 2], [2, 0]])
  got = cooccurrence.vectors(train, 4, 8, 5, seed=0)
  assert got.shape == (4, 8)
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), [1, 1, 1, 0], atol=1e-6)


@pytest.mark.parametrize('users', [[], [[]], [[1], [1, 1], [2]]])
def test_a_log_without_pairs_gives_zero_vectors(users):
  train = sequences.Sequences.from_lists(users)
  assert not cooccurrence.vectors(train, 3, 2, 5, seed=0).any()
