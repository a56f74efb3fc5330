"""Co-occurrence counts compared with a loop."""

import collections

import numpy as np
import pytest

from recjax.data import cooccurrence, sequences


def random_train(seed=0, users=60, items=30):
  rng = np.random.default_rng(seed)
  return sequences.Sequences.from_lists(
    [rng.integers(0, items, rng.integers(0, 9)).tolist() for _ in range(users)]
  )


def counted(train, window, weighted=True):
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
  train = random_train()
  for distance_weight in ('inverse', 'none'):
    got = cooccurrence.cooccurrence_counts(train, 32, window, distance_weight)
    expected = np.zeros((32, 32))
    for pair, weight in counted(train, window, distance_weight == 'inverse').items():
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
    expected = counted(train, 2, distance_weight == 'inverse')
    assert dict(got.todok()) == expected


def test_weights_of_long_distances_are_rounded_down_to_a_unit():
  train = sequences.Sequences.from_lists([range(60)])
  got = cooccurrence.cooccurrence_counts(train, 60, 100)
  distances = np.abs(np.arange(60)[:, None] - np.arange(60)[None, :])
  expected = np.divide(1, distances, where=distances > 0, out=np.zeros((60, 60)))
  np.testing.assert_allclose(got.toarray(), expected, rtol=0, atol=1 / 232_792_560)
  assert (got.toarray()[distances <= 20] == expected[distances <= 20]).all()


def test_the_order_of_users_does_not_matter():
  train = random_train(users=200, items=8)
  counts = cooccurrence.cooccurrence_counts(train, 8, 7)
  turned = cooccurrence.cooccurrence_counts(train.take(np.arange(200)[::-1]), 8, 7)
  assert counts.data.tobytes() == turned.data.tobytes()


def test_a_window_whose_keys_exceed_63_bits_is_rejected():
  train = sequences.Sequences.from_lists([range(9)])
  with pytest.raises(ValueError, match='at most 7 for 1140850688 items; got 8'):
    cooccurrence.cooccurrence_counts(train, 2**30 + 2**26, 8)


@pytest.mark.parametrize('keys_at_once', [37, 1 << 24])
def test_a_pair_adds_to_the_columns_of_targets_alone(monkeypatch, keys_at_once):
  monkeypatch.setattr(cooccurrence, '_KEYS_AT_ONCE', keys_at_once)
  train = random_train()
  marks = np.random.default_rng(1).random(len(train.values)) < 0.6
  expected = np.zeros((32, 32))
  for u in range(len(train)):
    for a, left in enumerate(train[u].tolist()):
      for b, right in enumerate(train[u].tolist()):
        if 1 <= abs(a - b) <= 3 and left != right and marks[train.offsets[u] + b]:
          expected[left, right] += 1 / abs(a - b)
  got = cooccurrence.cooccurrence_counts(train, 32, 3, is_target=marks)
  np.testing.assert_allclose(got.toarray(), expected, rtol=1e-15)
