"""Quantizers: from item vectors to the codes of semantic IDs."""

import warnings

import numpy as np
from sklearn import cluster, decomposition, exceptions
import threadpoolctl
import tqdm

# In more dimensions k-means spends most codes of the later levels on single outliers: Beauty's text
# and co-occurrence vectors (448 wide), three levels of 256 codes: perplexities 225, 128, 29 and
# 2,045 colliding items at full width; 232, 170, 132 and 1,155 in 128 dimensions.
_MAX_WIDTH = 128


def residual_kmeans(
  vectors_ID: np.ndarray, codes: tuple[int, ...], seed: int
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Residual k-means: each level clusters what the levels before it left unexplained.

  Residual quantization as in Lee et al., "Autoregressive Image Generation using Residual
  Quantization" (CVPR 2022, section 3.1), with a codebook of its own for every level, each fitted
  by Lloyd's algorithm from a k-means++ start. The codebooks lie in the span of the vectors' first
  128 principal components, so wide vectors are projected on it first.

  Args:
    vectors_ID: floats `[I, D]`, one vector an item.
    codes: the size of each level's codebook.
    seed: chooses the start; equal arguments give equal codes.

  Returns:
    codes int32 `[I, L]` and for each level its codebook, float32 `[C, D]`. The sum over levels of the chosen rows
    approximates the vector, and each code names the row nearest to what is left of it.

  Raises:
    ValueError: fewer items than codes, or a vector that is not finite.
  """
  if len(vectors_ID) < max(codes):
    raise ValueError(
      f'the catalogue must have at least as many items as a level has codes ({max(codes)}); '
      f'got {len(vectors_ID)} items. Set --config.sids.codes'
    )
  if not np.isfinite(vectors_ID).all():
    raise ValueError('item vectors must be finite; got NaN or infinity')
  num_items, width = vectors_ID.shape
  pca = decomposition.PCA(min(_MAX_WIDTH, width, num_items), svd_solver='full')
  codes_IL = np.empty((num_items, len(codes)), np.int32)
  codebooks = []
  # One thread: the sums of several threads are added in the order in which the threads finish.
  with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
    # Fewer distinct residuals than codes leaves codes unused, which SidTable.statistics reports.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    residual_IP = pca.fit_transform(vectors_ID).astype(np.float32)
    for level, size in enumerate(tqdm.tqdm(codes, 'residual k-means', unit='level')):
      kmeans = cluster.KMeans(size, n_init=1, max_iter=100, random_state=seed + level)
      codes_IL[:, level] = kmeans.fit_predict(residual_IP)
      codebooks.append((kmeans.cluster_centers_ @ pca.components_).astype(np.float32))
      residual_IP -= kmeans.cluster_centers_[codes_IL[:, level]]
  codebooks[0] += pca.mean_[None, :].astype(np.float32)
  return codes_IL, codebooks


def deduplicate(codes_IL: np.ndarray) -> tuple[np.ndarray, int]:
  """Adds a level that counts, in item order, the items that share all their codes.

  Rajput et al., "Recommender Systems with Generative Retrieval" (NeurIPS 2023, section 3.1), append
  such a code to colliding items only; here every SID has it, so that all have one length.

  Args:
    codes_IL: int32 `[I, L]`.

  Returns:
    codes int32 `[I, L + 1]` with unique rows, and the size of the added level: twice the largest
    group, so that items may join a group without a new code space.
  """
  num_items = len(codes_IL)
  order = np.lexsort(codes_IL.T[::-1])  # stable: within a group, item order
  ordered = codes_IL[order]
  is_first = np.ones(num_items, bool)
  is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
  positions = np.arange(num_items)
  rank_in_group = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
  counter = np.empty(num_items, np.int32)
  counter[order] = rank_in_group
  size = 2 * (int(rank_in_group.max(initial=0)) + 1)
  return np.concatenate([codes_IL, counter[:, None]], axis=1).astype(np.int32), size
