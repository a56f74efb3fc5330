import itertools

import numpy as np
import pytest

from recjax.sids.quantizers import saved


def _layers(rng, widths):
  pairs = itertools.pairwise(widths)
  return tuple(
    (rng.normal(size=(a, b)).astype(np.float32), rng.normal(size=b).astype(np.float32))
    for a, b in pairs
  )


def _quantizer(seed=0, widths=(7, 6, 3), codes=(5, 4, 6)):
  rng = np.random.default_rng(seed)
  return saved.Quantizer(
    encoder=_layers(rng, widths),
    codebooks=tuple(rng.normal(size=(c, widths[-1])).astype(np.float32) for c in codes),
    decoder=_layers(rng, widths[::-1]),
  )


def _vectors(items=50, seed=1, width=7):
  return np.random.default_rng(seed).normal(size=(items, width)).astype(np.float32)


def test_assign_is_greedy_and_last_distances_are_those_of_the_last_residual():
  quantizer, vectors = _quantizer(), _vectors()
  codes = quantizer.assign(vectors)
  distances = quantizer.last_distances(vectors, codes)
  assert codes.dtype == np.int32 and codes.shape == (50, 3) and distances.shape == (50, 6)
  (w0, b0), (w1, b1) = (tuple(a.astype(np.float64) for a in layer) for layer in quantizer.encoder)
  for vector, row, last in zip(vectors.astype(np.float64), codes, distances, strict=True):
    residual = np.maximum(vector @ w0 + b0, 0) @ w1 + b1
    for level, book in enumerate(quantizer.codebooks):
      squares = ((residual - book) ** 2).sum(1)
      assert row[level] == squares.argmin()
      if level == 2:
        np.testing.assert_allclose(last, squares, rtol=1e-3, atol=1e-4)
      residual = residual - book[row[level]]


def test_blocks_do_not_change_codes(monkeypatch):
  quantizer, vectors = _quantizer(), _vectors()
  whole = quantizer.assign(vectors)
  monkeypatch.setattr(saved, '_BLOCK', 7)
  np.testing.assert_array_equal(quantizer.assign(vectors), whole)


def test_quantized_and_decode_equal_a_hand_computation():
  quantizer = _quantizer()
  codes = np.array([[1, 2, 3], [4, 0, 5]])
  one, two, three = quantizer.codebooks
  np.testing.assert_allclose(quantizer.quantized(codes[:, :1]), one[[1, 4]])
  total = one[[1, 4]] + two[[2, 0]] + three[[3, 5]]
  np.testing.assert_allclose(quantizer.quantized(codes), total, rtol=1e-6)
  (w0, b0), (w1, b1) = quantizer.decoder
  want = np.maximum(total @ w0 + b0, 0) @ w1 + b1
  np.testing.assert_allclose(quantizer.decode(total), want, rtol=1e-4, atol=1e-5)


def test_a_saved_quantizer_is_loaded_unchanged(tmp_path):
  quantizer, vectors = _quantizer(), _vectors()
  quantizer.save(tmp_path)
  again = saved.Quantizer.load(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == [saved.FILE]
  assert again.fingerprint == quantizer.fingerprint != _quantizer(seed=1).fingerprint
  assert again.width == 7 and len(again.encoder) == len(again.decoder) == 2
  np.testing.assert_array_equal(again.assign(vectors), quantizer.assign(vectors))
  before = (tmp_path / saved.FILE).read_bytes()
  again.save(tmp_path)
  assert (tmp_path / saved.FILE).read_bytes() == before


@pytest.mark.parametrize('content', [b'', b'nonsense', None])
def test_a_damaged_file_is_refused(tmp_path, content):
  _quantizer().save(tmp_path)
  path = tmp_path / saved.FILE
  path.write_bytes(path.read_bytes()[:-40] if content is None else content)
  with pytest.raises(ValueError, match=r'quantizer\.npz must hold a quantizer'):
    saved.Quantizer.load(tmp_path)


def test_a_file_without_codebooks_is_refused(tmp_path):
  np.savez(tmp_path / saved.FILE, encoder_0_kernel=np.ones((2, 2)))
  with pytest.raises(ValueError, match=r'quantizer\.npz must hold a quantizer'):
    saved.Quantizer.load(tmp_path)


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError):
    saved.Quantizer.load(tmp_path)


def test_vectors_of_another_width_and_nan_are_refused():
  with pytest.raises(ValueError, match=r'\[items, 7\].*got \[4, 6\]. Set --config.sids.source'):
    _quantizer().assign(_vectors(4, width=6))
  vectors = _vectors()
  vectors[3, 2] = np.nan
  with pytest.raises(ValueError, match='finite'):
    _quantizer().assign(vectors)
