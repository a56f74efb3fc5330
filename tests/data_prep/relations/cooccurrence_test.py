"""Co-occurrence counts compared with a loop, and vectors with a dense SVD."""

import collections

import numpy as np
import pytest

from data_prep.relations import cooccurrence
from recjax.data import sequences


def _train(seed=0, users=60, items=30):
  rng = np.random.default_rng(seed)
  return sequences.Sequences.from_lists(
    [rng.integers(0, items, rng.integers(0, 9)).tolist() for _ in range(users)]
  )


def _counted(train, window, weighted=True):
  counts = collections.Counter()
  for u in range(len(train)):
    items = train[u].tolist()
    for a, left in enumerate(items):
      for distance in range(1, window + 1):
        if a + distance < len(items) and items[a + distance] != left:
          counts[left, items[a + distance]] += 1 / distance if weighted else 1
          counts[items[a + distance], left] += 1 / distance if weighted else 1
  return counts


@pytest.mark.parametrize('keys_at_once', [1, 37, 1 << 24])
@pytest.mark.parametrize('window', [1, 3, 5, 100])
def test_counts_equal_a_loop(monkeypatch, window, keys_at_once):
  monkeypatch.setattr(cooccurrence, '_KEYS_AT_ONCE', keys_at_once)
  train = _train()
  for distance_weight in ('inverse', 'none'):
    got = cooccurrence.cooccurrence_counts(train, 32, window, distance_weight)
    expected = np.zeros((32, 32))
    for pair, weight in _counted(train, window, distance_weight == 'inverse').items():
      expected[pair] = weight
    np.testing.assert_allclose(got.toarray(), expected, rtol=1e-15)
    assert (got != got.T).nnz == 0
    assert got.has_canonical_format and got.dtype == np.float64


@pytest.mark.parametrize('num_items', [2**16 - 1, 2**16, 100_000])
def test_pairs_of_many_items_need_64_bits(num_items):
  users = [[num_items - 1, num_items - 2, 0], [0, num_items - 1, num_items - 1]]
  train = sequences.Sequences.from_lists(users)
  for distance_weight in ('inverse', 'none'):
    got = cooccurrence.cooccurrence_counts(train, num_items, 2, distance_weight)
    expected = _counted(train, 2, distance_weight == 'inverse')
    assert dict(got.todok()) == expected


def test_weights_of_long_distances_are_rounded_down_to_a_unit():
  train = sequences.Sequences.from_lists([range(60)])
  got = cooccurrence.cooccurrence_counts(train, 60, 100)
  distances = np.abs(np.arange(60)[:, None] - np.arange(60)[None, :])
  expected = np.divide(1, distances, where=distances > 0, out=np.zeros((60, 60)))
  np.testing.assert_allclose(got.toarray(), expected, rtol=0, atol=1 / 232_792_560)
  assert (got.toarray()[distances <= 20] == expected[distances <= 20]).all()


def test_the_order_of_users_does_not_matter():
  train = _train(users=200, items=8)
  counts = cooccurrence.cooccurrence_counts(train, 8, 7)
  turned = cooccurrence.cooccurrence_counts(train.take(np.arange(200)[::-1]), 8, 7)
  assert counts.data.tobytes() == turned.data.tobytes()


def test_a_window_whose_keys_exceed_63_bits_is_rejected():
  train = sequences.Sequences.from_lists([range(9)])
  with pytest.raises(ValueError, match='at most 7 for 1140850688 items; got 8'):
    cooccurrence.cooccurrence_counts(train, 2**30 + 2**26, 8)


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
  got, _ = cooccurrence.vectors(train, 32, 6, 5, seed=0)
  assert got.dtype == np.float32 and got.shape == (32, 6)
  np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-4)  # signs are free
  np.testing.assert_allclose(np.linalg.norm(got[:30], axis=1), 1, atol=1e-6)
  assert not got[30:].any()


def test_vectors_repeat_bit_for_bit():
  first, second = (cooccurrence.vectors(_train(), 32, 6, 5, seed=3) for _ in range(2))
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
  train = _train()
  expected, basis = cooccurrence.vectors(train, 32, 6, 5, seed=0)
  got = cooccurrence.fold_in(train, np.arange(32), 5, basis)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_new_item_is_placed_by_its_cooccurrence_with_old_items():
  old, grown = _train(items=20), _train(seed=1, items=24)  # 20 … 23 are new, 24 is never seen
  _, basis = cooccurrence.vectors(old, 20, 6, 3, seed=0)
  today = np.zeros((25, 6), np.float32)
  today[:20] = basis
  dense = np.zeros((25, 25))
  for pair, weight in _counted(grown, 3).items():
    dense[pair] = weight
  before = np.zeros((20, 20))
  for pair, weight in _counted(old, 3).items():
    before[pair] = weight
  roots = np.sqrt(before.sum(1))
  _, singular, right = np.linalg.svd(before / (roots[:, None] * roots[None, :]))
  expected = (dense[20:, :20] / roots) @ (right[:6].T / np.sqrt(singular[:6]))
  expected[:4] /= np.linalg.norm(expected[:4], axis=1, keepdims=True)
  got = cooccurrence.fold_in(grown, np.arange(20, 25), 3, today)
  np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-3)  # signs are free
  assert not got[4].any()
