"""The similarity of an item's text to the texts of the history as a score of candidates.

The score of an item is the sum over the history's items of (cosine of both items' text vectors) · decay^age. The vectors
are those of the preparation's encoder. EnsRec (arXiv 2512.17820) adds the scores of a model over ids and of one over
texts. The untrained cosine in place of the second model is ours.
"""

from collections.abc import Sequence

import numpy as np

from recjax.data.decay import decayed
from recjax.data.sequences import Sequences
from recjax.decode.masks import Mask, unpacked
from recjax.schema import blend

_BLOCK_CELLS = 1 << 24  # similarities at once, which bounds the memory
DECIMALS = 5  # matrix products of other shapes differ in later ones, and must find the same items


class TextSimilarity:
  """The text vectors of a catalogue.

  Attributes:
    candidates: number of items of `best`.
    decay: see `recjax.schema.blend.Text`.
    vectors_ID: float32 `[I, D]`, of length one or zero.
  """

  def __init__(self, settings: blend.Text, vectors_ID: np.ndarray):
    """Normalizes the vectors.

    Args:
      settings: the section `eval.text`, with vectors.
      vectors_ID: float `[I, D]`, the text vectors of the items. A zero vector is similar to none.
    """
    self.decay, self.candidates = settings.decay, settings.candidates
    vectors_ID = np.asarray(vectors_ID, np.float32)
    lengths_I1 = np.linalg.norm(vectors_ID, axis=1, keepdims=True)
    self.vectors_ID = vectors_ID / np.where(lengths_I1 > 0, lengths_I1, 1)

  def read(self, histories: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the decayed sums of the vectors of histories of item indices, oldest first: float32 `[U, D]`."""
    weights = decayed(Sequences.from_lists(histories), self.decay, len(self.vectors_ID))
    return weights.astype(np.float32) @ self.vectors_ID

  def best(
    self,
    query_UD: np.ndarray,
    excluded: Sequence[np.ndarray],
    masks: Sequence[Mask | None] | None = None,
  ) -> np.ndarray:
    """Returns the items with the largest scores that are not excluded; of equal scores the lower index comes first.

    Args:
      query_UD: of `read`.
      excluded: for each row the item indices that must not be returned.
      masks: for each row the items that may be returned; None: all.

    Returns:
      int32 `[U, candidates]`, the largest first, -1 after the last item. A row without a history has no items.
    """
    num_items = len(self.vectors_ID)
    items_UN = np.full((len(query_UD), self.candidates), -1, np.int32)
    count = min(self.candidates, num_items)
    block = max(_BLOCK_CELLS // num_items, 1)
    distinct = {mask.key: mask for mask in masks or () if mask is not None}
    is_in_I = {key: unpacked(mask.bits_W, num_items) for key, mask in distinct.items()}
    for start in range(0, len(query_UD) if count else 0, block):
      scores_UI = np.round(query_UD[start : start + block] @ self.vectors_ID.T, DECIMALS)
      for row_I, hidden in zip(scores_UI, excluded[start : start + block], strict=True):
        row_I[np.asarray(hidden, np.int64)] = -np.inf
      for u, mask in enumerate((masks or ())[start : start + block]):
        if mask is not None:
          scores_UI[u, ~is_in_I[mask.key]] = -np.inf
      scores_UI[~query_UD[start : start + block].any(axis=1)] = -np.inf
      # Items above the last of `count` scores, then those that equal it by index: argpartition breaks ties anyhow.
      last_U1 = np.partition(scores_UI, num_items - count, axis=1)[:, num_items - count, None]
      order_UI = np.where(scores_UI >= last_U1, scores_UI, -np.inf)
      for u, row_I in enumerate(order_UI):
        found = np.flatnonzero(row_I > -np.inf)
        found = found[np.argsort(-row_I[found], kind='stable')][:count]
        items_UN[start + u, : len(found)] = found
    return items_UN

  def scores(self, query_UD: np.ndarray, items_UM: np.ndarray) -> np.ndarray:
    """Returns the scores of items, float32 `[U, M]`; -inf for -1."""
    vectors_UMD = self.vectors_ID[np.maximum(items_UM, 0)]
    scores_UM = np.einsum('ud,umd->um', query_UD, vectors_UMD)
    return np.where(items_UM < 0, np.float32(-np.inf), scores_UM)
