"""Residual k-means: each level clusters the residuals of the levels before it."""

from collections.abc import Callable
import warnings

import numpy as np
import threadpoolctl

from recjax.runtime import logs
from recjax.sids import code_sizes
from recjax.sids.quantizers.saved import Quantizer, assign_latents
from recjax.sids.vectors import Vectors

# More dimensions explain more variance, but later levels then spend codes on outliers. Beauty's
# text and co-occurrence vectors (448 wide), three levels of 256 codes, two seeds: at full width 1,368
# and 1,598 colliding items with 35.5 and 36.0 % of the variance unexplained; in 128 dimensions 1,149 and
# 1,258 with 38.5 and 38.8 %; in 64 dimensions 952 and 798 with 42.5 %.
_MAX_WIDTH = 128
_ITEMS_A_CODE = 1024  # items per code in the random sample that a level is fitted to
# Larger catalogues: the principal components, and levels of more than 1,024 codes, are fitted to a sample of this size.
# A level has 256 items a code at least, which FAISS takes at most (Clustering, max_points_per_centroid).
_SAMPLE = 1 << 20
_FEWEST_A_CODE = 256
_BLOCK = 16_384  # vectors of a matrix product


def fit(vectors_ID: np.ndarray | Vectors, codes: tuple[int, ...], seed: int) -> Quantizer:
  """Fits codebooks by Lloyd's algorithm, one level after the other.

  Residual quantization as in Lee et al., "Autoregressive Image Generation using Residual Quantization" (CVPR
  2022, section 3.1), with a separate codebook for every level. The encoder projects vectors on their first
  128 principal components; the decoder projects back.

  Memory does not grow with the catalogue: a level is fitted to at most 1,024 random items a code, the components to
  2^20 items. The vectors may be memory-mapped; they are read in blocks.

  Args:
    vectors_ID: floats `[I, D]`, one vector for each item.
    codes: the size of each level's codebook.
    seed: seed of samples and initial codebooks. Equal arguments give equal codebooks.

  Returns:
    The quantizer. `assign(vectors_ID)` gives the items' codes.

  Raises:
    ValueError: there are fewer items than codes, or a vector is not finite.
  """
  vectors_ID = Vectors.of(vectors_ID)
  check_vectors(vectors_ID, codes)
  # One thread, because several threads would add up sums in a varying order.
  with threadpoolctl.threadpool_limits(1):
    rows = _sample(len(vectors_ID), _SAMPLE, seed)
    mean_D, components_ZD = _principal(_chosen(vectors_ID, rows), _MAX_WIDTH)
  encoder = ((np.ascontiguousarray(components_ZD.T), -(components_ZD @ mean_D)),)
  encode = Quantizer(encoder, (), ()).encode
  books = codebooks(lambda rows: encode(_chosen(vectors_ID, rows)), len(vectors_ID), codes, seed)
  return Quantizer(encoder, tuple(books), ((components_ZD, mean_D),))


def _principal(vectors_ID: Vectors, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean `[D]` and the leading principal components `[Z, D]`, float32, strongest first."""
  mean_D = vectors_ID.mean()
  covariance_DD = np.zeros((len(mean_D), len(mean_D)))
  for block_BD in vectors_ID.blocks(_BLOCK):
    centred_BD = block_BD - mean_D[None, :]
    covariance_DD += centred_BD.T @ centred_BD
  components_DD = np.linalg.eigh(covariance_DD)[1].T[::-1]
  return mean_D.astype(np.float32), components_DD[:width].astype(np.float32)


def codebooks(
  latents: Callable[[np.ndarray | None], np.ndarray],
  num_items: int,
  codes: tuple[int, ...],
  seed: int,
) -> list[np.ndarray]:
  """Fits each level's codebook, float32 `[C, Z]`, to the residuals: k-means++ and Lloyd's algorithm.

  Args:
    latents: returns a new array, float32 `[n, Z]`, for the numbers of n items, and `[I, Z]` for None.
    num_items: I, at least as many as the largest level has codes.
    codes: C of each level.
    seed: seed of samples and initial codebooks.
  """
  from sklearn import cluster, exceptions  # slow to import; runs on prepared data do not need it

  books = []
  with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
    # If there are fewer distinct residuals than codes, some codes stay unused; SidTable.statistics counts them.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    for level, size in enumerate(logs.progress(codes, 'residual k-means', unit=' levels')):
      most = min(_ITEMS_A_CODE * size, max(_SAMPLE, _FEWEST_A_CODE * size))
      residual_SZ = latents(_sample(num_items, most, seed + level))
      for book_CZ in books:
        residual_SZ -= book_CZ[assign_latents(residual_SZ, [book_CZ])[:, 0]]
      kmeans = cluster.KMeans(size, n_init=1, max_iter=100, random_state=seed + level)
      books.append(kmeans.fit(residual_SZ).cluster_centers_.astype(np.float32))
  return books


def _sample(num_items: int, size: int, seed: int) -> np.ndarray | None:
  """Returns the numbers of random items, ascending; None: all items, which are at most `size`."""
  if num_items <= size:
    return None
  return np.sort(np.random.default_rng(seed).choice(num_items, size, replace=False))


def _chosen(vectors_ID: Vectors, rows: np.ndarray | None) -> Vectors:
  return vectors_ID if rows is None else vectors_ID.take(rows)


def check_vectors(vectors_ID: Vectors, codes: tuple[int, ...]) -> None:
  """Raises a ValueError if the vectors cannot be quantized with these numbers of codes."""
  code_sizes.check_codes(codes, len(vectors_ID))
  if not vectors_ID.is_finite():
    raise ValueError('item vectors must be finite; got NaN or infinity')
