import numpy as np
import pytest

from data_prep import encoders
from recjax import config

TEXTS = ['red nail polish', 'blue nail polish', 'dry hair shampoo', 'oily hair shampoo', '', '?!']


def _encode(texts, width=4):
  return encoders.encode(texts, config.Sids(encoder='tfidf', tfidf_width=width))


def test_rows_have_length_one_and_near_texts_are_near():
  got = _encode(TEXTS, width=2)
  assert got.dtype == np.float32 and got.shape == (6, 2)
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), [1, 1, 1, 1, 0, 0], atol=1e-6)
  cosines = got @ got.T
  assert cosines[0, 1] > 0.9 and cosines[2, 3] > 0.9
  assert abs(cosines[0, 2]) < 0.1


def test_repeats_bit_for_bit():
  assert _encode(TEXTS).tobytes() == _encode(TEXTS).tobytes()


def test_tiny_catalogues_keep_the_width():
  for texts in (['a'], ['same words', 'same words'], ['one', 'two']):
    got = _encode(texts, width=16)
    assert got.shape == (len(texts), 16)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_cosines_of_full_width_are_those_of_tfidf():
  # By hand: one shared word of two; idf = 1 + ln((1 + n) / (1 + df)), no pair is shared.
  got = _encode(['red nail', 'blue nail'], width=8)
  common, rare = 1.0, 1 + np.log(3 / 2)
  expected = common**2 / (common**2 + 2 * rare**2)
  assert float(got[0] @ got[1]) == pytest.approx(expected, abs=1e-5)


def test_texts_without_any_word_are_refused():
  with pytest.raises(ValueError, match=r'none of 2 has any.*--config\.sids\.source'):
    _encode(['', '...'])
