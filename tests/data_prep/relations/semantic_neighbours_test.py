"""Nearest neighbours compared with brute force in float64."""

import numpy as np
import pytest

from data_prep.encoders import tfidf
from data_prep.relations import semantic_neighbours
from data_prep.relations.semantic_neighbours import semantic
from tests.data_prep import beauty
from tests.shared_data import needs_shared


def _cosines(vectors_ID):
  """Brute force in float64, without the item itself and without zero vectors."""
  vectors_ID = vectors_ID.astype(np.float64)
  lengths_I = np.linalg.norm(vectors_ID, axis=1)
  unit_ID = vectors_ID / np.where(lengths_I > 0, lengths_I, 1)[:, None]
  cosines_II = unit_ID @ unit_ID.T
  np.fill_diagonal(cosines_II, -np.inf)
  cosines_II[lengths_I == 0] = cosines_II[:, lengths_I == 0] = -np.inf
  return cosines_II


def _check(vectors_ID, k, tie=1e-7):
  """Compares with brute force; items whose cosines differ by less than `tie` may swap places."""
  got = semantic(vectors_ID, k)
  assert got.items.values.dtype == np.int32 and got.strengths.dtype == np.float32
  swapped = 0
  for i, cosines_I in enumerate(_cosines(vectors_ID)):
    near = np.argpartition(-cosines_I, k + 40)[: k + 40] if len(cosines_I) > k + 40 else ...
    near = np.arange(len(cosines_I))[near]
    order = near[np.lexsort((near, -cosines_I[near].astype(np.float32)))]
    expected = order[np.isfinite(cosines_I[order])][:k]
    assert len(got.items[i]) == len(expected)
    assert i not in got.items[i] and len(set(got.items[i].tolist())) == len(expected)
    np.testing.assert_allclose(cosines_I[got.items[i]], cosines_I[expected], rtol=0, atol=tie)
    strengths = got.strengths[got.items.offsets[i] : got.items.offsets[i + 1]]
    np.testing.assert_allclose(strengths, cosines_I[got.items[i]], rtol=0, atol=tie)
    swapped += int((got.items[i] != expected).sum())
  return swapped


@pytest.fixture
def small_blocks(monkeypatch):
  monkeypatch.setattr(semantic_neighbours, '_ROWS', 16)
  monkeypatch.setattr(semantic_neighbours, '_COLUMNS', 24)


@pytest.mark.parametrize('k', [1, 5, 30, 99])
def test_equals_brute_force_over_many_blocks(small_blocks, k):
  vectors_ID = np.random.default_rng(k).normal(size=(100, 12)).astype(np.float32)
  vectors_ID *= np.linspace(0.01, 9, 100, dtype=np.float32)[:, None]  # not of length one
  vectors_ID[[3, 50]] = 0
  assert _check(vectors_ID, k) == 0


def test_equal_vectors_are_ordered_by_index(small_blocks):
  rng = np.random.default_rng(0)
  vectors_ID = rng.normal(size=(90, 12)).astype(np.float32)
  vectors_ID[20:80] = vectors_ID[rng.integers(0, 3, 60)]  # three groups, far larger than k
  vectors_ID[5] = -0.0
  vectors_ID[7, 2], vectors_ID[8] = 0.0, vectors_ID[7]
  vectors_ID[8, 2] = -0.0  # the same vector as 7
  got = semantic(vectors_ID, 8)
  cosines_II = _cosines(vectors_ID)
  for i in range(90):
    same = np.flatnonzero((vectors_ID == vectors_ID[i]).all(1) & (np.arange(90) != i))
    if i == 5:
      assert not len(got.items[i])
      continue
    assert got.items[i][: len(same)].tolist() == same[:8].tolist()
    order = np.lexsort((np.arange(90), -cosines_II[i].round(9)))
    assert got.items[i].tolist() == order[:8].tolist()


def test_lists_are_shorter_if_fewer_items_have_a_vector():
  vectors_ID = np.zeros((6, 3), np.float32)
  vectors_ID[1], vectors_ID[4], vectors_ID[5] = (1, 0, 0), (1, 1, 0), (0, 0, 1)
  got = semantic(vectors_ID, 5)
  assert [got.items[i].tolist() for i in range(6)] == [[], [4, 5], [], [], [1, 5], [1, 4]]
  np.testing.assert_allclose(got.strengths, [0.5**0.5, 0, 0.5**0.5, 0, 0, 0], atol=1e-7)
  assert not semantic(np.zeros((4, 3), np.float32), 2).items.lengths.any()


def test_an_invalid_k_and_vectors_that_are_not_finite_are_rejected():
  vectors_ID = np.ones((5, 3), np.float32)
  for k in (0, 5, 9):
    with pytest.raises(
      ValueError, match=rf'smaller than the number of items, 5; got {k}\. Set --co'
    ):
      semantic(vectors_ID, k)
  vectors_ID[2, 1] = np.nan
  vectors_ID[4, 0] = np.inf
  with pytest.raises(
    ValueError, match='must be finite numbers; those of 2 of 5 items are not, such as item 2'
  ):
    semantic(vectors_ID, 2)


@needs_shared('amazon2014/beauty')
def test_titles_of_beauty_equal_brute_force():
  vectors_ID = tfidf.encode(beauty.titles()[:6000], 64, 0)
  assert _check(vectors_ID, 10) < 60  # of 60,000
