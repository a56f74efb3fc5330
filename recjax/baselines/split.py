"""The input of a baseline."""

import dataclasses

import numpy as np

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
    exclude_seen: whether the items of `seen` are removed from a list.
    seen: for each row the items that `exclude_seen` removes. None: those of `histories`; with context
      events, only items of interactions that may be targets.
    train_is_target: bool, aligned with `train.values`: the interactions that may be targets. None: all.
    users: for each row the number of its user in `train`, int; -1: a user without training sequence. None: row n is
      that of user n, and of no user after the last.

  Raises:
    ValueError: an item index is outside the catalogue, or a user is not in `train`.
  """

  train: Sequences
  counted: Sequences
  histories: Sequences
  num_items: int
  k: int
  exclude_seen: bool = True
  seen: Sequences | None = None
  train_is_target: np.ndarray | None = None
  users: np.ndarray | None = None

  def __post_init__(self):
    if self.seen is None:
      object.__setattr__(self, 'seen', self.histories)
    if self.users is None:
      rows = np.arange(len(self.histories))
      object.__setattr__(self, 'users', np.where(rows < len(self.train), rows, -1))
    if self.users.size and not -1 <= self.users.min() <= self.users.max() < len(self.train):
      raise ValueError(
        f'users of rows must be in [-1, {len(self.train)}); got {self.users.min()} to {self.users.max()}'
      )
    for sequences in (self.train, self.counted, self.histories):
      items = sequences.values
      if items.size and not 0 <= items.min() <= items.max() < self.num_items:
        raise ValueError(
          f'item indices must be in [0, {self.num_items}); got {items.min()} to {items.max()}'
        )
