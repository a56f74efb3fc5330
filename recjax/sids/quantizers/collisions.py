"""De-duplication: adds a level that distinguishes items with the same quantized codes."""

import numpy as np

from recjax.sids import grouping


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
  counter_I = grouping.places(codes_IL)
  size = 2 * (int(counter_I.max(initial=0)) + 1)
  return np.concatenate([codes_IL, counter_I[:, None]], axis=1).astype(np.int32), size
