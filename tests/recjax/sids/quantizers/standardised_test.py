import jax
import numpy as np
import pytest

from recjax.sids.quantizers import standardised
from recjax.sids.quantizers.standardised import Standardised
from recjax.sids.vectors import Vectors


@pytest.fixture
def streamed(monkeypatch):
  monkeypatch.setattr(standardised, 'RESIDENT', 0)
  monkeypatch.setattr(standardised, 'PART', 24)
  monkeypatch.setattr(standardised, 'BLOCK', 8)


def _vectors():
  return np.random.default_rng(0).normal(4, 3, (101, 5)).astype(np.float32)


def test_streamed_vectors_equal_those_on_the_device(streamed):
  vectors = _vectors()
  got = Standardised(Vectors.of(vectors))
  rows = np.array([100, 3, 3, 51])
  centred = vectors.astype(np.float64) - vectors.mean(0)
  want = centred / np.sqrt((centred**2).mean())
  np.testing.assert_allclose(got.read(rows), want[rows], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(np.concatenate(list(got.chunks(None))), want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(np.concatenate(list(got.chunks(rows))), want[rows], rtol=1e-5)


def test_an_epoch_reads_blocks_and_shows_an_item_once(streamed):
  items = Standardised(Vectors.of(_vectors()))
  assert (items.steps(8), items.steps_of_part(8)) == (12, 3)
  order = items.order(np.random.default_rng(1), 8)
  assert order.shape == (12, 8) and len(set(order.ravel().tolist())) == 96
  for part in order.reshape(4, 24):  # three whole blocks, or four with the short one
    assert len(set((part // 8).tolist())) <= 4
    assert (np.diff(part) != 1).any()
  again = items.order(np.random.default_rng(2), 8)
  assert (again != order).any()


def test_a_part_holds_the_items_and_pairs_of_its_draws(streamed):
  vectors = _vectors()
  items = Standardised(Vectors.of(vectors))
  draws = {'items': np.array([[7, 2], [9, 9]]), 'pairs': np.array([[[1, 100]]]), 'rates': 0.5}
  local, x = items.local(draws)
  assert isinstance(x, jax.Array) and x.shape == (6, 5) and local['rates'] == 0.5
  for name in ('items', 'pairs'):
    np.testing.assert_array_equal(
      np.asarray(x)[local[name]], items.read(draws[name].ravel()).reshape(*draws[name].shape, 5)
    )
