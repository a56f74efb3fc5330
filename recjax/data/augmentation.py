"""Random changes of a history, drawn from the random numbers of its example.

Item dropout leaves out items; a local shuffle permutes a short span of neighbours (the reordering of CL4SRec, arXiv
2010.14395, section 3.2, with a span of a few items). Both keep the last item in its place, the one to predict.
"""

import numpy as np

SPAN = 4  # items of a shuffled span, at most


def changed(rng: np.random.Generator, size: int, item_dropout: float, shuffle: float) -> np.ndarray:
  """Returns the places of the items that an example shows, in the order in which it shows them.

  Args:
    rng: the source of randomness. A change with the share 0 draws nothing from it.
    size: number of items, at least 2. The last one is kept and stays last.
    item_dropout: probability that an earlier item is left out. If all are drawn, the newest of them is kept.
    shuffle: probability that a span of 2 to `SPAN` earlier neighbours is permuted. Every length has the same
      chance, then every place, then every order, also the old one.

  Returns:
    int64, distinct numbers below `size`; at least 2.
  """
  earlier = np.arange(size - 1)
  if item_dropout:
    kept = rng.random(len(earlier)) >= item_dropout
    kept[-1] |= not kept.any()
    earlier = earlier[kept]
  if shuffle and rng.random() < shuffle and len(earlier) >= 2:
    span = int(rng.integers(2, min(SPAN, len(earlier)) + 1))
    start = int(rng.integers(len(earlier) - span + 1))
    earlier[start : start + span] = rng.permutation(earlier[start : start + span])
  return np.append(earlier, size - 1)
