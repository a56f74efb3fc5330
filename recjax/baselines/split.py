"""The input of a baseline."""

import dataclasses

from recjax.data.sequences import Sequences


@dataclasses.dataclass(frozen=True)
class Split:
  """Held-out rows without their targets, and the sequences that a baseline may use to predict them.

  Attributes:
    train: each user's training sequence.
    counted: sequences that may be counted to predict the targets. Under leave-one-out these are the
      histories; under other splits they are the training sequences, because the history of one row may hold
      the target of another.
    histories: for each row the user's items before the target, oldest first.
    num_items: number of items of the catalogue.
    k: length of the ranked lists.
    exclude_seen: whether the items of a history are removed from its list.

  Raises:
    ValueError: an item index is outside the catalogue.
  """

  train: Sequences
  counted: Sequences
  histories: Sequences
  num_items: int
  k: int
  exclude_seen: bool = True

  def __post_init__(self):
    for sequences in (self.train, self.counted, self.histories):
      items = sequences.values
      if items.size and not 0 <= items.min() <= items.max() < self.num_items:
        raise ValueError(
          f'item indices must be in [0, {self.num_items}); got {items.min()} to {items.max()}'
        )
