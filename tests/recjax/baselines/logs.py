"""Random logs for the tests of baselines."""

import collections

import numpy as np

from recjax.baselines.split import Split
from recjax.data.sequences import Sequences

ITEMS = 25


def random_log(seed: int, users: int = 40) -> tuple[list[list[int]], list[list[int]]]:
  """Returns training sequences and the histories of test users, as lists."""
  rng = np.random.default_rng(seed)
  rows = [rng.integers(0, ITEMS, rng.integers(3, 12)).tolist() for _ in range(users)]
  return [row[:-2] for row in rows], [row[:-1] for row in rows]


def split_of(
  train, histories, counted=None, num_items: int = ITEMS, k: int = 10, **options
) -> Split:
  """Returns a `Split` of lists; `counted` defaults to the histories."""
  rows = (train, histories if counted is None else counted, histories)
  return Split(*(Sequences.from_lists(row) for row in rows), num_items, k, **options)


def with_context(seed: int) -> tuple[Split, list[list[bool]], list[list[int]]]:
  """Returns a random split with context, the marks of its possible targets, and the seen items of every row."""
  train, histories = random_log(seed)
  rng = np.random.default_rng(0)
  marks = [(rng.random(len(row)) < 0.5).tolist() for row in train]
  seen = [row[::2] for row in histories]
  split = split_of(
    train,
    histories,
    seen=Sequences.from_lists(seen),
    train_is_target=np.array([mark for row in marks for mark in row]),
  )
  return split, marks, seen


def padded(row: list[int], k: int) -> list[int]:
  return (row + [-1] * k)[:k]


def popularity_order(train, marks) -> list[int]:
  """Returns all items by training interactions that may be targets, then by index."""
  counts = collections.Counter(
    item
    for row, marked in zip(train, marks, strict=True)
    for item, mark in zip(row, marked, strict=True)
    if mark
  )
  return sorted(range(ITEMS), key=lambda item: (-counts[item], item))


def best(scores, hidden, order: list[int], k: int) -> list[int]:
  """Returns the k best items with a positive score; of equal scores, as float32, the first in an order."""
  found = [item for item in order if scores[item] > 0 and item not in hidden]
  return padded(sorted(found, key=lambda item: -np.float32(scores[item]))[:k], k)
