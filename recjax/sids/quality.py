"""Measures the quality of semantic IDs before a model is trained on them."""

from collections.abc import Mapping, Sequence
import itertools
import json
from typing import Any

from etils import epath
import numpy as np
import threadpoolctl

from recjax.runtime.files import write_whole
from recjax.sids import grouping
from recjax.sids.quantizers.saved import Quantizer
from recjax.sids.table import SidTable
from recjax.sids.vectors import Vectors

FILE = 'quality.json'
NEIGHBOURS = 10
_MAX_PAIRS = 1_000_000_000  # similarities to compute; larger catalogues are sampled
_MAX_DECODED = 1 << 20  # items that are decoded; larger catalogues are sampled
_BLOCK_ROWS = 16_384  # vectors that are decoded at a time
_BLOCK_ITEMS = 1 << 17  # vectors that are compared at a time
_BLOCK_VALUES = 1 << 25  # similarities in memory at a time


def assess(
  table: SidTable,
  vectors_ID: np.ndarray | Vectors | None,
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
  quantizer: Quantizer, vectors_ID: np.ndarray | Vectors, codes_IL: np.ndarray
) -> list[float]:
  """Returns the share of the vectors' variance that is unexplained by the first 1, 2, …, L levels.

  The share is |x - decode(codes)|² over |x - mean|², summed over items: over 2^20 evenly spaced ones, if there are
  more. Above 1, the codes are worse than the mean vector.
  """
  vectors_ID = Vectors.of(vectors_ID)
  if len(vectors_ID) > _MAX_DECODED:
    rows = _evenly_spaced(len(vectors_ID), _MAX_DECODED)
    vectors_ID, codes_IL = vectors_ID.take(rows), codes_IL[rows]
  mean_D = vectors_ID.mean()
  variance, left_L = 0.0, np.zeros(codes_IL.shape[1])
  for number, block_BD in enumerate(vectors_ID.blocks(_BLOCK_ROWS)):
    begin = number * _BLOCK_ROWS
    variance += float(((block_BD - mean_D[None, :]) ** 2).sum())
    for level in range(len(left_L)):
      codes_BL = codes_IL[begin : begin + _BLOCK_ROWS, : level + 1]
      decoded_BD = quantizer.decode(quantizer.quantized(codes_BL))
      left_L[level] += ((block_BD - decoded_BD) ** 2).sum(dtype=np.float64)
  return _rounded(left_L / variance if variance else left_L)


def _evenly_spaced(num_items: int, count: int) -> np.ndarray:
  return np.linspace(0, num_items - 1, count).astype(np.int64)


def neighbours_kept(
  codes_IL: np.ndarray, vectors_ID: np.ndarray | Vectors
) -> dict[str, Any] | None:
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
  queries_Q = _evenly_spaced(num_items, num_queries)
  neighbours_QK = _nearest(Vectors.of(vectors_ID), queries_Q, k)
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


def _nearest(vectors_ID: Vectors, queries_Q: np.ndarray, k: int) -> np.ndarray:
  """Returns the k other items with the greatest cosine, in any order: int `[Q, k]`."""
  unit_QD = _unit(vectors_ID[queries_Q])
  nearest_QK, cosine_QK = np.zeros((2, len(queries_Q), 0), np.float32)
  first = 0
  for block_ID in vectors_ID.blocks(_BLOCK_ITEMS):
    unit_ID = _unit(block_ID)
    found_QF, score_QF = _nearest_of(unit_QD, queries_Q - first, unit_ID, min(k, len(unit_ID)))
    nearest_QF = np.concatenate([nearest_QK.astype(np.int64), first + found_QF], axis=1)
    cosine_QF = np.concatenate([cosine_QK, score_QF], axis=1)
    best = np.argpartition(cosine_QF, -min(k, cosine_QF.shape[1]), axis=1)
    best = best[:, -min(k, cosine_QF.shape[1]) :]
    nearest_QK, cosine_QK = (np.take_along_axis(x, best, 1) for x in (nearest_QF, cosine_QF))
    first += len(block_ID)
  return nearest_QK


def _nearest_of(
  unit_QD: np.ndarray, own_Q: np.ndarray, unit_ID: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the k rows of a block with the greatest products, without a query's own row, and the products.

  Args:
    unit_QD: the queries.
    own_Q: the row of each query; outside the block, there is none.
    unit_ID: the block.
    k: at most the rows of the block.
  """
  found_QK = np.empty((len(unit_QD), k), np.int64)
  score_QK = np.empty((len(unit_QD), k), np.float32)
  block = max(1, _BLOCK_VALUES // len(unit_ID))
  for begin in range(0, len(unit_QD), block):
    part = slice(begin, begin + block)
    with threadpoolctl.threadpool_limits(1):  # bit-identical for every number of cores
      cosine_BI = unit_QD[part] @ unit_ID.T
    inside = np.flatnonzero((own_Q[part] >= 0) & (own_Q[part] < len(unit_ID)))
    cosine_BI[inside, own_Q[part][inside]] = -np.inf
    found_QK[part] = np.argpartition(cosine_BI, -k, axis=1)[:, -k:]
    score_QK[part] = np.take_along_axis(cosine_BI, found_QK[part], axis=1)
  return found_QK, score_QK


def _unit(vectors_BD: np.ndarray) -> np.ndarray:
  vectors_BD = vectors_BD.astype(np.result_type(vectors_BD, np.float32), copy=False)
  lengths = np.linalg.norm(vectors_BD, axis=1, keepdims=True)
  return (vectors_BD / np.where(lengths > 0, lengths, 1)).astype(np.float32)


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
    has_level = [bool(path) and len(path) > level for path in categories]
    named = list(itertools.compress(categories, has_level))
    names = sorted({path[level] for path in named})
    if len(names) > 1:
      break
  else:
    return None
  index = {name: n for n, name in enumerate(names)}
  items = np.flatnonzero(has_level)
  labels = np.fromiter((index[path[level]] for path in named), np.int64, len(named))
  codes = codes_I[items]
  return {
    'category_level': level + 1,
    'categories': len(names),
    'items': len(items),
    'purity': _purity(codes, labels),
    'chance': _purity(np.random.default_rng(0).permutation(codes), labels),
  }


def _purity(codes: np.ndarray, labels: np.ndarray) -> float:
  width = int(labels.max()) + 1
  counts = np.bincount(
    codes.astype(np.int64) * width + labels, minlength=(int(codes.max()) + 1) * width
  )
  counts = counts.reshape(-1, width)
  return round(float(counts.max(axis=1).sum() / len(codes)), 4)


def _rounded(values: np.ndarray) -> list[float]:
  return [round(float(value), 4) for value in values]
