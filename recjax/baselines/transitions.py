"""The transitions baseline: items that directly followed items of the history in training sequences.

A first-order Markov chain without smoothing, applied to every item of the history instead of only the last one.
A candidate's score is the sum over history items of (times it directly followed that item) · decay^age. Many
trained models score lower.
"""

import dataclasses

import numpy as np

from recjax.baselines.split import Split
from recjax.data.sequences import Sequences, blocks, offsets_of

DECAY = 0.8  # weight of a history item relative to the next one
BLOCK_ENTRIES = 1 << 22  # successors per block of rows, which bounds the memory


@dataclasses.dataclass(frozen=True)
class Successors:
  """The direct successors of every item, in the order of their first occurrence, with their counts.

  Attributes:
    items: sequence i holds the distinct successors of item i.
    counts: float64, aligned with `items.values`.
  """

  items: Sequences
  counts: np.ndarray


def _by_lowest_item(sequences: Sequences) -> np.ndarray:
  """Returns the numbers of the non-empty sequences, sorted by their lowest item.

  Most counts are 1, so the order of the transitions decides many ties (an effect of 0.001 on recall@10 with Amazon
  data). This order equals that of a log sorted by item, like the published files. It depends neither on the
  numbering of users nor on held-out interactions.
  """
  filled = np.flatnonzero(sequences.lengths)
  if not len(filled):
    return filled
  lowest = np.minimum.reduceat(sequences.values, sequences.offsets[filled])
  return filled[np.argsort(lowest, kind='stable')]


def count_successors(
  train: Sequences, num_items: int, is_target: np.ndarray | None = None
) -> Successors:
  """Counts the direct successors of every item in training sequences.

  Args:
    train: the sequences.
    num_items: number of items of the catalogue.
    is_target: bool, aligned with `train.values`: only marked interactions count as successors. None: all.
  """
  order = _by_lowest_item(train)
  marks = None if is_target is None else Sequences(is_target, train.offsets).take(order).values
  train = train.take(order)
  inside = np.ones(max(train.values.size - 1, 0), bool)
  inside[train.offsets[1:-1] - 1] = False  # no transition from one user to the next
  if marks is not None:
    inside &= marks[1:]
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
  successors: Successors, split: Split, histories: Sequences, seen: Sequences, decay: float
) -> np.ndarray:
  """Ranks items for a block of the split's rows; see `recommend`."""
  num_items, k = split.num_items, split.k
  rows = np.repeat(np.arange(len(histories)), histories.lengths)
  ages = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(rows))
  newest_first = np.lexsort((ages, rows))
  rows, ages, items = rows[newest_first], ages[newest_first], histories.values[newest_first]
  # One entry per successor of each history item.
  found = successors.items.take(items)
  entries = Sequences(np.arange(len(successors.counts)), successors.items.offsets).take(items)
  per_item = found.lengths
  keys = np.repeat(rows, per_item) * num_items + found.values
  points = successors.counts[entries.values] * np.repeat(decay**ages, per_item)
  pairs, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
  scores = np.bincount(inverse, points, len(pairs))
  if split.exclude_seen:
    owners = np.repeat(np.arange(len(seen)), seen.lengths)
    unseen = ~np.isin(pairs, owners * num_items + seen.values)
    pairs, first, scores = pairs[unseen], first[unseen], scores[unseen]
  order = np.lexsort((first, -scores, pairs // num_items))
  owners, ranked = pairs[order] // num_items, pairs[order] % num_items
  starts = np.searchsorted(owners, np.arange(len(histories)))
  places = np.arange(len(owners)) - starts[owners]
  ranked_UK = np.full((len(histories), k), -1, np.int32)
  ranked_UK[owners[places < k], places[places < k]] = ranked[places < k]
  return ranked_UK


def recommend(split: Split, decay: float = DECAY) -> np.ndarray:
  """Ranks items by decayed direct-successor counts.

  The counts come only from `split.train`, as in the published tables. An item of context is a predecessor, not a
  successor.

  Args:
    split: the rows.
    decay: weight of a history item relative to the next one; the last item has weight 1.

  Returns:
    int32 `[U, k]`, best first, -1 after the last item with a score: items that never followed a history item
    are not recommended. Of equal scores, the successor of the newer history item comes first; successors of the
    same item have the order of `Successors`.
  """
  successors = count_successors(split.train, split.num_items, split.train_is_target)
  return rank(successors, split, decay)


def rank(successors: Successors, split: Split, decay: float = DECAY) -> np.ndarray:
  """Ranks items by successors that are counted already; see `recommend`. Of the split the rows are read alone."""
  histories, num_rows = split.histories, len(split.histories)
  entries = offsets_of(successors.items.lengths[histories.values])
  entries_U = entries[histories.offsets]  # number of entries of all earlier rows
  ranked_UK = np.full((num_rows, split.k), -1, np.int32)
  for block in blocks(np.diff(entries_U), BLOCK_ENTRIES):
    ranked_UK[block] = _rank_block(
      successors, split, histories.take(block), split.seen.take(block), decay
    )
  return ranked_UK
