"""Resolves collisions without an additional level: colliding items get other codes of the last level."""

from collections.abc import Iterator

import numpy as np

from recjax.sids.quantizers.saved import Quantizer

EPSILON = 0.003  # weight of the entropy, for distances with a range of 2 (LC-Rec)
MAX_ROUNDS = 20  # LC-Rec
_STEPS = 40  # values of epsilon, from 1 down to EPSILON
_ITERATIONS = 5  # Sinkhorn iterations for each value of epsilon
_BLOCK_VALUES = 1 << 22  # largest number of distances that are solved at once


def reassign(
  quantizer: Quantizer, vectors_ID: np.ndarray, codes_IL: np.ndarray
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
  prefix_I = np.unique(codes_IL[:, :-1], axis=0, return_inverse=True)[1].ravel()
  largest = int(np.bincount(prefix_I).max(initial=0))
  if largest > size:
    raise ValueError(
      f'at most {size} items, the number of codes of the last level, may share all other codes; '
      f'got {largest}. Set --config.sids.codes to more, or --config.sids.collisions=deduplicate'
    )
  codes_IL = codes_IL.copy()
  before_I = codes_IL[:, -1].copy()
  open_N = np.flatnonzero(_repeats(prefix_I, before_I, size))
  group_N = np.unique(prefix_I[open_N], return_inverse=True)[1]
  # For each prefix with collisions, the codes without an item.
  free_GC = np.ones((int(group_N.max(initial=-1)) + 1, size), bool)
  group_of_prefix = np.full(int(prefix_I.max(initial=-1)) + 1, -1)
  group_of_prefix[prefix_I[open_N]] = group_N
  settled_I = group_of_prefix[prefix_I] >= 0
  settled_I[open_N] = False
  free_GC[group_of_prefix[prefix_I[settled_I]], before_I[settled_I]] = False

  distances_NC = quantizer.last_distances(vectors_ID[open_N], codes_IL[open_N])
  rows = np.arange(len(open_N))  # of open_N: items without a code of their own
  for _ in range(MAX_ROUNDS):
    wanted = np.empty(len(rows), np.int64)
    for places, groups in _batches(group_N[rows], size):
      cost = np.where(free_GC[groups][:, None], distances_NC[rows[places]], np.inf)
      wanted[places] = _assign(cost)
    alone = ~_repeats(group_N[rows], wanted, size)
    codes_IL[open_N[rows[alone]], -1] = wanted[alone]
    free_GC[group_N[rows[alone]], wanted[alone]] = False
    rows = rows[~alone]
    if not alone.any():
      break
  for row in rows:
    free_C = free_GC[group_N[row]]
    code = int(np.where(free_C, distances_NC[row], np.inf).argmin())
    codes_IL[open_N[row], -1] = code
    free_C[code] = False
  changed = int((codes_IL[:, -1] != before_I).sum())
  return codes_IL, {'reassigned_items': changed, 'reassigned_greedily': len(rows)}


def _repeats(groups_N: np.ndarray, codes_N: np.ndarray, size: int) -> np.ndarray:
  """Returns a mask of the entries that share group and code with another entry."""
  keys_N = groups_N.astype(np.int64) * size + codes_N
  _, inverse_N, counts = np.unique(keys_N, return_inverse=True, return_counts=True)
  return counts[inverse_N.ravel()] > 1


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
    for _ in range(_ITERATIONS):
      rows_GN1 = -_log_sum_exp(-(cost_GNC + prices_G1C) / epsilon, axis=2)
      full_G1C = _log_sum_exp(rows_GN1 - cost_GNC / epsilon, axis=1)
      prices_G1C = np.maximum(0, epsilon * full_G1C)
  return (cost_GNC + prices_G1C).argmin(axis=2)


def _log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
  """Computes log-sum-exp in a third of scipy's time; -inf becomes a very low finite number."""
  top = np.maximum(values.max(axis=axis, keepdims=True), np.finfo(np.float64).min)
  return top + np.log(np.maximum(np.exp(values - top).sum(axis=axis, keepdims=True), 1e-300))
