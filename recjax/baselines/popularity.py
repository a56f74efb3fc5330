"""The most popular items that a user has not seen: the floor under every recommender."""

import numpy as np

from recjax.data.sequences import Sequences

BLOCK_CELLS = 1 << 24  # cells of a dense block of users: bounds the memory


def recommend(
  train: Sequences,
  counted: Sequences,
  histories: Sequences,
  num_items: int,
  k: int,
  exclude_seen: bool = True,
) -> np.ndarray:
  """Ranks items by how often they occur in all that is known.

  Args:
    train: not needed, only part of what every baseline takes.
    counted: all that is known before the targets. For the test users of leave-one-out these are their
      histories: the training sequences and the validation items.
    histories: of every row: what its user has seen.
    num_items: I, the size of the catalogue; items that nobody took rank last.
    k: list length.
    exclude_seen: whether what a user has seen is never recommended again.

  Returns:
    int32 `[U, k]`, one list a history, best first, ties by the lower item index, -1 where nothing
    is left.

  Raises:
    ValueError: an item index lies outside the catalogue.
  """
  del train
  for sequences in (counted, histories):
    check_items(sequences, num_items)
  counts_I = np.bincount(counted.values, minlength=num_items)
  order_I = np.argsort(-counts_I, kind='stable')
  place_I = np.argsort(order_I)
  ranked_UK = np.full((len(histories), k), -1, np.int32)
  # The best k unseen items lie among the first k + |seen| of the order, which all users share.
  width = min(num_items, k + int(histories.lengths.max(initial=0)))
  block = max(1, BLOCK_CELLS // width)
  for start in range(0, len(histories), block):
    rows = histories.take(np.arange(start, min(start + block, len(histories))))
    owners = np.repeat(np.arange(len(rows)), rows.lengths)
    places = place_I[rows.values]
    hidden = np.zeros((len(rows), width), bool)
    if exclude_seen:
      hidden[owners[places < width], places[places < width]] = True
    first = np.argsort(hidden, axis=1, kind='stable')[:, :k]  # unseen ones first, in order
    left = ~np.take_along_axis(hidden, first, 1)
    ranked_UK[start : start + block, : first.shape[1]] = np.where(left, order_I[first], -1)
  return ranked_UK


def check_items(sequences: Sequences, num_items: int) -> None:
  """Raises a ValueError where an item index lies outside the catalogue."""
  values = sequences.values
  if values.size and not 0 <= values.min() <= values.max() < num_items:
    raise ValueError(
      f'item indices must lie in [0, {num_items}); got {values.min()} to {values.max()}'
    )
