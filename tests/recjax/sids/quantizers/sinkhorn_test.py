import numpy as np
import pytest
from scipy import optimize

from recjax.sids.quantizers import saved, sinkhorn


def _plain(codebooks):
  """A quantizer whose latents are the vectors themselves."""
  width = codebooks[0].shape[1]
  layer = (np.eye(width, dtype=np.float32), np.zeros(width, np.float32))
  return saved.Quantizer((layer,), tuple(book.astype(np.float32) for book in codebooks), (layer,))


def _world(seed=0, items=300, prefixes=20, codes=24, width=4):
  """Items crowded on few of the last level's codes."""
  rng = np.random.default_rng(seed)
  first = 20 * rng.normal(size=(prefixes, width))
  last = rng.normal(size=(codes, width))
  quantizer = _plain([first, last])
  vectors = first[rng.integers(0, prefixes, items)] + 0.3 * rng.normal(size=(items, width))
  return quantizer, vectors.astype(np.float32)


def _colliding(codes):
  _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
  return counts[inverse.ravel()] > 1


@pytest.mark.parametrize('seed', range(3))
def test_codes_are_unique_near_the_best_assignment_and_other_items_keep_theirs(seed):
  quantizer, vectors = _world(seed)
  codes = quantizer.assign(vectors)
  open_items = _colliding(codes)
  assert 50 < open_items.sum() < 300
  got, found = sinkhorn.reassign(quantizer, vectors, codes)
  assert got.dtype == np.int32
  assert not _colliding(got).any()
  np.testing.assert_array_equal(got[:, :-1], codes[:, :-1])
  np.testing.assert_array_equal(got[~open_items], codes[~open_items])
  assert found['reassigned_items'] == (got != codes).any(axis=1).sum()
  # The exact least total distance over the codes that were free, by the Hungarian method.
  distances = quantizer.last_distances(vectors, codes)
  best = 0.0
  for prefix in np.unique(codes[:, 0]):
    inside = np.flatnonzero(open_items & (codes[:, 0] == prefix))
    cost = distances[inside].astype(np.float64)
    cost[:, codes[~open_items & (codes[:, 0] == prefix), 1]] = 1e6
    best += cost[optimize.linear_sum_assignment(cost)].sum()
  spent = distances[open_items, got[open_items, 1]].sum()
  assert best <= spent * (1 + 1e-5)
  assert spent < 1.01 * best


def test_equal_vectors_take_the_nearest_free_codes_in_item_order():
  quantizer = _plain([np.zeros((1, 2)), np.array([[0, 0], [3, 0], [1, 0], [0, 2]])])
  vectors = np.zeros((4, 2), np.float32)
  codes = quantizer.assign(vectors)
  got, found = sinkhorn.reassign(quantizer, vectors, codes)
  assert got[:, 1].tolist() == [0, 2, 3, 1]
  assert found == {'reassigned_items': 3, 'reassigned_greedily': 4}


def test_an_item_alone_on_its_code_keeps_it_from_others():
  quantizer = _plain([np.zeros((1, 1)), np.array([[0.0], [1.0], [5.0]])])
  vectors = np.array([[0.0], [0.2], [1.0]], np.float32)
  got, _ = sinkhorn.reassign(quantizer, vectors, quantizer.assign(vectors))
  assert got[:, 1].tolist() == [0, 2, 1]  # the code 1 is nearer to the second item, and taken


def test_a_table_without_collisions_is_unchanged():
  quantizer, vectors = _world()
  codes = np.unique(quantizer.assign(vectors), axis=0)
  got, found = sinkhorn.reassign(quantizer, vectors[: len(codes)], codes)
  np.testing.assert_array_equal(got, codes)
  assert found == {'reassigned_items': 0, 'reassigned_greedily': 0}


def test_a_single_level_is_reassigned():
  quantizer = _plain([np.array([[0.0], [1.0], [2.0]])])
  vectors = np.array([[0.1], [0.0], [0.2]], np.float32)
  got, _ = sinkhorn.reassign(quantizer, vectors, quantizer.assign(vectors))
  assert sorted(got[:, 0].tolist()) == [0, 1, 2]
  assert got[2, 0] > 0


def test_more_items_than_codes_are_refused():
  quantizer = _plain([np.zeros((1, 1)), np.array([[0.0], [1.0]])])
  vectors = np.zeros((3, 1), np.float32)
  with pytest.raises(ValueError, match=r'at most 2 items.*got 3. Set --config.sids.codes'):
    sinkhorn.reassign(quantizer, vectors, quantizer.assign(vectors))


def test_the_result_does_not_depend_on_the_block_size(monkeypatch):
  quantizer, vectors = _world()
  codes = quantizer.assign(vectors)
  whole, _ = sinkhorn.reassign(quantizer, vectors, codes)
  monkeypatch.setattr(sinkhorn, '_BLOCK_VALUES', 1)
  np.testing.assert_array_equal(sinkhorn.reassign(quantizer, vectors, codes)[0], whole)


def test_parts_of_the_catalogue_give_the_codes_of_the_whole(monkeypatch):
  quantizer, vectors = _world(codes=60)
  vectors[20:26], vectors[40:43] = vectors[20], vectors[40]  # greedy, after the rounds
  codes = quantizer.assign(vectors)
  whole, found = sinkhorn.reassign(quantizer, vectors, codes)
  assert found['reassigned_greedily'] >= 9
  monkeypatch.setattr(sinkhorn, '_DISTANCES', 60 * 30)  # 30 items
  got, again = sinkhorn.reassign(quantizer, vectors, codes)
  np.testing.assert_array_equal(got, whole)
  assert again == found
