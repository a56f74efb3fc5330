import json

import numpy as np
import pytest

from recjax.sids import quality
from recjax.sids.quantizers import residual_kmeans
from recjax.sids.table import SidTable


def _brute_recall(codes, vectors, k, draws=400, seed=0):
  """Ranks all others by common prefix, ties in random order, many times."""
  rng = np.random.default_rng(seed)
  unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  hits = []
  for i in range(len(codes)):
    others = np.delete(np.arange(len(codes)), i)
    nearest = set(others[np.argsort(-(unit[others] @ unit[i]), kind='stable')[:k]].tolist())
    prefix = (codes[others] == codes[i]).cumprod(axis=1).sum(axis=1)
    for _ in range(draws):
      ranked = others[np.lexsort([rng.random(len(others)), -prefix])]
      hits.append(len(nearest & set(ranked[:k].tolist())) / k)
  return np.mean(hits)


def test_neighbours_kept_equals_ranking_by_prefix():
  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(40, 3)).astype(np.float32)
  codes = residual_kmeans.fit(vectors, (4, 3), seed=0).assign(vectors)
  got = quality.neighbours_kept(codes, vectors)
  assert got['k'] == 10 and got['items'] == 40
  assert got['recall'] == pytest.approx(_brute_recall(codes, vectors, 10), abs=5e-3)
  assert got['recall'] > 2 * got['chance']
  assert got['chance'] == pytest.approx(10 / 39, abs=1e-4)
  unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  cosine = unit @ unit.T - 9 * np.eye(40)
  nearest = np.argsort(-cosine, axis=1)[:, :10]
  for level in (1, 2):
    same = (codes[:, None, :level] == codes[None, :, :level]).all(-1)
    share = np.take_along_axis(same, nearest, axis=1).mean()
    assert got['share_prefix'][level - 1] == pytest.approx(share, abs=1e-4)
    chance = (same.sum() - 40) / (40 * 39)
    assert got['share_prefix_chance'][level - 1] == pytest.approx(chance, abs=1e-4)


def test_uninformative_codes_have_the_recall_of_chance():
  vectors = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
  got = quality.neighbours_kept(np.zeros((50, 3), np.int32), vectors)
  assert got['recall'] == got['chance'] == pytest.approx(10 / 49, abs=1e-4)


def test_codes_equal_to_the_neighbourhoods_have_full_recall():
  clouds = np.repeat(np.arange(5), 11)
  rng = np.random.default_rng(2)
  vectors = 10 * np.eye(5)[clouds] + 0.01 * rng.normal(size=(55, 5))
  assert quality.neighbours_kept(clouds[:, None], vectors)['recall'] == 1.0


def test_large_catalogues_are_sampled(monkeypatch):
  vectors = np.random.default_rng(3).normal(size=(60, 4)).astype(np.float32)
  codes = residual_kmeans.fit(vectors, (5, 5), seed=0).assign(vectors)
  whole = quality.neighbours_kept(codes, vectors)
  monkeypatch.setattr(quality, '_BLOCK_VALUES', 130)
  assert quality.neighbours_kept(codes, vectors) == whole
  monkeypatch.setattr(quality, '_MAX_PAIRS', 60 * 30)
  sample = quality.neighbours_kept(codes, vectors)
  assert sample['items'] == 30
  assert abs(sample['recall'] - whole['recall']) < 0.15


@pytest.mark.parametrize('items', [2, 6])
def test_catalogues_of_few_items_have_fewer_neighbours(items):
  got = quality.neighbours_kept(np.zeros((items, 2), np.int32), np.eye(items, 3, dtype=np.float32))
  assert got['k'] == items - 1
  assert got['recall'] == got['chance'] == 1.0
  assert len(got['share_prefix']) == 2


def test_a_single_item_has_no_neighbours():
  assert quality.neighbours_kept(np.zeros((1, 2), np.int32), np.ones((1, 3), np.float32)) is None


@pytest.mark.parametrize('block', [3, 100])
def test_unexplained_variance_equals_a_hand_computation(monkeypatch, block):
  monkeypatch.setattr(quality, '_BLOCK_ROWS', block)
  vectors = np.array([[0, 0], [0, 2], [4, 0], [4, 2]], np.float32)
  quantizer = residual_kmeans.fit(vectors, (2, 2), seed=0)
  codes = quantizer.assign(vectors)
  # Around (2, 1) the squares are 4 + 1 an item; the first level explains the 4, the second the 1.
  assert quality.reconstruction_error(quantizer, vectors, codes) == pytest.approx(
    [0.2, 0], abs=1e-3
  )
  same = np.ones((4, 2), np.float32)
  quantizer = residual_kmeans.fit(same, (1,), seed=0)
  assert quality.reconstruction_error(quantizer, same, quantizer.assign(same)) == [0.0]


def test_purity_equals_a_hand_computation():
  codes = np.array([0, 0, 0, 1, 1, 2, 2])
  paths = [['A', 'x'], ['A', 'x', 'deep'], ['A', 'y'], ['A', 'y'], ['A', 'z'], ['A'], None]
  got = quality.purity(codes, paths)
  # Items 5 and 6 have no second category: 2 of 3 items of code 0 and 1 of 2 of code 1 agree.
  assert (got['category_level'], got['categories'], got['items']) == (2, 3, 5)
  assert got['purity'] == 0.6
  assert 0 < got['chance'] <= 1


@pytest.mark.parametrize(
  'paths', [[None] * 3, [['A']] * 3, [[], ['A'], None], [['A', 'b'], ['A'], []]]
)
def test_purity_is_none_without_different_categories(paths):
  assert quality.purity(np.arange(3), paths) is None


def test_assess_leaves_out_the_deduplication_level_and_unknown_measures(tmp_path):
  vectors = np.random.default_rng(4).normal(size=(30, 4)).astype(np.float32)
  quantizer = residual_kmeans.fit(vectors, (4, 4), seed=0)
  codes = quantizer.assign(vectors)
  counted = np.concatenate([codes, np.arange(30)[:, None]], axis=1).astype(np.int32)
  paths = [['a'], ['b']] * 15
  one = quality.assess(SidTable(counted, (4, 4, 30), 'q'), vectors, quantizer, paths)
  two = quality.assess(SidTable(codes, (4, 4), 'q', 'keep'), vectors, quantizer, paths)
  for name in ('reconstruction_error', 'neighbours_kept', 'purity', 'colliding_items'):
    assert one[name] == two[name]
  assert len(one['reconstruction_error']) == 2
  bare = quality.assess(SidTable(codes, (4, 4), 'q', 'keep'), None, None, [None] * 30)
  assert bare['colliding_items'] == two['colliding_items']
  assert bare['reconstruction_error'] is bare['neighbours_kept'] is bare['purity'] is None
  quality.write(tmp_path, one)
  assert [path.name for path in tmp_path.iterdir()] == ['quality.json']
  assert json.loads((tmp_path / 'quality.json').read_text()) == one


def test_blocks_of_a_large_catalogue_do_not_change_the_measures(monkeypatch):
  vectors = np.random.default_rng(5).normal(size=(70, 4)).astype(np.float32)
  quantizer = residual_kmeans.fit(vectors, (5, 5), seed=0)
  codes = quantizer.assign(vectors)
  whole = quality.neighbours_kept(codes, vectors)
  for block in (9, 40):
    monkeypatch.setattr(quality, '_BLOCK_ITEMS', block)
    assert quality.neighbours_kept(codes, vectors) == whole
  errors = quality.reconstruction_error(quantizer, vectors, codes)
  monkeypatch.setattr(quality, '_MAX_DECODED', 50)
  sampled = quality.reconstruction_error(quantizer, vectors, codes)
  assert sampled != errors and sampled == pytest.approx(errors, rel=0.2)
