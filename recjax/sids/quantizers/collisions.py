"""De-duplication: adds a level that distinguishes items with the same quantized codes."""

import numpy as np


def deduplicate(codes_IL: np.ndarray) -> tuple[np.ndarray, int]:
  """Adds a level that numbers the items with equal codes, in item order.

  Source: Rajput et al., "Recommender Systems with Generative Retrieval" (NeurIPS 2023, section 3.1). They append
  the code only to colliding items. Here every SID has it, so that all SIDs have the same length.

  Args:
    codes_IL: int32 `[I, L]`.

  Returns:
    Codes int32 `[I, L + 1]` with unique rows, and the size of the added level. It is twice the largest
    group, so that new items can join a group within the same code space.
  """
  num_items = len(codes_IL)
  order = np.lexsort(codes_IL.T[::-1])  # stable: within a group, item order
  ordered = codes_IL[order]
  is_first = np.ones(num_items, bool)
  is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
  positions = np.arange(num_items)
  rank_in_group = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
  counter = np.empty(num_items, np.int32)
  counter[order] = rank_in_group
  size = 2 * (int(rank_in_group.max(initial=0)) + 1)
  return np.concatenate([codes_IL, counter[:, None]], axis=1).astype(np.int32), size
