"""Compares the best numbers with those of a stable sort."""

import jax
import numpy as np
import pytest

from recjax.decode.top_k import top_k


@pytest.mark.parametrize(('k', 'size'), [(17, 1500), (20, 2048), (5, 600), (40, 80), (33, 2113)])
@pytest.mark.parametrize('values', [3, 10_000])
def test_the_best_numbers_and_their_indices_equal_a_stable_sort(k, size, values):
  rng = np.random.default_rng(k)
  x_BX = rng.integers(0, values, (4, size)).astype(np.float32)  # few values make ties
  x_BX[1] = -np.inf
  x_BX[2, : size // 2] = -np.inf
  best_Bk, at_Bk = jax.jit(top_k, static_argnums=1)(x_BX, k)
  expected_Bk = np.argsort(-x_BX, axis=1, kind='stable')[:, :k]
  np.testing.assert_array_equal(at_Bk, expected_Bk)
  np.testing.assert_array_equal(best_Bk, np.take_along_axis(x_BX, expected_Bk, axis=1))
