"""A map of the semantic IDs: items in two dimensions."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from recjax.config import Config
from recjax.data import arrays
from recjax.data.dataset import Dataset
from recjax.report.facts import title_of
from recjax.report.numbers import shortened

MOST = 4000  # items on the map
TITLE = 90  # characters of a title
_BASIS, _ITERATIONS = 12, 12  # columns and rounds of the search for the components
# `sids.source` → the stages with the item vectors.
_FOLDERS = {
  'text': ('text_embeddings',),
  'cooccurrence': ('cooccurrence_vectors',),
  'both': ('text_embeddings', 'cooccurrence_vectors'),
}


def sid_map(config: Config, dataset: Dataset) -> dict[str, Any] | None:
  """Places items by the first two principal components of their vectors.

  If the prepared folder no longer holds the vectors that were quantized (as for imported SIDs), the codes take their
  place: one column for every code of every level.

  Args:
    config: config of the run.
    dataset: the data of the report.

  Returns:
    `of` ('item vectors' or 'codes'), `items` (of the catalogue), `rule` (which ones are drawn), and `points`: x and y
    from -1 to 1, `title` and `sid` of every drawn item. None: the first codes group nothing, since each is of one
    item or all items have the same one, or there are too few items.
  """
  table, num_items = dataset.sids, dataset.num_items
  groups = len(np.unique(table.codes_IL[:, 0]))
  drawn = np.unique(np.linspace(0, num_items - 1, min(num_items, MOST)).astype(np.int64))
  if not 1 < groups < num_items:
    return None
  vectors_ND = _vectors(config, dataset, drawn)
  of = 'codes' if vectors_ND is None else 'item vectors'
  vectors_ND = _codes(table.codes_IL[drawn]) if vectors_ND is None else vectors_ND
  with threadpool_limits(1):  # many threads wait for one another in small products
    places_N2 = components(vectors_ND)
  if places_N2 is None:
    return None
  items = dataset.items
  return {
    'of': of,
    'items': num_items,
    'rule': 'every item' if len(drawn) == num_items else f'{len(drawn):,} items at equal distances in the catalogue',
    'points': [
      {
        'x': round(float(x), 3),
        'y': round(float(y), 3),
        'title': shortened(title_of(items[item]), TITLE),
        'sid': table.codes_IL[item].tolist(),
      }
      for (x, y), item in zip(places_N2, drawn.tolist(), strict=True)
    ],
  }  # fmt: skip


def components(vectors_ND: np.ndarray | sp.csr_array) -> np.ndarray | None:
  """Returns the first two principal components of rows, `[N, 2]`, scaled to [-1, 1].

  They are found by subspace iteration from a fixed start, which is quick also for thousands of columns. The signs make the largest value of each component positive. None: there are too few rows or columns, or no variance.
  """
  rows, columns = vectors_ND.shape
  if min(rows, columns) < 2:
    return None
  mean_1D = np.asarray(vectors_ND.mean(axis=0)).reshape(1, -1)
  basis_DK = np.random.default_rng(0).normal(size=(columns, _BASIS)).astype(np.float32)
  for _ in range(_ITERATIONS):
    basis_NK, _ = np.linalg.qr(vectors_ND @ basis_DK - mean_1D @ basis_DK)
    basis_DK, _ = np.linalg.qr(vectors_ND.T @ basis_NK - mean_1D.T * basis_NK.sum(axis=0))
  scores_NK = vectors_ND @ basis_DK - mean_1D @ basis_DK
  _, turn_KK = np.linalg.eigh(scores_NK.T @ scores_NK)  # ascending
  places_N2 = scores_NK @ turn_KK[:, :-3:-1]
  largest_2 = places_N2[np.abs(places_N2).argmax(axis=0), [0, 1]]
  if not np.isfinite(places_N2).all() or not np.abs(largest_2).all():
    return None
  return places_N2 / largest_2


def _vectors(config: Config, dataset: Dataset, items: np.ndarray) -> np.ndarray | None:
  """Returns the vectors of items that were quantized, float32 `[N, D]`; None if a file is missing or of other items."""
  blocks = []
  for stage in _FOLDERS[config.sids.source] if config.sids.quantizer != 'import' else ():
    path = dataset.folder / stage / 'embeddings.npy'
    vectors_ID = arrays.load(path) if path.exists() else np.empty((0, 0))
    if len(vectors_ID) != dataset.num_items:
      return None
    block = np.asarray(vectors_ID[items], np.float32)
    blocks.append(block / max(float(np.linalg.norm(block)), 1e-12))  # equal weights
  return np.concatenate(blocks, axis=1) if blocks else None


def _codes(codes_NL: np.ndarray) -> sp.csr_array:
  """Returns one column for every used code of every level, float64 `[N, columns]`, with ones."""
  columns, width = [], 0
  for level in codes_NL.T:
    used, place = np.unique(level, return_inverse=True)
    columns.append(width + place)
    width += len(used)
  indices = np.stack(columns, axis=1)
  pointers = np.arange(0, indices.size + 1, indices.shape[1])
  return sp.csr_array((np.ones(indices.size), indices.ravel(), pointers), (len(codes_NL), width))
