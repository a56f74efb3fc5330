"""TF-IDF and a truncated SVD (latent semantic analysis): a text encoder without weights."""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction import text as text_features
from sklearn.utils import extmath

_MAX_TERMS = 100_000  # the most frequent words and word pairs; bounds memory on large catalogues


def encode(texts: Sequence[str], width: int, seed: int) -> np.ndarray:
  """Encodes texts by the words and word pairs that they hold.

  Latent semantic analysis (Deerwester et al., JASIS 1990) of sublinear TF-IDF weights.

  Args:
    texts: one text an item.
    width: D.
    seed: of the randomized SVD; equal arguments give equal vectors, signs included.

  Returns:
    float32 `[I, width]`: rows of length one, and zero rows for texts without a word. Columns beyond
    the rank of the catalogue are zero.

  Raises:
    ValueError: no text holds a word.
  """
  vectorizer = text_features.TfidfVectorizer(
    sublinear_tf=True, ngram_range=(1, 2), token_pattern=r'(?u)\b\w+\b', max_features=_MAX_TERMS
  )
  if not any(map(vectorizer.build_analyzer(), texts)):
    raise ValueError(
      f'tfidf needs item texts with words; none of {len(texts)} has any. '
      'Set --config.sids.source=cooccurrence'
    )
  weights = vectorizer.fit_transform(texts)
  left, singular, _ = extmath.randomized_svd(
    weights, min(width, *weights.shape), n_iter=7, random_state=seed
  )
  vectors_ID = np.zeros((len(texts), width))
  vectors_ID[:, : left.shape[1]] = left * singular[None, :]
  lengths = np.linalg.norm(vectors_ID, axis=1, keepdims=True)
  known = (weights.getnnz(axis=1) > 0)[:, None] & (lengths > 0)
  return np.where(known, vectors_ID / np.where(known, lengths, 1), 0).astype(np.float32)
