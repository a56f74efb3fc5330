import collections

import numpy as np
import pytest

from recjax.sids import quantizers


def _clouds(seed=0, clouds=6, width=5, spread=0.01):
  rng = np.random.default_rng(seed)
  cloud = rng.permutation(np.arange(20 * clouds) % clouds)
  vectors = rng.normal(size=(clouds, width))[cloud] + spread * rng.normal(size=(len(cloud), width))
  return vectors.astype(np.float32), cloud


def test_first_level_finds_separate_clouds():
  vectors, cloud = _clouds()
  codes, _ = quantizers.residual_kmeans(vectors, codes=(6,), seed=0)
  assert len(set(zip(codes[:, 0].tolist(), cloud.tolist(), strict=True))) == 6


@pytest.mark.parametrize('width', [5, 200])  # within and beyond the projection
def test_each_code_is_the_row_nearest_to_the_residual(width):
  vectors = np.random.default_rng(1).normal(1, 1, (300, width)).astype(np.float32)
  codes, codebooks = quantizers.residual_kmeans(vectors, codes=(8, 16, 4), seed=0)
  assert codes.dtype == np.int32 and codes.shape == (300, 3)
  assert [book.shape for book in codebooks] == [(8, width), (16, width), (4, width)]
  assert all(book.dtype == np.float32 for book in codebooks)
  residual, before = vectors.astype(np.float64), np.inf
  for level in range(3):
    distances = ((residual[:, None] - codebooks[level][None]) ** 2).sum(-1)
    chosen = distances[np.arange(300), codes[:, level]]
    np.testing.assert_allclose(chosen, distances.min(1), rtol=1e-4)
    residual = residual - codebooks[level][codes[:, level]]
    assert (residual**2).sum() < before
    before = (residual**2).sum()


def test_codebook_rows_are_the_means_of_their_items():
  vectors, _ = _clouds(spread=0.5)
  codes, codebooks = quantizers.residual_kmeans(vectors, codes=(6,), seed=0)
  for code in range(6):
    mean = vectors[codes[:, 0] == code].mean(0)
    np.testing.assert_allclose(codebooks[0][code], mean, atol=1e-5)


def test_repeats_bit_for_bit():
  vectors, _ = _clouds(spread=1.0)
  first, second = (quantizers.residual_kmeans(vectors, (16, 16, 16), seed=2) for _ in range(2))
  assert first[0].tobytes() == second[0].tobytes()
  for one, other in zip(first[1], second[1], strict=True):
    assert one.tobytes() == other.tobytes()


def test_fewer_distinct_vectors_than_codes():
  vectors = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
  codes, _ = quantizers.residual_kmeans(vectors, codes=(5, 5), seed=0)
  assert len(np.unique(codes, axis=0)) >= 3
  assert len(np.unique(codes[::4, 0])) == 3


def test_refuses_fewer_items_than_codes_and_nan():
  with pytest.raises(ValueError, match=r'\(9\); got 8 items. Set --config.sids.codes'):
    quantizers.residual_kmeans(np.ones((8, 2), np.float32), (8, 9), seed=0)
  with pytest.raises(ValueError, match='finite'):
    quantizers.residual_kmeans(np.full((8, 2), np.nan, np.float32), (4, 4), seed=0)


@pytest.mark.parametrize('seed', range(3))
def test_deduplicate_counts_in_item_order(seed):
  codes = np.random.default_rng(seed).integers(0, 4, (100, 3)).astype(np.int32)
  got, size = quantizers.deduplicate(codes)
  counter = collections.Counter()
  for before, after in zip(codes.tolist(), got.tolist(), strict=True):
    assert after == [*before, counter[tuple(before)]]
    counter[tuple(before)] += 1
  assert size == 2 * max(counter.values())
  assert got.dtype == np.int32


def test_deduplicate_without_collisions():
  got, size = quantizers.deduplicate(np.array([[1, 0], [0, 1]], np.int32))
  assert got.tolist() == [[1, 0, 0], [0, 1, 0]]
  assert size == 2
