"""The popularity baseline: the most popular items that the user has not seen."""

import numpy as np

from recjax.baselines.split import Split

BLOCK_CELLS = 1 << 24  # cells of a dense block of rows, which bounds the memory


def recommend(split: Split) -> np.ndarray:
  """Ranks items by their number of interactions in `split.counted`.

  Returns:
    int32 `[U, k]`, best first, -1 after the end of a list. Of equal counts the lower item index comes first.
  """
  counts_I = np.bincount(split.counted.values, minlength=split.num_items)
  order_I = np.argsort(-counts_I, kind='stable')
  place_I = np.argsort(order_I)
  num_rows, k = len(split.histories), split.k
  ranked_UK = np.full((num_rows, k), -1, np.int32)
  # The k best unseen items are among the first k + |seen| items of the order, which all rows share.
  width = min(split.num_items, k + int(split.seen.lengths.max(initial=0)))
  block = max(1, BLOCK_CELLS // width)
  for start in range(0, num_rows, block):
    seen = split.seen.take(np.arange(start, min(start + block, num_rows)))
    rows = np.repeat(np.arange(len(seen)), seen.lengths)
    places = place_I[seen.values]
    hidden = np.zeros((len(seen), width), bool)
    if split.exclude_seen:
      hidden[rows[places < width], places[places < width]] = True
    first = np.argsort(hidden, axis=1, kind='stable')[:, :k]  # unseen items, in the shared order
    unseen = ~np.take_along_axis(hidden, first, 1)
    ranked_UK[start : start + block, : first.shape[1]] = np.where(unseen, order_I[first], -1)
  return ranked_UK
