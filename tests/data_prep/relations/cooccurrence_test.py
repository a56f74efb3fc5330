"""Item vectors compared with a dense SVD."""

import numpy as np
import pytest

from data_prep.relations import cooccurrence
from recjax.data import sequences
from tests.recjax.data.cooccurrence_test import counted, random_train


def test_vectors_equal_a_dense_svd():
  train = random_train()
  dense = np.zeros((32, 32))  # items 30 and 31 are never seen
  for pair, weight in counted(train, 5).items():
    dense[pair] = weight
  roots = np.sqrt(np.maximum(dense.sum(1), 1e-9))
  left, singular, _ = np.linalg.svd(dense / (roots[:, None] * roots[None, :]))
  expected = left[:, :6] * np.sqrt(singular[:6])
  expected[:30] /= np.linalg.norm(expected[:30], axis=1, keepdims=True)
  expected[30:] = 0
  got, _ = cooccurrence.vectors(train, 32, 6, 5, seed=0)
  assert got.dtype == np.float32 and got.shape == (32, 6)
  np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-4)  # signs are free
  np.testing.assert_allclose(np.linalg.norm(got[:30], axis=1), 1, atol=1e-6)
  assert not got[30:].any()


def test_vectors_repeat_bit_for_bit():
  first, second = (cooccurrence.vectors(random_train(), 32, 6, 5, seed=3) for _ in range(2))
  assert [a.tobytes() for a in first] == [a.tobytes() for a in second]


def test_columns_beyond_the_number_of_items_are_zero():
  train = sequences.Sequences.from_lists([[0, 1, 2], [2, 0]])
  got, basis = cooccurrence.vectors(train, 4, 8, 5, seed=0)
  assert got.shape == basis.shape == (4, 8)
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), [1, 1, 1, 0], atol=1e-6)


@pytest.mark.parametrize('users', [[], [[]], [[1], [1, 1], [2]]])
def test_a_log_without_pairs_gives_zero_vectors(users):
  train = sequences.Sequences.from_lists(users)
  got, basis = cooccurrence.vectors(train, 3, 2, 5, seed=0)
  assert not got.any() and not basis.any()
  assert not cooccurrence.fold_in(train, np.array([0, 2]), 5, basis).any()


def test_fold_in_reproduces_the_vectors_of_basis_items():
  train = random_train()
  expected, basis = cooccurrence.vectors(train, 32, 6, 5, seed=0)
  got = cooccurrence.fold_in(train, np.arange(32), 5, basis)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_new_item_is_placed_by_its_cooccurrence_with_old_items():
  old, grown = (
    random_train(items=20),
    random_train(seed=1, items=24),
  )  # 20 … 23 are new, 24 is never seen
  _, basis = cooccurrence.vectors(old, 20, 6, 3, seed=0)
  today = np.zeros((25, 6), np.float32)
  today[:20] = basis
  dense = np.zeros((25, 25))
  for pair, weight in counted(grown, 3).items():
    dense[pair] = weight
  before = np.zeros((20, 20))
  for pair, weight in counted(old, 3).items():
    before[pair] = weight
  roots = np.sqrt(before.sum(1))
  _, singular, right = np.linalg.svd(before / (roots[:, None] * roots[None, :]))
  expected = (dense[20:, :20] / roots) @ (right[:6].T / np.sqrt(singular[:6]))
  expected[:4] /= np.linalg.norm(expected[:4], axis=1, keepdims=True)
  got = cooccurrence.fold_in(grown, np.arange(20, 25), 3, today)
  np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-3)  # signs are free
  assert not got[4].any()


def test_a_very_large_log_keeps_the_strongest_pairs_of_every_item(monkeypatch):
  train = random_train()
  whole = cooccurrence.vectors(train, 32, 6, 5, seed=0)
  monkeypatch.setattr(cooccurrence, '_ALL_PAIRS', 2 * 32 * 31)  # all pairs of every item
  for got, want in zip(cooccurrence.vectors(train, 32, 6, 5, seed=0), whole, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)
  monkeypatch.setattr(cooccurrence, '_ALL_PAIRS', 2 * 32 * 3)
  counts, degrees = cooccurrence._counts(train, 32, 5)
  pairs = counted(train, 5)
  for item in range(32):
    own = {other: weight for (first, other), weight in pairs.items() if first == item}
    best = sorted(own, key=lambda other: (-round(own[other], 9), other))[:3]
    assert counts[item].indices.tolist() == sorted(best)
    assert degrees[item] == pytest.approx(sum(own.values()))
