"""Words of texts, also of scripts that do not separate words: those are cut into character n-grams."""

from collections.abc import Callable, Iterator, Sequence
import itertools
import re

import numpy as np

# Chinese and Japanese: a character is a syllable or more. Bigrams, as in Lucene's CJKAnalyzer.
_IDEOGRAPHS = (
  '\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff'
  '\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af'
)
# Thai, Lao, Tibetan, Burmese and Khmer: letters and marks, without digits and punctuation.
_LETTERS = (
  '\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0f40-\u0fbc\u1000-\u103f\u1050-\u108f\u1780-\u17d3'
)
_UNSEPARATED = re.compile(f'[{_IDEOGRAPHS}]+|[{_LETTERS}]+')
_LENGTHS = {True: 2, False: 3}  # of the n-grams of ideographs and of letters
_FEW = 0.1  # share of texts below which a warning is given


def is_unseparated(text: str) -> bool:
  """Whether the text has characters of a script that does not separate words."""
  return _UNSEPARATED.search(text) is not None


def split(text: str, words: Callable[[str], Sequence[str]]) -> list[str]:
  """Returns the words of a text in order.

  Args:
    text: any.
    words: splits text of other scripts. It alone is used for texts without unseparated scripts.
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
  """Yields the character n-grams of a run of one unseparated script; a shorter run as a whole."""
  n = _LENGTHS[re.match(f'[{_IDEOGRAPHS}]', run) is not None]
  return (run[i : i + n] for i in range(max(len(run) - n + 1, 1)))


def phrases(text: str) -> list[str]:
  """Splits text with unseparated scripts at punctuation; the marks of these scripts are kept."""
  return re.split(f"[^\\w\\s'’{_IDEOGRAPHS}{_LETTERS}-]+", text)


def phrase(first: str, second: str) -> str:
  """Joins two neighbouring words; overlapping n-grams become one longer n-gram."""
  if is_unseparated(first) and is_unseparated(second) and first[1:] == second[: len(first) - 1]:
    return first + second[len(first) - 1 :]
  return f'{first} {second}'


def pairs(words: Sequence[str]) -> list[str]:
  """Returns all neighbouring words as phrases."""
  return [phrase(*pair) for pair in itertools.pairwise(words)]


def lonely(counts_IV) -> str | None:
  """Describes a catalogue in which almost no two texts share a term; None for any other.

  Args:
    counts_IV: sparse counts or weights of terms, in CSR format.
  """
  num_terms_I = np.diff(counts_IV.indptr)
  texts_V = np.bincount(counts_IV.indices, minlength=counts_IV.shape[1])
  owners = np.repeat(np.arange(len(num_terms_I)), num_terms_I)
  shares = len(np.unique(owners[texts_V[counts_IV.indices] > 1]))
  filled = int((num_terms_I > 0).sum())
  if filled < 2 or shares >= _FEW * filled:
    return None
  return f'only {shares:,} of {filled:,} item texts share a word with another one'
