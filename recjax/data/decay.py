"""The weights of the items of histories, which decay with age."""

import numpy as np
import scipy.sparse

from recjax.data.sequences import Sequences


def decayed(histories: Sequences, decay: float, num_items: int) -> scipy.sparse.csr_matrix:
  """Returns decay^age of every item of a history, the last one of age 0: float64 `[U, I]`; repeated items are summed."""
  ages = np.repeat(histories.lengths, histories.lengths) - 1.0 - histories.places
  cells = (decay**ages, histories.values, histories.offsets)
  return scipy.sparse.csr_matrix(cells, shape=(len(histories), num_items))
