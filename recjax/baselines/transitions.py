"""Transition counting: what followed the items of a history in the training sequences.

A first-order Markov chain without smoothing, read from every history item instead of the last one
alone: the score of an item is the sum of direct-successor counts, each weighted decay^age. It has
no parameters to learn, and many trained models do not reach it.
"""

import dataclasses

import numpy as np

from recjax.baselines.popularity import check_items
from recjax.data.sequences import Sequences, offsets_of

BLOCK_ENTRIES = 1 << 22  # successors looked at together: bounds the memory


@dataclasses.dataclass(frozen=True)
class Successors:
  """What followed each item directly, how often; the first seen comes first.

  Attributes:
    items: `values[offsets[i]:offsets[i + 1]]` are the distinct successors of item i.
    counts: float64, one for each of them.
  """

  items: Sequences
  counts: np.ndarray


def _by_lowest_item(sequences: Sequences) -> Sequences:
  """The non-empty sequences in the order of their lowest item.

  Most counts are 1, so the order in which transitions are seen settles many ties (a thousandth of
  recall@10 on Amazon data). This order is that of a log which is sorted by item, as the published
  files are; unlike user ids or held-out interactions it cannot change under a renaming of users.
  """
  sequences = sequences.take(np.flatnonzero(sequences.lengths))
  if not len(sequences):
    return sequences
  lowest = np.minimum.reduceat(sequences.values, sequences.offsets[:-1])
  return sequences.take(np.argsort(lowest, kind='stable'))


def count_successors(train: Sequences, num_items: int) -> Successors:
  """Counts direct successions in training sequences.

  Raises:
    ValueError: an item index lies outside the catalogue.
  """
  check_items(train, num_items)
  train = _by_lowest_item(train)
  inside = np.ones(max(train.values.size - 1, 0), bool)
  inside[train.offsets[1:-1] - 1] = False  # no transition from one user to the next
  sources, targets = train.values[:-1][inside], train.values[1:][inside]
  pairs, first, counts = np.unique(
    sources.astype(np.int64) * num_items + targets, return_index=True, return_counts=True
  )
  order = np.lexsort((first, pairs // num_items))
  lengths = np.bincount(pairs // num_items, minlength=num_items)
  offsets = offsets_of(lengths)
  items = Sequences((pairs[order] % num_items).astype(np.int32), offsets)
  return Successors(items, counts[order].astype(np.float64))


def _rank_block(
  successors: Successors,
  histories: Sequences,
  num_items: int,
  k: int,
  exclude_seen: bool,
  decay: float,
) -> np.ndarray:
  """`recommend` for a block of users."""
  users = np.repeat(np.arange(len(histories)), histories.lengths)
  ages = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(users))
  newest_first = np.lexsort((ages, users))
  users, ages, items = users[newest_first], ages[newest_first], histories.values[newest_first]
  # One entry for each successor of each history item.
  found = successors.items.take(items)
  entries = Sequences(np.arange(len(successors.counts)), successors.items.offsets).take(items)
  per_item = found.lengths
  keys = np.repeat(users, per_item) * num_items + found.values
  points = successors.counts[entries.values] * np.repeat(decay**ages, per_item)
  pairs, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
  scores = np.bincount(inverse, points, len(pairs))
  if exclude_seen:
    unseen = ~np.isin(pairs, users * num_items + items)
    pairs, first, scores = pairs[unseen], first[unseen], scores[unseen]
  order = np.lexsort((first, -scores, pairs // num_items))
  owners, ranked = pairs[order] // num_items, pairs[order] % num_items
  starts = np.searchsorted(owners, np.arange(len(histories)))
  places = np.arange(len(owners)) - starts[owners]
  ranked_UK = np.full((len(histories), k), -1, np.int32)
  ranked_UK[owners[places < k], places[places < k]] = ranked[places < k]
  return ranked_UK


def recommend(
  train: Sequences,
  counted: Sequences,
  histories: Sequences,
  num_items: int,
  k: int,
  exclude_seen: bool = True,
  decay: float = 0.8,
) -> np.ndarray:
  """Ranks items by decayed direct-successor counts.

  Args:
    train: training sequences, the counts.
    counted: not needed: the protocol of the published tables counts the training part alone.
    histories: of every row: what its user has seen.
    num_items: I, the size of the catalogue.
    k: list length.
    exclude_seen: whether what a user has seen is never recommended again.
    decay: weight of a history item for each item that came after it; the last one weighs 1.

  Returns:
    int32 `[U, k]`, one list a history, best first; of equal scores the one first reached, going from
    the newest history item to the oldest and through the successors of each as they were first seen.
    -1 after the last item with a score: an item that never followed any history item is not
    recommended.

  Raises:
    ValueError: an item index lies outside the catalogue.
  """
  del counted
  successors = count_successors(train, num_items)
  check_items(histories, num_items)
  entries = offsets_of(successors.items.lengths[histories.values])
  entries_U = entries[histories.offsets]  # of all users before each one
  ranked_UK = np.full((len(histories), k), -1, np.int32)
  start = 0
  while start < len(histories):
    end = int(np.searchsorted(entries_U, entries_U[start] + BLOCK_ENTRIES, side='right')) - 1
    end = min(max(end, start + 1), len(histories))
    block = histories.take(np.arange(start, end))
    ranked_UK[start:end] = _rank_block(successors, block, num_items, k, exclude_seen, decay)
    start = end
  return ranked_UK
