"""Finds the nearest items by text: cosines with all items, or for millions of items with those of near clusters."""

from collections.abc import Iterator
import functools
import hashlib
import logging
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from data_prep.relations import clusters
from recjax.data import neighbours
from recjax.data.neighbours import Neighbours
from recjax.data.sequences import Sequences, offsets_of
from recjax.runtime import logs

log = logging.getLogger(__name__)

_ROWS, _COLUMNS = 1024, 8192
_SPARE = 8  # extra candidates, because the device ranks in float32
_READ = 65_536  # vectors that are read at a time
# The exact search takes at most an hour at this speed. The choice must not depend on the machine, since the bytes do.
_FLOPS, _SECONDS = 100e9, 3600
_SAMPLE = 1000  # queries that measure the recall of the approximate search


def semantic(vectors_ID: np.ndarray, k: int, facts: dict[str, Any] | None = None) -> Neighbours:
  """Finds for each item the k other items with the largest cosines, nearest first.

  The device finds candidates with float32 products. The host computes their cosines in float64 and rounds them
  to float32. Ties are ordered by item index. So the result equals that of brute force on every type of device,
  except for neighbours whose cosines differ by less than the precision of float32.

  Time is quadratic in the number of items. Memory is linear: the vectors and blocks of 1,024 × 8,192 products. If the
  exact search would take more than an hour at 100 GFLOP/s (685,000 items of width 384), the candidates are the items
  of near clusters (`clusters`); the recall is measured on 1,000 items and logged.

  Args:
    vectors_ID: float `[I, D]`; rows need not be normalised. An item with a zero vector has no neighbours and
      is no neighbour.
    k: 0 < k < I. Lists are shorter if fewer items have a vector.
    facts: gets `semantic_recall`, the measured share of the exact neighbours, if the search is approximate.

  Raises:
    ValueError: a vector is not finite, or k is too large.
  """
  num_items = len(vectors_ID)
  if not 0 < k < num_items:
    raise ValueError(
      f'relations.top_k must be positive and smaller than the number of items, {num_items}; got {k}. '
      'Set --config.relations.top_k'
    )
  vectors_ID = np.asarray(vectors_ID).astype(np.float32, copy=False)
  lengths_I = _lengths(vectors_ID)
  embedded = np.flatnonzero(lengths_I)
  first_G, groups = _distinct(vectors_ID, embedded)
  whole = len(first_G) == num_items
  # Adding 0 turns -0 into 0, so equal rows have equal bits.
  vectors_GD = vectors_ID if whole else vectors_ID[first_G] + np.float32(0)
  members = _members(embedded, groups, k + 1)
  # k + 1, because an item is in the list of its own group.
  lists = _search_groups(vectors_GD, lengths_I[first_G], members, num_items, k + 1, facts)
  # Adds an empty list for items without a vector.
  lists = neighbours.concatenate(
    [lists, Neighbours(Sequences.from_lists([[]]), np.zeros(0, np.float32))]
  )
  group_I = np.full(num_items, len(first_G))
  group_I[embedded] = groups
  lists = lists.take(group_I)
  return lists.keep(
    lists.items.values != np.repeat(np.arange(num_items), lists.items.lengths)
  ).first(k)


def _lengths(vectors_ID: np.ndarray) -> np.ndarray:
  """The lengths of the vectors, float64 `[I]`; raises a ValueError if one is not finite."""
  lengths_I, bad_I = np.empty(len(vectors_ID)), np.zeros(len(vectors_ID), bool)
  for begin in range(0, len(vectors_ID), _READ):
    part = slice(begin, begin + _READ)
    block_BD = vectors_ID[part]
    bad_I[part] = ~np.isfinite(block_BD).all(axis=1)
    lengths_I[part] = np.sqrt(np.einsum('id,id->i', block_BD, block_BD, dtype=np.float64))
  if bad_I.any():
    raise ValueError(
      f'text embeddings must be finite numbers; those of {np.sum(bad_I)} of {len(bad_I)} items are not, '
      f'such as item {np.argmax(bad_I)}. Set --config.sids.encoder'
    )
  return lengths_I


def _distinct(vectors_ID: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Groups equal vectors of some items, in order of appearance. Returns each group's first item, and their groups.

  There is one search per group, because products of equal rows may differ in the last bit by their position in a
  block. Vectors are equal if their hashes of 128 bits are.
  """
  group_of, first, groups = {}, [], np.empty(len(items), np.int64)
  for begin in range(0, len(items), _READ):
    chosen = items[begin : begin + _READ]
    for n, row in enumerate(vectors_ID[chosen] + np.float32(0), begin):
      group = group_of.setdefault(
        hashlib.blake2b(row.tobytes(), digest_size=16).digest(), len(first)
      )
      if group == len(first):
        first.append(items[n])
      groups[n] = group
  return np.array(first, np.int64), groups


def _members(items: np.ndarray, groups: np.ndarray, most: int) -> Sequences:
  """At most `most` items of each group, in ascending order."""
  order = np.argsort(groups, kind='stable')
  offsets = offsets_of(np.bincount(groups))
  members = Neighbours(Sequences(items[order].astype(np.int32), offsets), np.zeros(len(items)))
  return members.first(most).items


def _search_groups(
  vectors_GD: np.ndarray,
  lengths_G: np.ndarray,
  members: Sequences,
  num_items: int,
  k: int,
  facts: dict[str, Any] | None,
) -> Neighbours:
  """The k items nearest to each group, including its own members."""
  num_groups = len(vectors_GD)
  if not num_groups:
    return neighbours.concatenate([])
  candidates = min(k + _SPARE, num_groups)
  seconds = 2 * num_groups**2 * vectors_GD.shape[1] / _FLOPS
  if seconds > 60:
    log.info(
      'semantic neighbours: the exact search takes %.0f minutes at 100 GFLOP/s', seconds / 60
    )
  is_exact = seconds <= _SECONDS
  search = _exact if is_exact else clusters.search
  found, order = [], []
  for rows, near_Rc in search(vectors_GD, lengths_G, candidates):
    cosines_Rc = _cosines(vectors_GD, lengths_G, rows, near_Rc)
    expanded = members.take(near_Rc.ravel())
    block = Neighbours(
      Sequences(expanded.values, expanded.offsets[::candidates]),
      np.repeat(cosines_Rc.ravel(), expanded.lengths),
    )
    found.append(block.strongest(k, np.arange(num_items)))
    order.append(rows)
  lists = neighbours.concatenate(found)
  if not is_exact:
    lists = lists.take(np.argsort(np.concatenate(order)))
    recall = _recall(lists, vectors_GD, lengths_G, members, k)
    log.info('semantic neighbours: approximate; %.2f %% of the exact ones are found', 100 * recall)
    if facts is not None:
      facts['semantic_recall'] = round(recall, 4)
  return lists


def _exact(
  vectors_GD: np.ndarray, lengths_G: np.ndarray, candidates: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields blocks of rows and their candidates, int32 `[R, candidates]`."""
  num_groups = len(vectors_GD)
  unit_GD = (vectors_GD / lengths_G[:, None]).astype(np.float32)
  columns = min(_COLUMNS, num_groups)
  num_blocks = -(-num_groups // columns)
  blocks_NCD = np.zeros((num_blocks * columns, unit_GD.shape[1]), np.float32)
  blocks_NCD[:num_groups] = unit_GD
  blocks_NCD = jnp.asarray(blocks_NCD.reshape(num_blocks, columns, -1))
  blocks = range(0, num_groups, _ROWS)
  for first in logs.progress(blocks, 'semantic neighbours', unit=' blocks'):
    rows = np.arange(first, min(first + _ROWS, num_groups))
    padded = np.resize(rows, _ROWS)  # a constant shape: compiled once
    near_Rc = np.asarray(_nearest(unit_GD[padded], blocks_NCD, num_groups, candidates))
    yield rows, near_Rc[: len(rows)]


def _recall(
  lists: Neighbours, vectors_GD: np.ndarray, lengths_G: np.ndarray, members: Sequences, k: int
) -> float:
  """The share of the k greatest cosines of evenly spaced groups that the lists hold."""
  sample = np.linspace(0, len(vectors_GD) - 1, min(_SAMPLE, len(vectors_GD))).astype(np.int64)
  queries_SD = (vectors_GD[sample] / lengths_G[sample, None]).astype(np.float32)
  best_Sk = np.full((len(sample), k), -np.inf, np.float32)
  for begin in range(0, len(vectors_GD), _COLUMNS):
    part = slice(begin, begin + _COLUMNS)
    scores_SC = queries_SD @ (vectors_GD[part] / lengths_G[part, None]).astype(np.float32).T
    scores_SC = np.repeat(scores_SC, members.lengths[part], axis=1)  # a group counts for its items
    best_Sk = -np.partition(-np.concatenate([best_Sk, scores_SC], axis=1), k - 1, axis=1)[:, :k]
  least_S = best_Sk.min(axis=1) - 1e-6
  near = lists.take(sample)
  owners = np.repeat(np.arange(len(sample)), near.items.lengths)
  hits = np.bincount(owners, near.strengths >= least_S[owners], len(sample))
  return float(np.minimum(hits, k).sum() / np.isfinite(best_Sk).sum())


def _cosines(
  vectors_GD: np.ndarray, lengths_G: np.ndarray, rows_R: np.ndarray, near_Rc: np.ndarray
) -> np.ndarray:
  """float32 `[R, c]`: cosines computed in float64."""
  products_Rc = np.einsum('rd,rcd->rc', vectors_GD[rows_R], vectors_GD[near_Rc], dtype=np.float64)
  return (products_Rc / (lengths_G[rows_R, None] * lengths_G[near_Rc])).astype(np.float32)


@functools.partial(jax.jit, static_argnums=3)
def _nearest(rows_RD: jax.Array, blocks_NCD: jax.Array, num_groups: int, count: int) -> jax.Array:
  """Indices of the `count` ≤ `num_groups` vectors with the largest products with each row, int32 `[R, count]`."""
  rows, (num_blocks, columns, _) = len(rows_RD), blocks_NCD.shape

  def step(best, numbered_block):
    scores_Rc, ids_Rc = best
    number, block_CD = numbered_block
    ids_C = number * columns + jnp.arange(columns)
    products_RC = jnp.dot(rows_RD, block_CD.T, precision=lax.Precision.HIGHEST)
    products_RC = jnp.where(ids_C[None, :] < num_groups, products_RC, -jnp.inf)
    new_scores_Rc, places_Rc = lax.top_k(products_RC, min(count, columns))
    scores_RE = jnp.concatenate([scores_Rc, new_scores_Rc], axis=1)
    ids_RE = jnp.concatenate([ids_Rc, ids_C[places_Rc]], axis=1)
    scores_Rc, chosen_Rc = lax.top_k(scores_RE, count)
    return (scores_Rc, jnp.take_along_axis(ids_RE, chosen_Rc, axis=1)), None

  initial = (jnp.full((rows, count), -jnp.inf), jnp.zeros((rows, count), jnp.int32))
  (_, ids_Rc), _ = lax.scan(step, initial, (jnp.arange(num_blocks), blocks_NCD))
  return ids_Rc
