"""Finds the nearest items by text: exact cosines, computed block by block on the device."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from recjax.data import neighbours
from recjax.data.neighbours import Neighbours
from recjax.data.sequences import Sequences, offsets_of
from recjax.runtime import logs

_ROWS, _COLUMNS = 1024, 8192
_SPARE = 8  # extra candidates, because the device ranks in float32


def semantic(vectors_ID: np.ndarray, k: int) -> Neighbours:
  """Finds for each item the k other items with the largest cosines, nearest first.

  The device finds candidates with float32 products. The host computes their cosines in float64 and rounds them
  to float32. Ties are ordered by item index. So the result equals that of brute force on every type of device,
  except for neighbours whose cosines differ by less than the precision of float32.

  Time is quadratic in the number of items. Memory is linear: the vectors and blocks of 1,024 × 8,192 products.

  Args:
    vectors_ID: float `[I, D]`; rows need not be normalised. An item with a zero vector has no neighbours and
      is no neighbour.
    k: 0 < k < I. Lists are shorter if fewer items have a vector.

  Raises:
    ValueError: a vector is not finite, or k is too large.
  """
  num_items = len(vectors_ID)
  if not 0 < k < num_items:
    raise ValueError(
      f'relations.top_k must be positive and smaller than the number of items, {num_items}; got {k}. '
      'Set --config.relations.top_k'
    )
  # Adding 0 turns -0 into 0, so equal rows have equal bits.
  vectors_ID = np.asarray(vectors_ID, np.float32) + np.float32(0)
  finite_I = np.isfinite(vectors_ID).all(axis=1)
  if not finite_I.all():
    raise ValueError(
      f'text embeddings must be finite numbers; those of {np.sum(~finite_I)} of {num_items} items are not, '
      f'such as item {np.argmin(finite_I)}. Set --config.sids.encoder'
    )
  lengths_I = np.sqrt(np.einsum('id,id->i', vectors_ID, vectors_ID, dtype=np.float64))
  embedded = np.flatnonzero(lengths_I)
  first_G, groups = _distinct(vectors_ID[embedded])
  first_G = embedded[first_G]
  # k + 1, because an item is in the list of its own group.
  lists = _search_groups(
    vectors_ID[first_G],
    lengths_I[first_G],
    _members(embedded, groups, k + 1),
    num_items,
    k + 1,
  )
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


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Groups equal rows, in order of appearance. Returns the first row of each group, and each row's group.

  There is one search per group, because products of equal rows may differ in the last bit by their position in a
  block.
  """
  as_bytes = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
  _, first, group = np.unique(as_bytes.ravel(), return_index=True, return_inverse=True)
  order = np.argsort(first)
  number = np.empty_like(order)
  number[order] = np.arange(len(order))
  return first[order], number[group]


def _members(items: np.ndarray, groups: np.ndarray, most: int) -> Sequences:
  """At most `most` items of each group, in ascending order."""
  order = np.argsort(groups, kind='stable')
  offsets = offsets_of(np.bincount(groups))
  members = Neighbours(Sequences(items[order].astype(np.int32), offsets), np.zeros(len(items)))
  return members.first(most).items


def _search_groups(
  vectors_GD: np.ndarray, lengths_G: np.ndarray, members: Sequences, num_items: int, k: int
) -> Neighbours:
  """The k items nearest to each group, including its own members."""
  num_groups = len(vectors_GD)
  if not num_groups:
    return neighbours.concatenate([])
  candidates = min(k + _SPARE, num_groups)
  unit_GD = (vectors_GD / lengths_G[:, None]).astype(np.float32)
  columns = min(_COLUMNS, num_groups)
  num_blocks = -(-num_groups // columns)
  blocks_NCD = np.zeros((num_blocks * columns, unit_GD.shape[1]), np.float32)
  blocks_NCD[:num_groups] = unit_GD
  blocks_NCD = jnp.asarray(blocks_NCD.reshape(num_blocks, columns, -1))
  found = []
  blocks = range(0, num_groups, _ROWS)
  for first in logs.progress(blocks, 'semantic neighbours', unit=' blocks'):
    rows = np.arange(first, min(first + _ROWS, num_groups))
    padded = np.resize(rows, _ROWS)  # a constant shape: compiled once
    near_Rc = np.asarray(_nearest(unit_GD[padded], blocks_NCD, num_groups, candidates))[: len(rows)]
    cosines_Rc = _cosines(vectors_GD, lengths_G, rows, near_Rc)
    expanded = members.take(near_Rc.ravel())
    block = Neighbours(
      Sequences(expanded.values, expanded.offsets[::candidates]),
      np.repeat(cosines_Rc.ravel(), expanded.lengths),
    )
    found.append(block.strongest(k, np.arange(num_items)))
  return neighbours.concatenate(found)


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
