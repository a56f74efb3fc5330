import numpy as np
import pytest

from recjax.sids.quantizers import residual_kmeans
from recjax.sids.vectors import Vectors


def _clouds(seed=0, clouds=6, width=5, spread=0.01):
  rng = np.random.default_rng(seed)
  cloud = rng.permutation(np.arange(20 * clouds) % clouds)
  vectors = rng.normal(size=(clouds, width))[cloud] + spread * rng.normal(size=(len(cloud), width))
  return vectors.astype(np.float32), cloud


def test_the_first_level_finds_separate_clusters():
  vectors, cloud = _clouds()
  codes = residual_kmeans.fit(vectors, codes=(6,), seed=0).assign(vectors)
  assert len(set(zip(codes[:, 0].tolist(), cloud.tolist(), strict=True))) == 6


@pytest.mark.parametrize('width', [5, 200])  # within and beyond the projection
def test_each_code_is_the_row_nearest_to_the_residual(width):
  vectors = np.random.default_rng(1).normal(1, 1, (300, width)).astype(np.float32)
  quantizer = residual_kmeans.fit(vectors, codes=(8, 16, 4), seed=0)
  codes = quantizer.assign(vectors)
  assert codes.dtype == np.int32 and codes.shape == (300, 3)
  # The codebooks in the space of the vectors: what the decoder adds for each row.
  books = [book @ quantizer.decoder[0][0] for book in quantizer.codebooks]
  assert [book.shape for book in books] == [(8, width), (16, width), (4, width)]
  residual, before = vectors.astype(np.float64) - vectors.mean(0), np.inf
  for level in range(3):
    distances = ((residual[:, None] - books[level][None]) ** 2).sum(-1)
    chosen = distances[np.arange(300), codes[:, level]]
    np.testing.assert_allclose(chosen, distances.min(1), rtol=1e-4)
    residual = residual - books[level][codes[:, level]]
    assert (residual**2).sum() < before
    before = (residual**2).sum()
  decoded = quantizer.decode(quantizer.quantized(codes))
  np.testing.assert_allclose(vectors - decoded, residual, atol=1e-4)


def test_codebook_rows_are_the_means_of_their_items():
  vectors, _ = _clouds(spread=0.5)
  quantizer = residual_kmeans.fit(vectors, codes=(6,), seed=0)
  codes = quantizer.assign(vectors)
  means = quantizer.decode(quantizer.codebooks[0])
  for code in range(6):
    np.testing.assert_allclose(means[code], vectors[codes[:, 0] == code].mean(0), atol=1e-5)


def test_a_repeated_fit_is_bit_identical():
  vectors, _ = _clouds(spread=1.0)
  first, second = (residual_kmeans.fit(vectors, (16, 16, 16), seed=2) for _ in range(2))
  other = residual_kmeans.fit(vectors, (16, 16, 16), seed=3)
  assert first.fingerprint == second.fingerprint != other.fingerprint


def test_fewer_distinct_vectors_than_codes_leave_codes_unused():
  vectors = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
  codes = residual_kmeans.fit(vectors, codes=(5, 5), seed=0).assign(vectors)
  assert len(np.unique(codes, axis=0)) == 3
  assert len(np.unique(codes[::4, 0])) == 3


def test_fewer_items_than_codes_and_nan_are_refused():
  with pytest.raises(ValueError, match=r'has items \(8\); got .*9.*Set --config.sids.codes'):
    residual_kmeans.fit(np.ones((8, 2), np.float32), (8, 9), seed=0)
  with pytest.raises(ValueError, match='finite'):
    residual_kmeans.fit(np.full((8, 2), np.nan, np.float32), (4, 4), seed=0)


def test_codebooks_of_large_catalogues_are_fitted_to_a_sample(monkeypatch):
  vectors = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
  whole = residual_kmeans.fit(vectors, (6, 4), seed=0)
  monkeypatch.setattr(residual_kmeans, '_ITEMS_A_CODE', 10)  # half of the items at the first level
  sampled, again = (residual_kmeans.fit(vectors, (6, 4), seed=0) for _ in range(2))
  assert sampled.fingerprint == again.fingerprint != whole.fingerprint
  errors = [
    ((vectors - quantizer.decode(quantizer.quantized(quantizer.assign(vectors)))) ** 2).sum()
    for quantizer in (whole, sampled)
  ]
  assert errors[0] < errors[1] < 2 * errors[0]


def test_a_mapped_file_and_parts_side_by_side_give_the_bytes_of_an_array(tmp_path, monkeypatch):
  vectors = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
  whole = residual_kmeans.fit(vectors, (6, 4), seed=0)
  np.save(tmp_path / 'left.npy', vectors[:, :2])
  parts = Vectors([np.load(tmp_path / 'left.npy', mmap_mode='r'), vectors[:, 2:]])
  assert residual_kmeans.fit(parts, (6, 4), seed=0).fingerprint == whole.fingerprint
  np.testing.assert_array_equal(whole.assign(parts), whole.assign(vectors))
  # The components of a sample differ a little.
  monkeypatch.setattr(residual_kmeans, '_SAMPLE', 60)
  assert residual_kmeans.fit(parts, (6, 4), seed=0).fingerprint != whole.fingerprint
