"""Computes consecutive examples of a stream; those of arrays in a bucket are computed by many threads."""

from typing import Any

from recjax.data import arrays


def consecutive(mixture: Any, first: int, count: int) -> list[Any]:
  """Returns `mixture[first]`, …, `mixture[first + count - 1]` (`recjax.data.mixture.Mixture`).

  An example of arrays in a bucket waits for two or three ranges, tens of milliseconds each. Threads let these waits
  overlap. An example is a function of its number, so the order of reading does not matter.
  """
  numbers = range(first, first + count)
  is_ranged = isinstance(mixture.corpus.train.values, arrays.Ranged)
  return list((arrays.pool().map if is_ranged else map)(mixture.__getitem__, numbers))
