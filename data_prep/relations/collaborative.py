"""Items that occur together: the strongest co-occurrences of every item, over one or several hops, and their filling.

Imports little, because every worker of Beam starts with these imports.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse

from recjax.data import neighbours
from recjax.data.cooccurrence import cooccurrence_blocks, stacked
from recjax.data.neighbours import Neighbours
from recjax.data.sequences import Sequences, blocks, offsets_of
from recjax.schema.items import Relations

HOP_DECAY = 0.5  # factor of the weight for each additional hop
_ENTRIES_AT_ONCE = 1 << 24  # bounds the memory of strengths over several hops


def collaborative(train: Sequences, num_items: int, relations: Relations) -> Neighbours:
  """Returns for each item the `top_k` related items with the largest strengths, strongest first.

  With one hop the strength is the co-occurrence A (`cooccurrence_counts`) without pairs below
  `min_count`. With h hops it is A + A P/2 + … + A (P/2)^(h - 1), where P is A with rows normalised to sum
  one: a random walk in which each additional step has half the weight. IIRG (arXiv 2606.17276) ranks by the count
  within a window; weights by distance, the minimum and additional hops are our extensions. The time of an
  additional hop is proportional to the sum of squared list lengths: seconds for ten thousand items, too long for
  a million.

  Strengths are compared as float32. Ties go to the item that occurs more often in `train`, then to the lower
  index, as in IIRG's code.

  Args:
    train: item indices of every user's training part.
    num_items: I.
    relations: the fields window, distance_weight, min_count, hops and top_k are read.

  Returns:
    I lists with positive strengths; a list is shorter than top_k if fewer items are related.
  """
  ranks_I = popularity_ranks(train.counts(num_items))
  counts = _kept(train, num_items, relations)
  if relations.hops == 1:
    found = (related(block) for block in counts)
  else:
    found = _strengths(stacked(list(counts), num_items), relations.hops)
  return neighbours.concatenate([block.strongest(relations.top_k, ranks_I) for block in found])


def _kept(
  train: Sequences, num_items: int, relations: Relations
) -> Iterator[scipy.sparse.csr_matrix]:
  """Yields the co-occurrence of consecutive items, without pairs below `min_count`."""
  found = cooccurrence_blocks(train, num_items, relations.window, relations.distance_weight)
  for _, counts in found:
    drop_rare(counts, relations.min_count)
    yield counts


def popularity_ranks(occurrences_I: np.ndarray) -> np.ndarray:
  """Returns the rank of every item, int64 `[I]`: the most frequent first, ties by index."""
  ranks_I = np.empty(len(occurrences_I), np.int64)
  ranks_I[np.argsort(-occurrences_I, kind='stable')] = np.arange(len(occurrences_I))
  return ranks_I


def drop_rare(counts: scipy.sparse.csr_matrix, min_count: float) -> None:
  """Drops counts below a number, in place."""
  counts.data[counts.data < min_count] = 0
  counts.eliminate_zeros()


def related(counts: scipy.sparse.csr_matrix) -> Neighbours:
  """Returns the unordered lists of a block of items."""
  items = Sequences(counts.indices, counts.indptr.astype(np.int64))
  return Neighbours(items, counts.data.astype(np.float32))


def _strengths(counts: scipy.sparse.csr_matrix, hops: int) -> Iterator[Neighbours]:
  """Yields the unordered lists of all items within several hops, one block of items at a time."""
  sums_I = np.asarray(counts.sum(axis=1)).ravel()
  step = scipy.sparse.diags(HOP_DECAY / np.where(sums_I > 0, sums_I, 1)) @ counts
  for rows in blocks(_most_entries(counts, hops), _ENTRIES_AT_ONCE):
    total = walk = counts[rows]
    for _ in range(hops - 1):
      walk = walk @ step
      total = total + walk
    block = related(total)
    owners = np.repeat(rows, block.items.lengths)
    yield block.keep(total.indices != owners)  # a walk can return to its start


def _most_entries(counts: scipy.sparse.csr_matrix, hops: int) -> np.ndarray:
  """Upper bounds on the number of items within `hops` of each item, int64 `[I]`."""
  num_items, direct_I = counts.shape[0], np.diff(counts.indptr).astype(np.int64)
  if hops > 2:
    return np.where(direct_I > 0, num_items, 0)
  pairs = scipy.sparse.csr_matrix(
    (np.ones(counts.nnz, np.int64), counts.indices, counts.indptr), counts.shape
  )
  return np.minimum(pairs @ direct_I, num_items)


def back_fill(lists: Neighbours, semantic: Sequences, k: int) -> Neighbours:
  """Fills lists shorter than k from the lists of semantic neighbours, like IIRG's code.

  Items are processed in ascending order and in place. For each semantic neighbour, nearest first, the new
  members of its list are appended until the list has k entries. So the filled lists of earlier items are read,
  and the unfilled lists of later items.

  Args:
    lists: collaborative lists.
    semantic: the semantic neighbours of every item, in order: `relations.backfill_depth` of them. IIRG's code reads
      500.
    k: the length to fill up to.

  Returns:
    The filled lists; appended items have strength 0.
  """
  filled: dict[int, list[int]] = {}
  for i in np.flatnonzero(lists.items.lengths < k).tolist():
    members = lists.items[i].tolist()
    known = {i, *members}
    for s in semantic[i].tolist():
      for j in filled[s] if s in filled else lists.items[s].tolist():
        if len(members) < k and j not in known:
          members.append(j)
          known.add(j)
    filled[i] = members
  lengths = lists.items.lengths.copy()
  lengths[list(filled)] = [len(members) for members in filled.values()]
  offsets = offsets_of(lengths)
  items, strengths = np.empty(offsets[-1], np.int32), np.zeros(offsets[-1], np.float32)
  old = lists.items.places + np.repeat(offsets[:-1], lists.items.lengths)
  items[old], strengths[old] = lists.items.values, lists.strengths
  for i, members in filled.items():
    items[offsets[i] : offsets[i + 1]] = members
  return Neighbours(Sequences(items, offsets), strengths)
