import numpy as np
import pytest

from recjax.sids import vectors as vectors_lib
from recjax.sids.vectors import Vectors


@pytest.mark.parametrize('width', [1, 3, 40])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_the_mean_has_the_bits_of_numpy(width, dtype, monkeypatch):
  rows = np.random.default_rng(width).normal(3, 1, (1000, width)).astype(dtype)
  want = rows.mean(axis=0, dtype=np.float64)
  np.testing.assert_array_equal(Vectors.of(rows).mean(), want)
  monkeypatch.setattr(Vectors.blocks, '__defaults__', (37,))
  got = Vectors.of(rows).mean()
  if width == 1:  # NumPy adds a single column in pairs
    np.testing.assert_allclose(got, want, rtol=1e-15)
  else:
    np.testing.assert_array_equal(got, want)


def test_parts_stand_side_by_side_and_rows_are_chosen(tmp_path):
  rng = np.random.default_rng(0)
  left, right = rng.normal(size=(9, 2)).astype(np.float32), rng.normal(size=(9, 3))
  np.save(tmp_path / 'left.npy', left)
  found = Vectors([np.load(tmp_path / 'left.npy', mmap_mode='r'), right])
  whole = np.concatenate([left, right], axis=1)
  assert len(found) == 9 and found.shape == (9, 5)
  np.testing.assert_array_equal(found[2:4], whole[2:4])
  np.testing.assert_array_equal(found[np.array([5, 1])], whole[[5, 1]])
  chosen = found.take(np.array([8, 2, 2, 7]))
  assert chosen.shape == (4, 5)
  np.testing.assert_array_equal(np.concatenate(list(chosen.blocks(3))), whole[[8, 2, 2, 7]])
  np.testing.assert_array_equal(chosen.take(np.array([3, 0]))[:], whole[[7, 8]])
  assert Vectors.of(found) is found


def test_a_number_that_is_not_finite_is_found_in_any_block():
  rows = np.zeros((vectors_lib.BLOCK + 3, 1), np.float32)
  assert Vectors.of(rows).is_finite()
  rows[-1] = np.nan
  assert not Vectors.of(rows).is_finite()
