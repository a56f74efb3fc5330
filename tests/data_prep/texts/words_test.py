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
def test_split(text, expected):
  assert words.split(text, WORD.findall) == expected
  assert words.is_unseparated(text) == (expected != WORD.findall(text) or text == '红')


def test_neighbouring_ngrams_become_a_longer_one():
  assert words.pairs(['red', 'soap', 'bar']) == ['red soap', 'soap bar']
  assert words.pairs(['保护', '护壳']) == ['保护壳']
  assert words.pairs(['iphone', '保护']) == ['iphone 保护']
  assert words.pairs(['น้ำ', '้ำห']) == ['น้ำห']


@pytest.mark.parametrize(
  ('rows', 'expected'),
  [
    ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 'only 0 of 3 item texts'),
    ([[1, 1, 0], [0, 1, 0], [0, 0, 1]], None),
    ([[1, 0, 0], [0, 0, 0]], None),  # one text
    ([[0, 0, 0]], None),
  ],
)
def test_catalogues_without_shared_words_are_told(rows, expected):
  found = words.lonely(scipy.sparse.csr_matrix(np.array(rows)))
  assert found is None if expected is None else found.startswith(expected)
