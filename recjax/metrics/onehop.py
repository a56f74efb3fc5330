"""One-hop memorization: items that directly followed an item of the history in training sequences.

OneHop(u) holds the 50 most frequent direct successors, in training, of the items of u's history ("On the
Memorization Behavior of LLMs in Generative Recommendation", arXiv 2606.17276). The paper's tie rule and its treatment
of seen items are not known; `RULE` states those of this module. Under leave-one-out a training sequence is s[:-2]. An
item of context is a predecessor, not a successor.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np
import scipy.sparse as sp

from recjax.baselines.transitions import Successors, count_successors
from recjax.data.dataset import Log
from recjax.data.sequences import Sequences, blocks, offsets_of

SIZE = 50  # items of OneHop(u)
BLOCK_ENTRIES = 1 << 22  # successors and asked items per block of rows, which bounds the memory

RULE = (
  f'OneHop(u) holds the {SIZE} most frequent direct successors, in training sequences, of the items of the history. '
  'Counts are summed over the distinct items of the history. Of equal counts, the item with more training '
  'interactions comes first, then the lower raw id. Items of the history may be in the set.'
)


@dataclasses.dataclass(frozen=True)
class Membership:
  """Which items of rows are in OneHop(u); bool arrays of the shape of the items.

  Attributes:
    inside: by `RULE`.
    ties_out: as if all successors whose count is cut in two by the size of the set were outside.
    ties_in: as if they all were inside.
    uncut: as if the set had no size: every direct successor is inside.
  """

  inside: np.ndarray
  ties_out: np.ndarray
  ties_in: np.ndarray
  uncut: np.ndarray


def successors(log: Log) -> Successors:
  """Counts the direct successors of every item in the training part of a log."""
  return count_successors(log.train, log.num_items, log.train_is_target)


def memberships(
  log: Log,
  histories: Sequences,
  items: Mapping[str, np.ndarray],
  followers: Successors,
  size: int = SIZE,
) -> dict[str, Membership]:
  """Finds which items are in the set of their row.

  Args:
    log: the prepared log.
    histories: U histories of item indices.
    items: name → int `[U, n]` item indices; negative ones are in no set.
    followers: see `successors`.
    size: items of a set.
  """
  num_items = log.num_items
  popularity_I = log.train.counts(num_items)
  place_I = np.empty(num_items, np.int64)  # among equal counts
  place_I[np.argsort(-popularity_I, kind='stable')] = np.arange(num_items)
  counts = followers.counts.astype(np.int64)
  follow_II = sp.csr_matrix(
    (counts, followers.items.values, followers.items.offsets), (num_items, num_items)
  )
  entries = offsets_of(followers.items.lengths[histories.values])[histories.offsets]
  asked = sum(each.shape[1] for each in items.values())
  fields = [field.name for field in dataclasses.fields(Membership)]
  found = {
    name: Membership(*(np.zeros(each.shape, bool) for _ in fields)) for name, each in items.items()
  }
  for rows in blocks(np.diff(entries) + asked + 1, BLOCK_ENTRIES):
    candidates = _candidates(histories.take(rows), follow_II, place_I, size)
    for name, each in items.items():
      part = candidates.membership(each[rows])
      for field in fields:
        getattr(found[name], field)[rows] = getattr(part, field)
  return found


@dataclasses.dataclass(frozen=True)
class _Candidates:
  """All direct successors of the histories of a block of rows, and the borders of the sets.

  A successor's value is count · I + (I - 1 - place of the item among equal counts): no two of a row are equal.

  Attributes:
    keys: int64, row · I + item, sorted; the last one is a stopper.
    values: int64, aligned with `keys`; -1 for the stopper.
    cut_U: int64, the value of each row's last item of the set; 0: all are inside.
    whole_U: int64, the lowest count of each row that the size of the set does not cut in two.
    num_items: I.
  """

  keys: np.ndarray
  values: np.ndarray
  cut_U: np.ndarray
  whole_U: np.ndarray
  num_items: int

  def membership(self, items_Un: np.ndarray) -> Membership:
    keys = np.arange(len(items_Un))[:, None] * self.num_items + items_Un
    places = np.searchsorted(self.keys, keys)
    uncut = (self.keys[places] == keys) & (items_Un >= 0)
    values = self.values[places]
    counts, cut, whole = values // self.num_items, self.cut_U[:, None], self.whole_U[:, None]
    return Membership(
      inside=uncut & (values >= cut),
      ties_out=uncut & (counts >= whole),
      ties_in=uncut & (counts >= cut // self.num_items),
      uncut=uncut,
    )


def _candidates(
  histories: Sequences, follow_II: sp.csr_matrix, place_I: np.ndarray, size: int
) -> _Candidates:
  num_rows, num_items = len(histories), len(place_I)
  ones = np.ones(len(histories.values), np.int64)
  shown_UI = sp.csr_matrix((ones, histories.values, histories.offsets), (num_rows, num_items))
  shown_UI.sum_duplicates()
  shown_UI.data[:] = 1  # a repeated item counts once
  found_UI = (shown_UI @ follow_II).tocsc().tocsr()  # sorts the items of every row, in linear time
  offsets, items = found_UI.indptr.astype(np.int64), found_UI.indices
  values = found_UI.data * num_items + (num_items - 1 - place_I[items])
  keys = np.repeat(np.arange(num_rows), np.diff(offsets)) * num_items + items
  cut_U, whole_U = _cuts(Sequences(values, offsets), size, num_items)
  stopped = np.append(keys, np.iinfo(np.int64).max), np.append(values, -1)
  return _Candidates(*stopped, cut_U, whole_U, num_items)


def _cuts(values: Sequences, size: int, num_items: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns `cut_U` and `whole_U` of `_Candidates`; both are 0 for a row with at most `size` successors."""
  cut_U, whole_U = np.zeros((2, len(values)), np.int64)
  for row in np.flatnonzero(values.lengths > size):  # a loop is faster than a sort of all rows
    beyond, last = np.partition(values[row], [-size - 1, -size])[[-size - 1, -size]].tolist()
    cut_U[row] = last
    whole_U[row] = last // num_items + (last // num_items == beyond // num_items)
  return cut_U, whole_U
