"""Ranks items by sums over the history: sparse scores from item to item, weighted by age."""

import numpy as np
import scipy.sparse

from recjax.baselines.split import Split
from recjax.data.decay import decayed
from recjax.data.neighbours import Neighbours
from recjax.data.sequences import Sequences, blocks, offsets_of

BLOCK_ENTRIES = 1 << 23  # scores per block of rows, which bounds the memory
SECONDS = 1e-7  # per score
_SEEN = 1e30  # far above every score; stays finite in float32


def popularity_ranks(split: Split) -> np.ndarray:
  """Returns the place of every item by training interactions that may be targets, then by index: int64 `[I]`."""
  train, marks = split.train.values, split.train_is_target
  counts_I = np.bincount(train if marks is None else train[marks], minlength=split.num_items)
  ranks_I = np.empty(split.num_items, np.int64)
  ranks_I[np.argsort(-counts_I, kind='stable')] = np.arange(split.num_items)
  return ranks_I


def seconds(split: Split, longest: float | np.ndarray) -> float:
  """Returns an estimate of the seconds of `recommend`, if item i has at most `longest[i]` scores."""
  longest_I = np.broadcast_to(longest, split.num_items)
  return SECONDS * float(longest_I[split.histories.values].sum())


def recommend(split: Split, scores_II: scipy.sparse.csr_matrix, decay: float) -> np.ndarray:
  """Ranks items j by the sum over history items i of `scores_II[i, j]` · decay^age; the last item has age 0.

  An item that occurs several times in a history counts each time. Sums are compared as float32. Of equal sums the
  more popular item in training comes first, then the lower item index; so the order depends neither on the numbering
  of users nor on held-out interactions.

  Args:
    split: the rows.
    scores_II: float64 `[I, I]`, not negative, in canonical format.
    decay: weight of a history item relative to the next one.

  Returns:
    int32 `[U, k]`, best first, -1 after the last item with a positive sum.
  """
  histories, num_items = split.histories, split.num_items
  ranks_I = popularity_ranks(split)
  ranked_UK = np.full((len(histories), split.k), -1, np.int32)
  entries = offsets_of(np.diff(scores_II.indptr)[histories.values])
  for rows in blocks(np.diff(entries[histories.offsets]) + split.seen.lengths, BLOCK_ENTRIES):
    block = histories.take(rows)
    sums = decayed(block, decay, num_items) @ scores_II
    if split.exclude_seen:
      seen = split.seen.take(rows)
      sums = sums - _SEEN * decayed(seen, 1.0, num_items)
    found = Neighbours(Sequences(sums.indices, sums.indptr.astype(np.int64)), sums.data)
    best = found.keep(sums.data > 0).strongest(split.k, ranks_I).items
    ranked_UK[np.repeat(rows, best.lengths), best.places] = best.values
  return ranked_UK
