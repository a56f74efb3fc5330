"""Residual k-means: each level clusters the residuals of the levels before it."""

import warnings

import numpy as np
import threadpoolctl

from recjax.runtime import logs
from recjax.sids import code_sizes
from recjax.sids.quantizers.saved import Quantizer, assign_latents

# More dimensions explain more variance, but later levels then spend codes on outliers. Beauty's
# text and co-occurrence vectors (448 wide), three levels of 256 codes, two seeds: at full width 1,368
# and 1,598 colliding items with 35.5 and 36.0 % of the variance unexplained; in 128 dimensions 1,149 and
# 1,258 with 38.5 and 38.8 %; in 64 dimensions 952 and 798 with 42.5 %.
_MAX_WIDTH = 128
_ITEMS_A_CODE = 1024  # items per code in the random sample that a level is fitted to
_BLOCK = 16_384  # vectors in memory at a time


def fit(vectors_ID: np.ndarray, codes: tuple[int, ...], seed: int) -> Quantizer:
  """Fits codebooks by Lloyd's algorithm, one level after the other.

  Residual quantization as in Lee et al., "Autoregressive Image Generation using Residual Quantization" (CVPR
  2022, section 3.1), with a separate codebook for every level. The encoder projects vectors on their first
  128 principal components; the decoder projects back.

  Args:
    vectors_ID: floats `[I, D]`, one vector for each item.
    codes: the size of each level's codebook.
    seed: seed of the initial codebooks. Equal arguments give equal codebooks.

  Returns:
    The quantizer. `assign(vectors_ID)` gives the items' codes.

  Raises:
    ValueError: there are fewer items than codes, or a vector is not finite.
  """
  check_vectors(vectors_ID, codes)
  # One thread, because several threads would add up sums in a varying order.
  with threadpoolctl.threadpool_limits(1):
    mean_D, components_ZD = _principal(vectors_ID, _MAX_WIDTH)
  encoder = ((np.ascontiguousarray(components_ZD.T), -(components_ZD @ mean_D)),)
  latents_IZ = Quantizer(encoder, (), ()).encode(vectors_ID)
  return Quantizer(encoder, tuple(codebooks(latents_IZ, codes, seed)), ((components_ZD, mean_D),))


def _principal(vectors_ID: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean `[D]` and the leading principal components `[Z, D]`, float32, strongest first."""
  mean_D = vectors_ID.mean(axis=0, dtype=np.float64)
  covariance_DD = np.zeros((len(mean_D), len(mean_D)))
  for begin in range(0, len(vectors_ID), _BLOCK):
    centred_BD = vectors_ID[begin : begin + _BLOCK] - mean_D[None, :]
    covariance_DD += centred_BD.T @ centred_BD
  components_DD = np.linalg.eigh(covariance_DD)[1].T[::-1]
  return mean_D.astype(np.float32), components_DD[:width].astype(np.float32)


def codebooks(latents_IZ: np.ndarray, codes: tuple[int, ...], seed: int) -> list[np.ndarray]:
  """Fits each level's codebook, float32 `[C, Z]`, to the residuals: k-means++ and Lloyd's algorithm.

  Args:
    latents_IZ: float32 `[I, Z]`, at least as many as the largest level has codes.
    codes: C of each level.
    seed: seed of samples and initial codebooks.
  """
  from sklearn import cluster, exceptions  # slow to import; runs on prepared data do not need it

  residual_IZ = latents_IZ.copy()
  books = []
  with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
    # If there are fewer distinct residuals than codes, some codes stay unused; SidTable.statistics counts them.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    for level, size in enumerate(logs.progress(codes, 'residual k-means', unit=' levels')):
      fitted_to_SZ = _sample(residual_IZ, _ITEMS_A_CODE * size, seed + level)
      kmeans = cluster.KMeans(size, n_init=1, max_iter=100, random_state=seed + level)
      books.append(kmeans.fit(fitted_to_SZ).cluster_centers_.astype(np.float32))
      residual_IZ -= books[-1][assign_latents(residual_IZ, books[-1:])[:, 0]]
  return books


def _sample(rows_IZ: np.ndarray, size: int, seed: int) -> np.ndarray:
  if len(rows_IZ) <= size:
    return rows_IZ
  return rows_IZ[np.sort(np.random.default_rng(seed).choice(len(rows_IZ), size, replace=False))]


def check_vectors(vectors_ID: np.ndarray, codes: tuple[int, ...]) -> None:
  """Raises a ValueError if the vectors cannot be quantized with these numbers of codes."""
  code_sizes.check_codes(codes, len(vectors_ID))
  if not np.isfinite(vectors_ID).all():
    raise ValueError('item vectors must be finite; got NaN or infinity')
