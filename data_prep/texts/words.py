"""Splits texts into words; scripts that do not separate words are split into character n-grams."""

from collections.abc import Callable, Iterator, Sequence
import itertools
import re

import numpy as np

# Chinese and Japanese, where a character is at least a syllable: bigrams, as in Lucene's CJKAnalyzer.
_IDEOGRAPHS = (
  '\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff'
  '\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af'
)
# Thai, Lao, Tibetan, Burmese and Khmer: trigrams of letters and marks, without digits and punctuation.
_LETTERS = (
  '\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0f40-\u0fbc\u1000-\u103f\u1050-\u108f\u1780-\u17d3'
)
_UNSEPARATED = re.compile(f'[{_IDEOGRAPHS}]+|[{_LETTERS}]+')
_LENGTHS = {True: 2, False: 3}  # n of the n-grams; True: ideographs, False: letters
_FEW = 0.1  # a smaller share of texts with a shared term gives a warning


def is_unseparated(text: str) -> bool:
  """Returns whether the text has characters of a script that does not separate words."""
  return _UNSEPARATED.search(text) is not None


def split(text: str, words: Callable[[str], Sequence[str]]) -> list[str]:
  """Returns the words of a text in order.

  Args:
    text: a text of any scripts.
    words: splits text of scripts that separate words.
  """
  if not is_unseparated(text):
    return list(words(text))
  found, end = [], 0
  for run in _UNSEPARATED.finditer(text):
    found += words(text[end : run.start()])
    found += ngrams(run[0])
    end = run.end()
  return found + list(words(text[end:]))


def ngrams(run: str) -> Iterator[str]:
  """Yields the character n-grams of a run of one unseparated script; a run shorter than n is one n-gram."""
  n = _LENGTHS[re.match(f'[{_IDEOGRAPHS}]', run) is not None]
  return (run[i : i + n] for i in range(max(len(run) - n + 1, 1)))


def phrases(text: str) -> list[str]:
  """Splits text with unseparated scripts at punctuation; marks of these scripts are not punctuation."""
  return re.split(f"[^\\w\\s'’{_IDEOGRAPHS}{_LETTERS}-]+", text)


def phrase(first: str, second: str) -> str:
  """Joins two neighbouring words; overlapping n-grams become one longer n-gram."""
  if is_unseparated(first) and is_unseparated(second) and first[1:] == second[: len(first) - 1]:
    return first + second[len(first) - 1 :]
  return f'{first} {second}'


def pairs(words: Sequence[str]) -> list[str]:
  """Returns the phrases of all pairs of neighbouring words."""
  return [phrase(*pair) for pair in itertools.pairwise(words)]


def few_shared_terms(counts_IV) -> str | None:
  """Returns a warning if almost no item text has a term, or shares one with another text; else None.

  Args:
    counts_IV: counts or weights of terms, a sparse matrix in CSR format.
  """
  num_terms_I = np.diff(counts_IV.indptr)
  texts_V = np.bincount(counts_IV.indices, minlength=counts_IV.shape[1])
  owners = np.repeat(np.arange(len(num_terms_I)), num_terms_I)
  sharing = len(np.unique(owners[texts_V[counts_IV.indices] > 1]))
  non_empty = int((num_terms_I > 0).sum())
  if non_empty < min(2, len(num_terms_I)) or non_empty < _FEW * len(num_terms_I):
    return f'only {non_empty:,} of {len(num_terms_I):,} item texts have a word'
  if non_empty < 2 or sharing >= _FEW * non_empty:
    return None
  return f'only {sharing:,} of {non_empty:,} item texts share a word with another one'
