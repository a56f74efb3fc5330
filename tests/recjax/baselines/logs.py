"""Random logs for the tests of baselines."""

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


def padded(row: list[int], k: int) -> list[int]:
  return (row + [-1] * k)[:k]
