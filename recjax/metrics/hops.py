"""Hop distances: how many direct transitions of training lead from a history to a target.

A transition is a pair of items of which the second directly followed the first in a training sequence; under
leave-one-out these are the sequences s[:-2]. The distance of a row is the smallest number of transitions, at least
one, from any item of its history to its target. "How Well Does Generative Recommendation Generalize?" (arXiv
2603.19809) counts hops up to 4 too, but only from the last item.
"""

import itertools

import numpy as np

from recjax.baselines.transitions import Successors
from recjax.data.sequences import Sequences, blocks, offsets_of

MOST = 4  # longer distances are not told apart
BITS = 64
BLOCK_WORDS = 1 << 23  # 64-bit words of a step over all transitions, which bounds the memory
BLOCK_ENTRIES = 1 << 23  # successors of histories per block of rows


def distances(followers: Successors, histories: Sequences, targets_U: np.ndarray) -> np.ndarray:
  """Returns the distance of every row, int8 `[U]`: 1 to `MOST`; 0 if it is longer or if there is no path.

  Each bit of a word stands for one of 64 targets. Going back from the targets, a step over all transitions marks the
  items that reach a target with one transition more. The first transition starts at an item of the history, so
  `MOST` - 1 steps are enough.

  Args:
    followers: the transitions, see `recjax.metrics.onehop.successors`.
    histories: U sequences of item indices.
    targets_U: item indices.
  """
  found_U = np.zeros(len(targets_U), np.int8)
  distinct, target_U = np.unique(np.asarray(targets_U), return_inverse=True)
  words = int(np.clip(BLOCK_WORDS // max(len(followers.counts), 1), 1, 64))
  by_target = np.argsort(target_U, kind='stable')
  borders = np.arange(0, len(distinct) + BITS * words, BITS * words)
  starts = np.searchsorted(target_U[by_target], borders)
  for first, (start, end) in zip(borders, itertools.pairwise(starts), strict=False):
    rows = by_target[start:end]
    targets = distinct[first : first + BITS * words]
    found_U[rows] = _of_block(followers, histories, rows, targets, target_U[rows] - first)
  return found_U


def _of_block(
  followers: Successors,
  histories: Sequences,
  rows: np.ndarray,
  targets: np.ndarray,
  bit_U: np.ndarray,
) -> np.ndarray:
  """Returns the distances of some rows, whose targets are `targets[bit_U]`."""
  num_items, words = len(followers.items), -(-len(targets) // BITS)
  numbers = np.arange(len(targets))
  # Items that reach a target with at most n transitions.
  reach_IW = np.zeros((num_items, words), np.uint64)
  reach_IW[targets, numbers // BITS] = np.uint64(1) << (numbers % BITS).astype(np.uint64)
  found_U, open_U = np.zeros(len(rows), np.int8), np.arange(len(rows))
  for distance in range(1, MOST + 1):
    is_found = _leads_to(followers, histories, rows[open_U], reach_IW, bit_U[open_U])
    found_U[open_U[is_found]] = distance
    open_U = open_U[~is_found]
    if distance == MOST or not len(open_U):
      return found_U
    reach_IW = _step_back(followers, reach_IW)


def _step_back(followers: Successors, reach_IW: np.ndarray) -> np.ndarray:
  filled = np.flatnonzero(followers.items.lengths)
  further_IW = reach_IW.copy()
  further_IW[filled] |= np.bitwise_or.reduceat(
    reach_IW[followers.items.values], followers.items.offsets[filled], axis=0
  )
  return further_IW


def _leads_to(
  followers: Successors,
  histories: Sequences,
  rows: np.ndarray,
  reach_IW: np.ndarray,
  bit_U: np.ndarray,
) -> np.ndarray:
  """Returns whether a successor of a row's history has the row's bit, bool."""
  histories, lengths = histories.take(rows), followers.items.lengths
  sizes = np.diff(offsets_of(lengths[histories.values])[histories.offsets])
  is_found = np.zeros(len(rows), bool)
  for block in blocks(sizes, BLOCK_ENTRIES):
    shown = histories.take(block)
    owners = np.repeat(block, sizes[block])
    items = followers.items.take(shown.values).values
    words, bits = reach_IW[items, bit_U[owners] // BITS], (bit_U[owners] % BITS).astype(np.uint64)
    is_found[owners[(words >> bits & np.uint64(1)).astype(bool)]] = True
  return is_found
