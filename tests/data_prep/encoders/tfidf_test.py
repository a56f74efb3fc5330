"""TF-IDF vectors compared with counts in plain Python, and words with those of scikit-learn."""

import itertools
import logging

import numpy as np
import pytest

from data_prep.encoders import tfidf
from tests.folders import contents

TEXTS = ['red nail polish', 'blue nail polish', 'dry hair shampoo', 'oily hair shampoo', '', '?!']


def _encode(texts, width=4):
  return tfidf.encode(texts, width, seed=0)


def test_rows_are_unit_vectors_and_similar_texts_have_a_high_cosine():
  got = _encode(TEXTS, width=2)
  assert got.dtype == np.float32 and got.shape == (6, 2)
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), [1, 1, 1, 1, 0, 0], atol=1e-6)
  cosines = got @ got.T
  assert cosines[0, 1] > 0.9 and cosines[2, 3] > 0.9
  assert abs(cosines[0, 2]) < 0.1


def test_equal_arguments_give_equal_bits():
  assert _encode(TEXTS).tobytes() == _encode(TEXTS).tobytes()


def test_vectors_of_tiny_catalogues_have_the_full_width():
  for texts in (['a'], ['same words', 'same words'], ['one', 'two']):
    got = _encode(texts, width=16)
    assert got.shape == (len(texts), 16)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_cosines_at_full_rank_equal_those_of_the_tfidf_weights():
  # By hand: one shared word of two; idf = 1 + ln((1 + n) / (1 + df)), no pair is shared.
  got = _encode(['red nail', 'blue nail'], width=8)
  common, rare = 1.0, 1 + np.log(3 / 2)
  expected = common**2 / (common**2 + 2 * rare**2)
  assert float(got[0] @ got[1]) == pytest.approx(expected, abs=1e-5)


def test_a_catalogue_without_words_is_rejected():
  with pytest.raises(ValueError, match=r'none of 2 does.*--config\.sids\.source'):
    _encode(['', '...'])


def test_a_saved_fit_encodes_a_later_catalogue_in_the_same_space(tmp_path):
  fit, before = tfidf.fit(TEXTS, 3, seed=0)
  fit.save(tmp_path)
  assert sorted(contents(tmp_path)) == sorted(tfidf.FILES)
  later = ['nail polish in red', *TEXTS[::-1], 'words that nobody knew', 'RED nail, polish!']
  got = tfidf.transform(tmp_path, later)
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got[1:7][::-1], before)
  np.testing.assert_array_equal(got[8], before[0])  # the same words
  assert not got[7].any()
  assert got[0] @ before[0] > 0.9 > got[0] @ before[2]


def test_a_loaded_fit_saves_the_same_bytes(tmp_path):
  for name in ('a', 'b'):
    (tmp_path / name).mkdir()
    tfidf.fit(TEXTS, 3, seed=0)[0].save(tmp_path / name)
  (tmp_path / 'c').mkdir()
  tfidf.Fit.load(tmp_path / 'a').save(tmp_path / 'c')
  assert contents(tmp_path / 'a') == contents(tmp_path / 'b') == contents(tmp_path / 'c')


def test_words_of_separated_scripts_equal_those_of_scikit_learn():
  from sklearn.feature_extraction import text as text_features

  rng = np.random.default_rng(0)
  letters = list("aeiou bcd 12_-'.,&é ΑБ각 ")
  texts = [''.join(rng.choice(letters, 60)) for _ in range(200)]
  theirs = text_features.TfidfVectorizer(
    sublinear_tf=True, ngram_range=(1, 2), token_pattern=r'(?u)\b\w+\b', max_features=100
  )
  ours = tfidf._vectorizer(max_features=100)
  expected, got = theirs.fit_transform(texts), ours.fit_transform(texts)
  assert ours.get_feature_names_out().tolist() == theirs.get_feature_names_out().tolist()
  assert (got.indices.tobytes(), got.data.tobytes()) == (
    expected.indices.tobytes(),
    expected.data.tobytes(),
  )


@pytest.mark.parametrize(
  'texts',
  [
    ['红色天然香皂', '蓝色天然香皂', '男士防晒霜', '儿童防晒霜'],
    ['赤い石けん', '青い石けん', 'メンズ日焼け止め', 'キッズ日焼け止め'],
    ['สบู่สีแดง', 'สบู่สีฟ้า', 'ครีมกันแดดชาย', 'ครีมกันแดดเด็ก'],
  ],
  ids=['chinese', 'japanese', 'thai'],
)
def test_texts_without_spaces_are_similar_by_their_characters(texts, caplog):
  with caplog.at_level(logging.WARNING):
    got = _encode(texts)
  assert not caplog.text
  cosines = got @ got.T
  assert min(cosines[0, 1], cosines[2, 3]) > 0.3
  assert np.abs(cosines[:2, 2:]).max() < 0.1


def test_a_catalogue_without_shared_words_gives_a_warning(caplog):
  with caplog.at_level(logging.WARNING):
    _encode([f'word{n} other{n}' for n in range(20)])
  assert 'only 0 of 20 item texts share a word' in caplog.text
  assert '--config.sids.source=cooccurrence' in caplog.text


def test_vectors_equal_the_singular_vectors_of_the_weights():
  # An independent oracle at full rank: cosines of sublinear TF-IDF, counted in plain Python.
  texts = ['a b a', 'b c', 'c d d d', 'a d']
  grams = []
  for text in texts:
    words = text.split()
    grams.append(words + [' '.join(pair) for pair in itertools.pairwise(words)])
  terms = sorted({gram for row in grams for gram in row})
  df = np.array([sum(term in row for row in grams) for term in terms])
  counts = np.array([[row.count(term) for term in terms] for row in grams], float)
  weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
  weights *= 1 + np.log((1 + len(texts)) / (1 + df))
  weights /= np.linalg.norm(weights, axis=1, keepdims=True)
  got = _encode(texts, width=len(terms))
  np.testing.assert_allclose(got @ got.T, weights @ weights.T, atol=1e-5)
