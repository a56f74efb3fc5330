"""The titles that are nearest to a text: cosine of the counts of its character trigrams, weighted by rarity.

Trigrams lie within words, which are padded with spaces; upper and lower case are equal. A trigram's weight is the
smooth inverse document frequency of scikit-learn's `TfidfVectorizer` over the titles.
"""

from collections.abc import Sequence

import numpy as np

from recjax.runtime import preemption

BLOCK = 1 << 22  # similarities of a block of texts: 32 MiB
DECIMALS = 9  # titles are equally near if their cosines differ by less


class NearestTitles:
  """Finds the nearest of distinct titles. A million titles of 15 words take about 1 GB."""

  def __init__(self, titles: Sequence[str]):
    """Weighs the trigrams of the titles.

    Args:
      titles: texts, at least one of them with a letter or another character that is no space.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # here: it takes a second

    self._vectorizer = TfidfVectorizer(analyzer='char_wb', ngram_range=(3, 3))
    self._titles_NF = self._vectorizer.fit_transform(titles)
    self._titles_FN = self._titles_NF.T.tocsr()

  def find(self, texts: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest titles of every text, the nearest first; of equally near ones the first of the list.

    Args:
      texts: U texts. The empty text, and one without a trigram of a title, has no near title.
      k: number of titles; K is k or the number of titles, if that is smaller.

    Returns:
      Indices of titles, int32 `[U, K]`, and their cosines, float32; -1 and 0 for titles of cosine 0.
    """
    N = self._titles_NF.shape[0]
    K = min(k, N)
    found_UK = np.full((len(texts), K), -1, np.int32)
    cosines_UK = np.zeros((len(texts), K), np.float32)
    rows = max(BLOCK // N, 1)
    for start in range(0, len(texts), rows):
      preemption.check()
      block_BF = self._vectorizer.transform(texts[start : start + rows])
      cosines_BN = np.round((block_BF @ self._titles_FN).toarray(), DECIMALS)
      least_B = np.partition(cosines_BN, N - K, axis=1)[:, N - K]
      for row, (cosines_N, least) in enumerate(zip(cosines_BN, least_B, strict=True), start):
        near = np.flatnonzero((cosines_N >= least) & (cosines_N > 0))
        near = near[np.argsort(-cosines_N[near], kind='stable')[:K]]
        found_UK[row, : len(near)], cosines_UK[row, : len(near)] = near, cosines_N[near]
    return found_UK, cosines_UK
