"""Approximate nearest neighbours: the exact products with the items of near clusters (an inverted file, IVF).

The inverted file is that of Jegou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search" (TPAMI 2011,
section 4), without product quantization. The queries are the items themselves, so all items of a cluster share their
candidates, and the products are those of two matrices. One thread: equal vectors give equal bytes.
"""

from collections.abc import Iterator

import numpy as np
import threadpoolctl

from recjax.data.sequences import offsets_of
from recjax.runtime import logs
from recjax.sids.quantizers.saved import assign_latents

_A_CLUSTER = 256  # mean number of items
_FITTED = 32  # items a cluster that the centres are fitted to
_PROBES = 64  # clusters whose items are candidates
_ROWS = 1024  # queries of a product
_READ = 16_384  # vectors that are read at a time


def search(
  vectors_GD: np.ndarray, lengths_G: np.ndarray, candidates: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Finds for every vector those with the largest cosines among the vectors of the 64 clusters nearest to its own.

  Args:
    vectors_GD: float32 `[G, D]`, not zero; may be memory-mapped.
    lengths_G: their lengths.
    candidates: number of vectors to find, at most G; the vector itself is one of them.

  Yields:
    Numbers of vectors, int64 `[R]`, all once and by cluster; and the candidates of each, int64 `[R, candidates]`.
  """
  from sklearn import cluster  # slow to import

  num_clusters = max(len(vectors_GD) // _A_CLUSTER, 1)
  with threadpoolctl.threadpool_limits(1):
    rng = np.random.default_rng(0)
    size = min(_FITTED * num_clusters, len(vectors_GD))
    sample = np.sort(rng.choice(len(vectors_GD), size, replace=False))
    kmeans = cluster.MiniBatchKMeans(
      num_clusters, init='random', n_init=1, batch_size=16_384, max_iter=10, random_state=0
    )
    kmeans.fit(_unit(vectors_GD, lengths_G, sample))
    centres_CD = kmeans.cluster_centers_.astype(np.float32)
    cluster_G = np.concatenate(
      [
        assign_latents(_unit(vectors_GD, lengths_G, slice(begin, begin + _READ)), [centres_CD])[
          :, 0
        ]
        for begin in range(0, len(vectors_GD), _READ)
      ]
    )
    order_G = np.argsort(cluster_G, kind='stable')
    counts_C = np.bincount(cluster_G, minlength=num_clusters)
    starts_C = offsets_of(counts_C)
    for own in logs.progress(range(num_clusters), 'semantic neighbours', unit=' clusters'):
      rows_R = order_G[starts_C[own] : starts_C[own + 1]]
      if len(rows_R):
        near = _near_clusters(centres_CD, own, counts_C, candidates)
        pool_P = np.concatenate([order_G[starts_C[c] : starts_C[c + 1]] for c in near])
        pool_P.sort()
        pool_PD = _unit(vectors_GD, lengths_G, pool_P)
        for begin in range(0, len(rows_R), _ROWS):
          rows = rows_R[begin : begin + _ROWS]
          scores_RP = _unit(vectors_GD, lengths_G, rows) @ pool_PD.T
          yield rows, pool_P[np.argpartition(scores_RP, -candidates, axis=1)[:, -candidates:]]


def _near_clusters(
  centres_CD: np.ndarray, own: int, counts_C: np.ndarray, candidates: int
) -> np.ndarray:
  """Returns the nearest clusters: 64, or more until they have enough items."""
  distances_C = (centres_CD**2).sum(axis=1) - 2 * (centres_CD @ centres_CD[own])
  nearest_C = np.argsort(distances_C, kind='stable')
  enough = int(np.searchsorted(np.cumsum(counts_C[nearest_C]), candidates)) + 1
  return nearest_C[: max(_PROBES, enough)]


def _unit(vectors_GD: np.ndarray, lengths_G: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
  return (vectors_GD[rows] / lengths_G[rows, None]).astype(np.float32)
