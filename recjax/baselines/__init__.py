"""Recommenders without parameters, which a trained model has to beat: `BASELINES` by name."""

from collections.abc import Callable

import numpy as np

from recjax.baselines import popularity, transitions

# (training sequences, sequences that may be counted, histories, number of items, k, exclude_seen)
# -> int32 [histories, k], -1 where nothing is left
BASELINES: dict[str, Callable[..., np.ndarray]] = {
  'popularity': popularity.recommend,
  'transitions': transitions.recommend,
}
