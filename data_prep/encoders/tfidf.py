"""The `tfidf` encoder: TF-IDF and a truncated SVD (latent semantic analysis), without pretrained weights.

The fit is saved beside the vectors, so a later catalogue can be encoded in the same space.
"""

from collections.abc import Sequence
import dataclasses
import json
import logging
import re

from etils import epath
import numpy as np

from data_prep.texts import words

log = logging.getLogger(__name__)

FILES = ('tfidf.json', 'tfidf.npz')  # the terms; the arrays
_MAX_TERMS = 100_000  # the most frequent words and word pairs; bounds memory on large catalogues
_BLOCK = 1 << 16  # texts whose vectors are computed at a time
_WORD = re.compile(r'(?u)\b\w+\b')


@dataclasses.dataclass(frozen=True)
class Fit:
  """A vector space of texts: latent semantic analysis (Deerwester et al., JASIS 1990).

  Attributes:
    terms: the V words and word pairs of the fitted catalogue.
    idf_V: float64, inverse document frequencies.
    components_VD: float32, maps weighted terms to vectors.
  """

  terms: list[str]
  idf_V: np.ndarray
  components_VD: np.ndarray

  def encode(self, texts: Sequence[str]) -> np.ndarray:
    """Returns float32 `[I, D]`: unit rows, and zero rows for texts without a known word."""
    vectorizer = _vectorizer(vocabulary=self.terms)
    vectorizer.idf_ = self.idf_V
    return self.project(vectorizer.transform(texts))

  def project(self, weights_IV) -> np.ndarray:
    """Returns the vectors of sparse term weights. A row depends only on its own text."""
    vectors_ID = np.empty((weights_IV.shape[0], self.components_VD.shape[1]), np.float32)
    for start in range(0, len(vectors_ID), _BLOCK):
      block = slice(start, start + _BLOCK)
      weights_BV = weights_IV[block]
      values_BD = np.asarray(weights_BV @ self.components_VD, np.float64)
      lengths_B = np.linalg.norm(values_BD, axis=1)
      known_B = (weights_BV.getnnz(axis=1) > 0) & (lengths_B > 0)
      scale_B = np.divide(1, lengths_B, out=np.zeros_like(lengths_B), where=known_B)
      vectors_ID[block] = values_BD * scale_B[:, None]
    return vectors_ID

  def save(self, folder: epath.Path) -> None:
    """Writes the files FILES into a folder."""
    terms, arrays = (folder / name for name in FILES)
    terms.write_text(json.dumps({'terms': self.terms}, ensure_ascii=False))
    with arrays.open('wb') as f:
      np.savez(f, idf=self.idf_V, components=self.components_VD)

  @classmethod
  def load(cls, folder: epath.PathLike) -> 'Fit':
    """Reads the files FILES from a folder."""
    terms, arrays = (epath.Path(folder) / name for name in FILES)
    with arrays.open('rb') as f, np.load(f) as loaded:
      return cls(json.loads(terms.read_text())['terms'], loaded['idf'], loaded['components'])


def fit(texts: Sequence[str], width: int, seed: int) -> tuple[Fit, np.ndarray]:
  """Fits sublinear TF-IDF weights of words and word pairs, and a truncated SVD of them.

  Scripts that do not separate words are cut into character n-grams (`data_prep.texts.words`). A warning is
  logged if almost no two texts share a word.

  Args:
    texts: one text per item.
    width: D, the width of the vectors.
    seed: seed of the randomized SVD. Equal arguments give equal bytes, including signs.

  Returns:
    The fit, and the float32 `[I, D]` vectors of the texts. Columns beyond the rank of the weights are zero.

  Raises:
    ValueError: no text contains a word.
  """
  from sklearn.utils import extmath  # imported here: it takes a second

  vectorizer = _vectorizer(max_features=_MAX_TERMS)
  if not any(map(vectorizer.build_analyzer(), texts)):
    raise ValueError(
      f'tfidf needs item texts that contain words; none of {len(texts)} does. '
      'Set --config.sids.source=cooccurrence'
    )
  weights_IV = vectorizer.fit_transform(texts)
  if problem := words.few_shared_terms(weights_IV):
    log.warning(
      'tfidf: %s, so similar items hardly get similar vectors. Set --config.sids.source=cooccurrence, or '
      '--config.sids.encoder to a model of the language',
      problem,
    )
  _, _, right_DV = extmath.randomized_svd(
    weights_IV, min(width, *weights_IV.shape), n_iter=7, random_state=seed
  )
  components_VD = np.zeros((weights_IV.shape[1], width), np.float32)
  components_VD[:, : len(right_DV)] = right_DV.T
  fitted = Fit(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, components_VD)
  return fitted, fitted.project(weights_IV)


def encode(texts: Sequence[str], width: int, seed: int) -> np.ndarray:
  """Returns only the vectors of `fit`."""
  return fit(texts, width, seed)[1]


def transform(folder: epath.PathLike, texts: Sequence[str]) -> np.ndarray:
  """Encodes texts with the fit saved in a folder; see `Fit.encode`."""
  return Fit.load(folder).encode(texts)


def _vectorizer(**fields):
  from sklearn.feature_extraction import text as text_features

  return text_features.TfidfVectorizer(sublinear_tf=True, analyzer=_terms, **fields)


def _terms(text: str) -> list[str]:
  """The lower-case words, followed by the pairs of neighbouring words."""
  found = words.split(text.lower(), _WORD.findall)
  return found + words.pairs(found)
