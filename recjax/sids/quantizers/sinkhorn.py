"""Resolves collisions without an additional level: colliding items get other codes of the last level."""

from collections.abc import Iterator

import numpy as np

from recjax.sids import grouping
from recjax.sids.quantizers.saved import Quantizer
from recjax.sids.vectors import Vectors

EPSILON = 0.003  # weight of the entropy, for distances with a range of 2 (LC-Rec)
MAX_ROUNDS = 20  # LC-Rec
_STEPS = 40  # values of epsilon, from 1 down to EPSILON
_ITERATIONS = 5  # Sinkhorn iterations for each value of epsilon
_BLOCK_VALUES = 1 << 22  # largest number of distances that are solved at once
_DISTANCES = (
  1 << 26
)  # largest number of distances in memory, unless the items of one prefix have more


def reassign(
  quantizer: Quantizer, vectors_ID: np.ndarray | Vectors, codes_IL: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
  """Assigns near, free codes of the last level to colliding items.

  LC-Rec (Zheng et al., ICDE 2024, arXiv 2311.09049) re-assigns items with equal SIDs by Sinkhorn-Knopp over
  their distances to the codes of the last level, in at most 20 rounds. Here the colliding items of one prefix
  (all codes except the last) are solved together, over the codes that no other item of the prefix has. A code
  gets at most one item; LC-Rec instead demands that all codes are used evenly, which is a weak constraint for a
  few items and 256 codes. An item that is alone on its best code keeps it; the others enter the next round.
  Items that still collide after the rounds, such as items with equal vectors, get the nearest free code, in
  item order.

  Args:
    quantizer: the quantizer of the codes.
    vectors_ID: floats `[I, D]`.
    codes_IL: int32 `[I, L]`, the assigned codes.

  Returns:
    Codes int32 `[I, L]` with unique rows, and two counts: `reassigned_items`, items whose last code changed,
    and `reassigned_greedily`, items that got the nearest free code after the rounds.

  Raises:
    ValueError: more items share a prefix than the last level has codes.
  """
  size = len(quantizer.codebooks[-1])
  prefix_I, sizes = grouping.groups(codes_IL[:, :-1])
  largest = int(sizes.max(initial=0))
  if largest > size:
    raise ValueError(
      f'at most {size} items, the number of codes of the last level, may share all other codes; '
      f'got {largest}. Set --config.sids.codes to more, or --config.sids.collisions=deduplicate'
    )
  is_open_I = _repeats(prefix_I, codes_IL[:, -1])
  open_N, kept_K = np.flatnonzero(is_open_I), np.flatnonzero(~is_open_I)
  prefixes, group_N = np.unique(prefix_I[open_N], return_inverse=True)
  group_of_prefix = np.full(len(sizes), -1)
  group_of_prefix[prefixes] = np.arange(len(prefixes))
  group_K = group_of_prefix[prefix_I[kept_K]]
  got_IL, greedily = codes_IL.copy(), 0
  for first, end in _parts(np.bincount(group_N), _DISTANCES // size):
    # For each prefix with collisions, the codes without an item.
    free_GC = np.ones((end - first, size), bool)
    kept = (group_K >= first) & (group_K < end)
    free_GC[group_K[kept] - first, codes_IL[kept_K[kept], -1]] = False
    inside = (group_N >= first) & (group_N < end)
    items = open_N[inside]
    distances_NC = quantizer.last_distances(vectors_ID[items], codes_IL[items])
    got_IL[items, -1], count = _solve(distances_NC, group_N[inside] - first, free_GC)
    greedily += count
  changed = int((got_IL[:, -1] != codes_IL[:, -1]).sum())
  return got_IL, {'reassigned_items': changed, 'reassigned_greedily': greedily}


def _parts(sizes_G: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
  """Yields first and end of consecutive groups whose sizes sum to at most the limit, or of a single group."""
  ends_G, first = np.cumsum(sizes_G), 0
  while first < len(sizes_G):
    before = int(ends_G[first - 1]) if first else 0
    end = max(first + 1, int(np.searchsorted(ends_G, before + limit, side='right')))
    yield first, end
    first = end


def _solve(
  distances_NC: np.ndarray, group_N: np.ndarray, free_GC: np.ndarray
) -> tuple[np.ndarray, int]:
  """Returns a free code for every item, int `[N]`, and how many items got the nearest one after the rounds.

  Args:
    distances_NC: distances of the items to all codes, in item order.
    group_N: the group of each item.
    free_GC: bool, the codes that a group may use. Codes that are given are removed.
  """
  size = free_GC.shape[1]
  codes_N, stuck = np.empty(len(group_N), np.int64), []
  rows = np.arange(len(group_N))  # items without a code
  for _ in range(MAX_ROUNDS):
    wanted = np.empty(len(rows), np.int64)
    for places, groups in _batches(group_N[rows], size):
      cost = np.where(free_GC[groups][:, None], distances_NC[rows[places]], np.inf)
      wanted[places] = _assign(cost)
    alone = ~_repeats(group_N[rows], wanted)
    codes_N[rows[alone]] = wanted[alone]
    free_GC[group_N[rows[alone]], wanted[alone]] = False
    # Without a change, the next round of a group would give the same plan.
    moves_G = np.zeros(len(free_GC), bool)
    moves_G[group_N[rows[alone]]] = True
    rows = rows[~alone]
    stuck.append(rows[~moves_G[group_N[rows]]])
    rows = rows[moves_G[group_N[rows]]]
    if not len(rows):
      break
  rows = np.sort(np.concatenate([*stuck, rows]))
  rank = grouping.places(group_N[rows][:, None])
  for turn in range(int(rank.max(initial=-1)) + 1):
    now = rows[rank == turn]
    nearest = np.where(free_GC[group_N[now]], distances_NC[now], np.inf).argmin(axis=1)
    codes_N[now], free_GC[group_N[now], nearest] = nearest, False
  return codes_N, len(rows)


def _repeats(groups_N: np.ndarray, codes_N: np.ndarray) -> np.ndarray:
  """Returns a mask of the entries that share group and code with another entry."""
  group_N, sizes = grouping.groups(np.stack([groups_N, codes_N], axis=1))
  return sizes[group_N] > 1


def _batches(groups_N: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields blocks of groups with equally many items: indices into `groups_N` `[G, n]`, and groups `[G]`."""
  order = np.argsort(groups_N, kind='stable')
  groups, starts, counts = np.unique(groups_N[order], return_index=True, return_counts=True)
  for count in np.unique(counts):
    same = np.flatnonzero(counts == count)
    block = max(1, _BLOCK_VALUES // (int(count) * size))
    for begin in range(0, len(same), block):
      chosen = same[begin : begin + block]
      yield order[starts[chosen][:, None] + np.arange(count)], groups[chosen]


def _assign(cost_GNC: np.ndarray) -> np.ndarray:
  """Returns the column of the greatest entry in every row of the transport plan, int `[G, n]`.

  The plan minimises cost minus epsilon times entropy. Each row sums to one, each column to at most one. It is
  found by Sinkhorn-Knopp scaling (Cuturi, NeurIPS 2013) in logarithms; columns below one are not scaled.
  Epsilon falls in steps, since the scaling converges slowly at its final value.

  Args:
    cost_GNC: `[G, n, C]`, infinite for taken codes; each group has at least n finite columns.
  """
  is_free = np.isfinite(cost_GNC)
  low = cost_GNC.min(axis=(1, 2), keepdims=True)
  high = np.where(is_free, cost_GNC, -np.inf).max(axis=(1, 2), keepdims=True)
  cost_GNC = 2 * (cost_GNC.astype(np.float64) - low) / np.where(high > low, high - low, 1.0)
  prices_G1C = np.zeros((len(cost_GNC), 1, cost_GNC.shape[2]))
  for epsilon in np.geomspace(1, EPSILON, _STEPS):
    moving = np.arange(len(cost_GNC))  # groups whose prices have not converged
    for _ in range(_ITERATIONS):
      cost, before = cost_GNC[moving], prices_G1C[moving]
      rows_GN1 = -_log_sum_exp(-(cost + before) / epsilon, axis=2)
      full_G1C = _log_sum_exp(rows_GN1 - cost / epsilon, axis=1)
      prices_G1C[moving] = np.maximum(0, epsilon * full_G1C)
      moving = moving[(prices_G1C[moving] != before).any(axis=(1, 2))]
      if not len(moving):
        break
  return (cost_GNC + prices_G1C).argmin(axis=2)


def _log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
  """Computes log-sum-exp in a third of scipy's time; -inf becomes a very low finite number."""
  top = np.maximum(values.max(axis=axis, keepdims=True), np.finfo(np.float64).min)
  return top + np.log(np.maximum(np.exp(values - top).sum(axis=axis, keepdims=True), 1e-300))
