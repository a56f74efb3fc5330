"""Counts of the training sequences as a score of candidates: what can be looked up need not be learnt.

The count of an item after a history is the sum over the history's items of (times the item followed that one in
training) · decay^age, as in the baseline `transitions`; with `neighbours` the co-occurrence within a window, weighted by
1 / distance, takes the place of the successors. The score is log(count + ε).

kNN-LM (Khandelwal et al., arXiv 1911.00172) adds a memory of training examples to a language model by interpolating
probabilities. The sum of logarithms is ours: its weight is that of an expert in a product, and it needs no normalised
probabilities of the candidates.
"""

from collections.abc import Sequence
import copy

import numpy as np
import scipy.sparse

from recjax.baselines.transitions import count_successors
from recjax.data.cooccurrence import cooccurrence_counts
from recjax.data.decay import decayed
from recjax.data.sequences import Sequences
from recjax.decode.masks import Mask, contains
from recjax.schema import blend

WINDOW = 5  # positions, of `neighbours`


class Memory:
  """The counts of a training part.

  Attributes:
    candidates: number of items of `best`.
    decay, smoothing: see `recjax.schema.blend.Memory`.
  """

  def __init__(
    self,
    settings: blend.Memory,
    train: Sequences,
    num_items: int,
    is_target: np.ndarray | None = None,
  ):
    """Counts the training sequences.

    Args:
      settings: the section `eval.memory`, with counts.
      train: the training part alone: no held-out interaction is counted.
      num_items: items of the catalogue, I.
      is_target: bool, aligned with `train.values`: only marked interactions are counted as what follows. None: all.
    """
    self.decay, self.smoothing = settings.decay, settings.smoothing
    self.candidates = min(settings.candidates, num_items)
    marks = slice(None) if is_target is None else is_target
    popularity_I = np.bincount(train.values[marks], minlength=num_items)
    self._ranks_I = np.empty(num_items, np.int64)
    self._ranks_I[np.argsort(-popularity_I, kind='stable')] = np.arange(num_items)
    if settings.counts == 'transitions':
      found = count_successors(train, num_items, is_target)
      cells = (found.counts, found.items.values, found.items.offsets)
      self._counts_II = scipy.sparse.csr_matrix(cells, shape=(num_items, num_items))
    else:
      self._counts_II = cooccurrence_counts(train, num_items, WINDOW, is_target=is_target)

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the counts as rows, and the items by popularity, for a search on the device.

    Returns:
      int32 `offsets` `[I + 1]` and `items`, float32 `counts`: what followed item i is `items[offsets[i]:offsets[i + 1]]`.
      int32 `popular` `[I]`, the most popular item first.
    """
    rows = self._counts_II
    return {
      'offsets': rows.indptr.astype(np.int32),
      'items': rows.indices.astype(np.int32),
      'counts': rows.data.astype(np.float32),
      'popular': np.argsort(self._ranks_I).astype(np.int32),
    }

  def moved(self, place_I: np.ndarray) -> 'Memory':
    """Returns the counts for another catalogue.

    Args:
      place_I: the index here of every item there; past the end for items that are not counted here.
    """
    other, counts_II = copy.copy(self), self._counts_II.tocoo()
    num_items, new_V = len(place_I), np.full(len(self._ranks_I), -1)
    is_old_I = place_I < len(new_V)
    new_V[place_I[is_old_I]] = np.flatnonzero(is_old_I)
    rows, columns = new_V[counts_II.row], new_V[counts_II.col]
    kept = (rows >= 0) & (columns >= 0)
    cells = (counts_II.data[kept], (rows[kept], columns[kept]))
    other._counts_II = scipy.sparse.csr_matrix(cells, shape=(num_items, num_items))
    ranks_V = np.append(self._ranks_I, len(new_V))  # new items come last
    other._ranks_I = ranks_V[np.minimum(place_I, len(new_V))]
    return other

  def read(self, histories: Sequence[np.ndarray]) -> scipy.sparse.csr_matrix:
    """Returns the counts of all items after histories of item indices, oldest first: float64 `[U, I]`."""
    rows = Sequences.from_lists(histories)
    return decayed(rows, self.decay, len(self._ranks_I)) @ self._counts_II

  def best(
    self,
    counts_UI: scipy.sparse.csr_matrix,
    excluded: Sequence[np.ndarray],
    masks: Sequence[Mask | None] | None = None,
  ) -> np.ndarray:
    """Returns the items with the largest counts that are not excluded.

    Args:
      counts_UI: of `read`.
      excluded: for each row the item indices that must not be returned.
      masks: for each row the items that may be returned; None: all.

    Returns:
      int32 `[U, candidates]`, the largest counts first, -1 after the last item with a count. Of equal counts the more
      popular item in training comes first, then the lower index.
    """
    U, num_items = counts_UI.shape
    rows = np.repeat(np.arange(U), np.diff(counts_UI.indptr))
    items, counts = counts_UI.indices, counts_UI.data
    hidden = [u * num_items + np.asarray(each, np.int64) for u, each in enumerate(excluded)]
    is_open = (counts > 0) & ~np.isin(rows * num_items + items, np.concatenate(hidden))
    for u, mask in enumerate(masks or ()):
      if mask is not None:
        of_row = slice(*counts_UI.indptr[u : u + 2])
        is_open[of_row] &= contains(mask.bits_W, items[of_row])
    rows, items, counts = rows[is_open], items[is_open], counts[is_open]
    order = np.lexsort((self._ranks_I[items], -counts, rows))
    rows, items = rows[order], items[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, np.arange(U))[rows]
    items_UN = np.full((U, self.candidates), -1, np.int32)
    is_kept = places < self.candidates
    items_UN[rows[is_kept], places[is_kept]] = items[is_kept]
    return items_UN

  def scores(self, counts_UI: scipy.sparse.csr_matrix, items_UM: np.ndarray) -> np.ndarray:
    """Returns log(count + ε) of items, float32 `[U, M]`; -inf for -1."""
    rows = np.repeat(np.arange(len(items_UM)), items_UM.shape[1])
    found = np.asarray(counts_UI[rows, np.maximum(items_UM, 0).ravel()]).reshape(items_UM.shape)
    scores_UM = np.log(found + self.smoothing).astype(np.float32)
    return np.where(items_UM < 0, np.float32(-np.inf), scores_UM)
