"""Candidates of a search with an item head: items, each with the score of its codes and of the head."""

from typing import Any, NamedTuple


class Candidates(NamedTuple):
  """Distinct items for each row, numpy or jax arrays; the first are the beams, then the head's best other items.

  In every row the items come first and the padding last: item -1, both scores -inf.

  Attributes:
    items_BM: int32.
    codes_BM: float32, log-probability of the item's semantic ID.
    head_BM: float32, log-probability of the item under the item head, a softmax over the catalogue. None: the
      model has no item head.
  """

  items_BM: Any
  codes_BM: Any
  head_BM: Any | None = None
