"""Measures the quality of semantic IDs before a model is trained on them."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from etils import epath
import numpy as np
import threadpoolctl

from recjax.runtime.files import write_whole
from recjax.sids import grouping
from recjax.sids.quantizers.saved import Quantizer
from recjax.sids.table import SidTable

FILE = 'quality.json'
NEIGHBOURS = 10
_MAX_PAIRS = 1_000_000_000  # similarities to compute; larger catalogues are sampled
_BLOCK_ROWS = 16_384  # vectors in memory at a time
_BLOCK_VALUES = 1 << 25  # similarities in memory at a time


def assess(
  table: SidTable,
  vectors_ID: np.ndarray | None,
  quantizer: Quantizer | None,
  categories: Sequence[Sequence[str] | None],
) -> dict[str, Any]:
  """Returns the quality report of a SID table, without its de-duplication level.

  Args:
    table: the SIDs.
    vectors_ID: floats `[I, D]`, the item vectors. None: the measures that need vectors are None.
    quantizer: the quantizer of the codes. None for imported tables.
    categories: each item's category path, from the widest category. None for items without one.

  Returns:
    The fields of `SidTable.statistics`, and the results of `reconstruction_error`, `neighbours_kept` and
    `purity` under these names; None for measures that cannot be computed.
  """
  codes_IQ = table.codes_IL[:, : table.quantized_levels]
  has_vectors = vectors_ID is not None
  return {
    **table.statistics(),
    'reconstruction_error': (
      reconstruction_error(quantizer, vectors_ID, codes_IQ)
      if has_vectors and quantizer is not None
      else None
    ),
    'neighbours_kept': neighbours_kept(codes_IQ, vectors_ID) if has_vectors else None,
    'purity': purity(codes_IQ[:, 0], categories),
  }


def write(folder: epath.PathLike, quality: Mapping[str, Any]) -> None:
  """Writes quality.json atomically."""
  write_whole(epath.Path(folder) / FILE, json.dumps(quality, indent=2, allow_nan=False) + '\n')


def reconstruction_error(
  quantizer: Quantizer, vectors_ID: np.ndarray, codes_IL: np.ndarray
) -> list[float]:
  """Returns the share of the vectors' variance that is unexplained by the first 1, 2, …, L levels.

  The share is |x - decode(codes)|² over |x - mean|², summed over items. Above 1, the codes are worse than
  the mean vector.
  """
  mean_D = vectors_ID.mean(axis=0, dtype=np.float64)
  variance, left_L = 0.0, np.zeros(codes_IL.shape[1])
  for begin in range(0, len(vectors_ID), _BLOCK_ROWS):
    block_BD = vectors_ID[begin : begin + _BLOCK_ROWS]
    variance += float(((block_BD - mean_D[None, :]) ** 2).sum())
    for level in range(len(left_L)):
      codes_BL = codes_IL[begin : begin + _BLOCK_ROWS, : level + 1]
      decoded_BD = quantizer.decode(quantizer.quantized(codes_BL))
      left_L[level] += ((block_BD - decoded_BD) ** 2).sum(dtype=np.float64)
  return _rounded(left_L / variance if variance else left_L)


def neighbours_kept(codes_IL: np.ndarray, vectors_ID: np.ndarray) -> dict[str, Any] | None:
  """Measures how many of an item's nearest neighbours its SID recovers.

  The neighbours are the 10 other items with the greatest cosine similarity. All other items are ranked by the
  length of the SID prefix that they share with the item. `recall` is the mean share of the neighbours among
  the first 10, in expectation over random orders of ties. `chance` is the recall of uninformative codes,
  10 / (I - 1). `share_prefix` is the share of neighbours with the same first 1, 2, …, L codes;
  `share_prefix_chance` is that share among all pairs of items.

  Args:
    codes_IL: int `[I, L]`, quantized codes.
    vectors_ID: floats `[I, D]`.

  Returns:
    The measures above; `k`, the number of neighbours, below 10 if there are fewer than 11 items; and `items`,
    the number of queries, an evenly spaced sample if there are more than 31,622 items. None for a single item.
  """
  num_items, levels = codes_IL.shape
  k = min(NEIGHBOURS, num_items - 1)
  if k < 1:
    return None
  num_queries = min(num_items, max(1, _MAX_PAIRS // num_items))
  queries_Q = np.linspace(0, num_items - 1, num_queries).astype(np.int64)
  neighbours_QK = _nearest(vectors_ID, queries_Q, k)
  # Numbers of items and of neighbours that share the query's prefix of each length.
  items_QL = np.empty((num_queries, levels + 1), np.int64)
  found_QL = np.empty((num_queries, levels + 1), np.int64)
  items_QL[:, 0], found_QL[:, 0] = num_items - 1, k
  for level in range(1, levels + 1):
    prefix_I, sizes = grouping.groups(codes_IL[:, :level])
    items_QL[:, level] = sizes[prefix_I[queries_Q]] - 1
    same_QK = prefix_I[neighbours_QK] == prefix_I[queries_Q][:, None]
    found_QL[:, level] = same_QK.sum(axis=1)
  return {
    'k': k,
    'items': num_queries,
    'recall': round(float(_expected_hits(items_QL, found_QL, k).mean() / k), 4),
    'chance': round(k / (num_items - 1), 4),
    'share_prefix': _rounded(found_QL[:, 1:].mean(axis=0) / k),
    'share_prefix_chance': _rounded(items_QL[:, 1:].mean(axis=0) / (num_items - 1)),
  }


def _expected_hits(items_QL: np.ndarray, found_QL: np.ndarray, k: int) -> np.ndarray:
  """Returns the expected number of neighbours among the first k ranked items, float `[Q]`."""
  hits_Q, places_Q = np.zeros(len(items_QL)), np.full(len(items_QL), k)
  deeper_items_Q = deeper_found_Q = np.zeros(len(items_QL), np.int64)
  for level in range(items_QL.shape[1] - 1, -1, -1):
    items_Q = (
      items_QL[:, level] - deeper_items_Q
    )  # items whose common prefix has exactly this length
    found_Q = found_QL[:, level] - deeper_found_Q
    shown_Q = np.minimum(items_Q, places_Q)
    hits_Q += found_Q * shown_Q / np.maximum(items_Q, 1)
    places_Q = places_Q - shown_Q
    deeper_items_Q, deeper_found_Q = items_QL[:, level], found_QL[:, level]
  return hits_Q


def _nearest(vectors_ID: np.ndarray, queries_Q: np.ndarray, k: int) -> np.ndarray:
  """Returns the k other items with the greatest cosine, in any order: int `[Q, k]`."""
  lengths = np.linalg.norm(vectors_ID, axis=1, keepdims=True)
  unit_ID = (vectors_ID / np.where(lengths > 0, lengths, 1)).astype(np.float32)
  nearest_QK = np.empty((len(queries_Q), k), np.int64)
  block = max(1, _BLOCK_VALUES // len(vectors_ID))
  for begin in range(0, len(queries_Q), block):
    rows_B = queries_Q[begin : begin + block]
    with threadpoolctl.threadpool_limits(1):  # bit-identical for every number of cores
      cosine_BI = unit_ID[rows_B] @ unit_ID.T
    cosine_BI[np.arange(len(rows_B)), rows_B] = -np.inf
    nearest_QK[begin : begin + block] = np.argpartition(cosine_BI, -k, axis=1)[:, -k:]
  return nearest_QK


def purity(
  codes_I: np.ndarray, categories: Sequence[Sequence[str] | None]
) -> dict[str, Any] | None:
  """Measures how well first codes agree with categories.

  Purity of a clustering (Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008,
  section 16.3): the share of items in the most frequent category of their code. The categories are those
  of the first path level at which items differ. For Amazon's Beauty that is the second level, since all paths
  begin with Beauty.

  Args:
    codes_I: int `[I]`.
    categories: each item's path, from the widest category. None or empty for items without one.

  Returns:
    `category_level` (from 1), the numbers of `categories` and of `items` with a category of that level,
    `purity`, and `chance`: the purity of randomly permuted codes. None if paths never differ.
  """
  for level in range(max((len(path or ()) for path in categories), default=0)):
    named = [(i, path[level]) for i, path in enumerate(categories) if path and len(path) > level]
    names = sorted({name for _, name in named})
    if len(names) > 1:
      break
  else:
    return None
  index = {name: n for n, name in enumerate(names)}
  items = np.array([i for i, _ in named])
  labels = np.array([index[name] for _, name in named])
  codes = codes_I[items]
  return {
    'category_level': level + 1,
    'categories': len(names),
    'items': len(items),
    'purity': _purity(codes, labels),
    'chance': _purity(np.random.default_rng(0).permutation(codes), labels),
  }


def _purity(codes: np.ndarray, labels: np.ndarray) -> float:
  counts = np.zeros((codes.max() + 1, labels.max() + 1), np.int64)
  np.add.at(counts, (codes, labels), 1)
  return round(float(counts.max(axis=1).sum() / len(codes)), 4)


def _rounded(values: np.ndarray) -> list[float]:
  return [round(float(value), 4) for value in values]
