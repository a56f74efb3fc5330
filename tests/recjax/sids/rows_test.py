"""SA-Init beside float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.sids import rows

NAMES = ('<a_0>', '<a_1>', '<b_0>', '<b_1>')
KEYWORDS = {'<a_0>': ['one two', 'three'], '<b_0>': ['two'], '<b_1>': [], '<z_9>': ['one']}
PIECES = {'one': [1], 'two': [2, 5], 'three': [3]}


def encode(text):
  return [piece for word in text.split() for piece in PIECES[word]]


def test_a_row_is_the_mean_of_its_pieces_at_the_mean_norm():
  table = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
  pieces_N, rows_N = rows.keyword_pieces(NAMES, KEYWORDS, encode)
  assert pieces_N.tolist() == [1, 2, 5, 3, 2, 5]
  assert rows_N.tolist() == [0, 0, 0, 0, 2, 2]
  got = jax.jit(rows.semantic_rows, static_argnums=3)(jnp.asarray(table), pieces_N, rows_N, 4)
  exact = table.astype(np.float64)
  norm = np.mean([np.sqrt((row**2).sum()) for row in exact])
  means = [exact[[1, 2, 5, 3]].mean(0), exact.mean(0), exact[[2, 5]].mean(0), exact.mean(0)]
  expected = [mean * norm / np.sqrt((mean**2).sum()) for mean in means]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_zero_mean_row_stays_finite():
  pieces_N, rows_N = rows.keyword_pieces(NAMES, KEYWORDS, encode)
  got = rows.semantic_rows(jnp.zeros((8, 6)), pieces_N, rows_N, 4)
  np.testing.assert_array_equal(got, np.zeros((4, 6)))


@pytest.mark.parametrize('keywords', [{}, {'<z_9>': ['one']}, {'<a_0>': []}])
def test_keywords_of_another_code_space_are_refused(keywords):
  with pytest.raises(
    ValueError, match=r"SID tokens such as '<a_0>'.*--config\.model\.sid_keywords"
  ):
    rows.keyword_pieces(NAMES, keywords, encode)
