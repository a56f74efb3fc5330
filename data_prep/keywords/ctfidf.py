"""The teacher `ctfidf`: keywords by class-based TF-IDF, without a language model."""

from collections import Counter
from collections.abc import Iterator, Sequence
import itertools
import logging
import re
from typing import Any

import numpy as np
import scipy.sparse

from data_prep.keywords.groups import Group
from data_prep.texts import words
from recjax.data.sequences import offsets_of

log = logging.getLogger(__name__)

_PHRASE_END = re.compile(r"[^\w\s'’-]+")  # no pair of words spans it
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_MIN_LETTERS = 2  # shorter words are skipped
_DESCRIBED = 6  # keywords in the description
_TITLES, _TITLE_CHARACTERS = 3, 80  # titles quoted in the description


def terms(text: str) -> Iterator[str]:
  """Yields words and pairs of neighbouring words, in lower case.

  English stop words (scikit-learn's list), words without a letter and single letters are skipped, and no pair
  spans them. Scripts that do not separate words give character n-grams (`data_prep.texts.words`).
  """
  # Imported here, because the import takes a second.
  from sklearn.feature_extraction import text as text_features

  unseparated = words.is_unseparated(text)
  # `\w` does not match the marks of Thai and similar scripts.
  phrases = words.phrases(text.lower()) if unseparated else _PHRASE_END.split(text.lower())
  for phrase in phrases:
    previous = ''
    for word in words.split(phrase, _WORD.findall):
      if (
        len(word) < _MIN_LETTERS
        or word in text_features.ENGLISH_STOP_WORDS
        or not any(map(str.isalpha, word))
      ):
        previous = ''
        continue
      yield word
      if previous:
        yield words.phrase(previous, word)
      previous = word


def entries(
  groups: Sequence[Group], items: Sequence[dict[str, Any]], top: int
) -> list[dict[str, Any]]:
  """Selects keywords by class-based TF-IDF, and composes a description from them.

  Class-based TF-IDF (Grootendorst, "BERTopic", arXiv 2203.05794): the weight of a term in a class is
  tf · log(1 + A / f), where tf is its count in the class, f its count in all classes, and A the mean number of
  terms per class. The classes are the used codes of one level. Terms of a single item are not shared, so they
  rank after all others. Ties are ordered alphabetically. A warning is logged if almost no texts share a term.

  Args:
    groups: the groups of all used tokens, level by level.
    items: objects of items.jsonl.
    top: maximum number of keywords per token.

  Returns:
    Token, description and keywords of each group.
  """
  counts_IV, names_V = _count([item['text'] for item in items])
  if problem := words.few_shared_terms(counts_IV):
    log.warning(
      'keywords: %s, so the keywords hardly describe the items of a token. Set '
      '--config.keywords.teacher=http',
      problem,
    )
  found = []
  for _, level in itertools.groupby(groups, key=lambda group: group.level):
    level = list(level)
    for group, best in zip(level, _best_terms(counts_IV, level, top), strict=True):
      keywords = [names_V[term] for term in best]
      described = [items[i] for i in group.items[_typical(counts_IV[group.items], best)]]
      description = describe(keywords, described, [items[i] for i in group.items])
      found.append({'token': group.token, 'description': description, 'keywords': keywords})
  return found


def _count(texts: Sequence[str]) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
  """The counts of terms `[I, V]`, and the V terms in alphabetical order."""
  from sklearn.feature_extraction import text as text_features

  if not any(itertools.chain.from_iterable(map(terms, texts))):  # scikit-learn would raise an error
    return scipy.sparse.csr_matrix((len(texts), 0), dtype=np.int32), np.array([], object)
  vectorizer = text_features.CountVectorizer(analyzer=terms, dtype=np.int32)
  return vectorizer.fit_transform(texts), vectorizer.get_feature_names_out()


def _best_terms(
  counts_IV: scipy.sparse.csr_matrix, groups: Sequence[Group], top: int
) -> Iterator[np.ndarray]:
  """Yields for each group of a level the term indices of its keywords, best first."""
  member = np.concatenate([group.items for group in groups])
  offsets = offsets_of([len(group.items) for group in groups])
  indicator_GI = scipy.sparse.csr_matrix(
    (np.ones(len(member), np.int32), member, offsets), (len(groups), counts_IV.shape[0])
  )
  tf_GV = indicator_GI @ counts_IV
  tf_GV.sort_indices()
  total_V = np.asarray(tf_GV.sum(axis=0)).ravel()
  idf_V = np.log1p(total_V.sum() / len(groups) / np.maximum(total_V, 1))
  is_single_V = np.bincount(counts_IV.indices, minlength=counts_IV.shape[1]) < 2
  for start, stop in itertools.pairwise(tf_GV.indptr):
    group_terms = tf_GV.indices[start:stop]
    weights = tf_GV.data[start:stop] * idf_V[group_terms]
    order = np.lexsort((group_terms, -weights, is_single_V[group_terms]))
    yield group_terms[order[:top]]


def _typical(counts_nV: scipy.sparse.csr_matrix, best: np.ndarray) -> np.ndarray:
  """The positions, from 0 to n - 1, of the items with the most keywords; ties in item order."""
  num_items = counts_nV.shape[0]
  owners = np.repeat(np.arange(num_items), np.diff(counts_nV.indptr))
  held_n = np.bincount(owners[np.isin(counts_nV.indices, best)], minlength=num_items)
  return np.argsort(-held_n, kind='stable')[:_TITLES]


def describe(
  keywords: Sequence[str], typical: Sequence[dict[str, Any]], items: Sequence[dict[str, Any]]
) -> str:
  """Describes a group in one or two sentences.

  Args:
    keywords: best first.
    typical: the items whose titles are quoted.
    items: all items of the group; the description names their most frequent category.
  """
  named = _without_parts(keywords)[:_DESCRIBED]
  about = f'Items about {_and(named)}' if named else 'Items that no word describes'
  paths = Counter(
    ' > '.join(path[-2:]) for item in items for path in item.get('categories', []) if path
  )
  if paths:
    path, count = min(paths.items(), key=lambda pair: (-pair[1], pair[0]))
    about += f', {"mostly" if 2 * count >= len(items) else "some"} in {path}'
  titles = dict.fromkeys(_cut(item['title']) for item in typical if item.get('title'))
  return f'{about}. Such as: {"; ".join(titles)}.' if titles else f'{about}.'


def _without_parts(keywords: Sequence[str]) -> list[str]:
  """Drops keywords that contain, or are contained in, a better one."""
  kept: list[str] = []
  for keyword in keywords:
    if not any(_is_part(keyword, other) or _is_part(other, keyword) for other in kept):
      kept.append(keyword)
  return kept


def _is_part(part: str, keyword: str) -> bool:
  if words.is_unseparated(part):
    return part in keyword
  return set(part.split()) <= set(keyword.split())


def _and(keywords: Sequence[str]) -> str:
  return ' and '.join(filter(None, [', '.join(keywords[:-1]), keywords[-1]]))


def _cut(title: str) -> str:
  if len(title) <= _TITLE_CHARACTERS:
    return title.rstrip('.')
  return title[:_TITLE_CHARACTERS].rsplit(' ', 1)[0] + ' …'
