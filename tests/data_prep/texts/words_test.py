"""Words of scripts with and without spaces."""

import re

import numpy as np
import pytest
import scipy.sparse

from data_prep.texts import words

WORD = re.compile(r'(?u)\b\w+\b')


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('red soap, 2 bars', ['red', 'soap', '2', 'bars']),
    ('vélo überraschung наука', ['vélo', 'überraschung', 'наука']),
    ('빨간 비누', ['빨간', '비누']),  # Korean separates words
    ('保护壳', ['保护', '护壳']),
    ('红', ['红']),
    ('iphone15保护壳 red', ['iphone15', '保护', '护壳', 'red']),
    ('シャンプー・髪', ['シャ', 'ャン', 'ンプ', 'プー', '髪']),
    ('น้ำหอม', ['น้ำ', '้ำห', 'ำหอ', 'หอม']),  # with tone marks, which are not word characters
    ('', []),
    ('?! …', []),
  ],
)
def test_split_gives_words_and_character_ngrams(text, expected):
  assert words.split(text, WORD.findall) == expected
  assert words.is_unseparated(text) == (expected != WORD.findall(text) or text == '红')


def test_overlapping_ngrams_join_to_a_longer_ngram():
  assert words.pairs(['red', 'soap', 'bar']) == ['red soap', 'soap bar']
  assert words.pairs(['保护', '护壳']) == ['保护壳']
  assert words.pairs(['iphone', '保护']) == ['iphone 保护']
  assert words.pairs(['น้ำ', '้ำห']) == ['น้ำห']


@pytest.mark.parametrize(
  ('rows', 'expected'),
  [
    ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 'only 0 of 3 item texts'),
    ([[1, 1, 0], [0, 1, 0], [0, 0, 1]], None),
    ([[1, 0, 0], [0, 0, 0]], 'only 1 of 2 item texts have a word'),
    ([[0, 0, 0]] * 3, 'only 0 of 3 item texts have a word'),
    ([[1, 1, 0]] * 2 + [[0, 0, 0]] * 19, 'only 2 of 21 item texts have a word'),
    ([[1, 1, 0]] * 2 + [[0, 0, 0]] * 17, None),
    ([[1, 0, 0]], None),  # one text
  ],
)
def test_catalogues_with_few_shared_words_are_reported(rows, expected):
  found = words.few_shared_terms(scipy.sparse.csr_matrix(np.array(rows)))
  assert found is None if expected is None else found.startswith(expected)
