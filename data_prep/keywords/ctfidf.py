"""A teacher that needs no model: the words that set a token's items apart."""

from collections import Counter
from collections.abc import Iterator, Sequence
import itertools
import re
from typing import Any

import numpy as np
import scipy.sparse

from data_prep.keywords.groups import Group

_PHRASE_END = re.compile(r"[^\w\s'’-]+")  # a pair of words never reaches across
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_MIN_LETTERS = 2  # of a word
_IN_SENTENCE = 6  # keywords that the description names
_TITLES, _TITLE_CHARACTERS = 3, 80  # that it quotes


def terms(text: str) -> Iterator[str]:
  """Words and pairs of neighbouring words, in lower case.

  English stop words (scikit-learn's list), words without a letter and single letters are none, and
  divide pairs like punctuation does.
  """
  # Takes a second, which a start with prepared data saves.
  from sklearn.feature_extraction import text as text_features

  for phrase in _PHRASE_END.split(text.lower()):
    previous = ''
    for word in _WORD.findall(phrase):
      if (
        len(word) < _MIN_LETTERS
        or word in text_features.ENGLISH_STOP_WORDS
        or not any(map(str.isalpha, word))
      ):
        previous = ''
        continue
      yield word
      if previous:
        yield f'{previous} {word}'
      previous = word


def entries(
  groups: Sequence[Group], items: Sequence[dict[str, Any]], top: int
) -> list[dict[str, Any]]:
  """Keywords by class-based TF-IDF, and a sentence made of them.

  Class-based TF-IDF (Grootendorst, "BERTopic", arXiv 2203.05794): a term's weight in a class is
  tf · log(1 + A / f), tf its count in the texts of the class, f its count in all classes, A the mean
  count of terms a class; the classes are the used codes of one level. Terms of a single item of the
  catalogue say nothing of what items share and follow after all others; equal weights are ordered by
  spelling.

  Args:
    groups: of every used token, levels one after the other.
    items: objects of items.jsonl.
    top: keywords a token; fewer where the texts hold fewer terms.

  Returns:
    Token, description and keywords of each group.
  """
  counts_IV, names_V = _count([item['text'] for item in items])
  found = []
  for _, level in itertools.groupby(groups, key=lambda group: group.level):
    level = list(level)
    for group, best in zip(level, _best_terms(counts_IV, level, top), strict=True):
      words = [names_V[term] for term in best]
      described = [items[i] for i in group.items[_typical(counts_IV[group.items], best)]]
      description = describe(words, described, [items[i] for i in group.items])
      found.append({'token': group.token, 'description': description, 'keywords': words})
  return found


def _count(texts: Sequence[str]) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
  """Counts of terms `[I, V]`, and the terms in alphabetical order."""
  from sklearn.feature_extraction import text as text_features

  if not any(itertools.chain.from_iterable(map(terms, texts))):  # scikit-learn refuses that
    return scipy.sparse.csr_matrix((len(texts), 0), dtype=np.int32), np.array([], object)
  vectorizer = text_features.CountVectorizer(analyzer=terms, dtype=np.int32)
  return vectorizer.fit_transform(texts), vectorizer.get_feature_names_out()


def _best_terms(
  counts_IV: scipy.sparse.csr_matrix, groups: Sequence[Group], top: int
) -> Iterator[np.ndarray]:
  """For each group of a level the term indices of its keywords, best first."""
  member = np.concatenate([group.items for group in groups])
  offsets = np.cumsum([0, *(len(group.items) for group in groups)])
  indicator_GI = scipy.sparse.csr_matrix(
    (np.ones(len(member), np.int32), member, offsets), (len(groups), counts_IV.shape[0])
  )
  tf_GV = indicator_GI @ counts_IV
  tf_GV.sort_indices()
  total_V = np.asarray(tf_GV.sum(axis=0)).ravel()
  idf_V = np.log1p(total_V.sum() / len(groups) / np.maximum(total_V, 1))
  lonely_V = np.bincount(counts_IV.indices, minlength=counts_IV.shape[1]) < 2
  for start, stop in itertools.pairwise(tf_GV.indptr):
    of_group = tf_GV.indices[start:stop]
    weights = tf_GV.data[start:stop] * idf_V[of_group]
    order = np.lexsort((of_group, -weights, lonely_V[of_group]))
    yield of_group[order[:top]]


def _typical(counts_nV: scipy.sparse.csr_matrix, best: np.ndarray) -> np.ndarray:
  """Which of n items hold most of the keywords, the earliest first among equals."""
  num_items = counts_nV.shape[0]
  owners = np.repeat(np.arange(num_items), np.diff(counts_nV.indptr))
  held_n = np.bincount(owners[np.isin(counts_nV.indices, best)], minlength=num_items)
  return np.argsort(-held_n, kind='stable')[:_TITLES]


def describe(
  keywords: Sequence[str], typical: Sequence[dict[str, Any]], items: Sequence[dict[str, Any]]
) -> str:
  """What is known of a group in one or two sentences.

  Args:
    keywords: best first.
    typical: the items whose titles are quoted.
    items: all of the group; their most frequent category is named.
  """
  said = _without_parts(keywords)[:_IN_SENTENCE]
  about = f'Items about {_and(said)}' if said else 'Items that no word describes'
  paths = Counter(
    ' > '.join(path[-2:]) for item in items for path in item.get('categories', []) if path
  )
  if paths:
    path, count = min(paths.items(), key=lambda pair: (-pair[1], pair[0]))
    about += f', {"mostly" if 2 * count >= len(items) else "some"} in {path}'
  titles = dict.fromkeys(_cut(item['title']) for item in typical if item.get('title'))
  return f'{about}. Such as: {"; ".join(titles)}.' if titles else f'{about}.'


def _without_parts(keywords: Sequence[str]) -> list[str]:
  """Keywords less those whose words a better one holds already, or that hold a better one's."""
  kept: list[str] = []
  for keyword in keywords:
    words = set(keyword.split())
    if not any(words <= set(other.split()) or words >= set(other.split()) for other in kept):
      kept.append(keyword)
  return kept


def _and(words: Sequence[str]) -> str:
  return ' and '.join(filter(None, [', '.join(words[:-1]), words[-1]]))


def _cut(title: str) -> str:
  if len(title) <= _TITLE_CHARACTERS:
    return title.rstrip('.')
  return title[:_TITLE_CHARACTERS].rsplit(' ', 1)[0] + ' …'
