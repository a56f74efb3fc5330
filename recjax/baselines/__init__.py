"""Recommenders without parameters, which a trained model has to beat: `BASELINES` by name."""

from collections.abc import Callable

import numpy as np

from recjax.baselines import popularity, transitions

# (train sequences, histories, number of items, k) -> int32 [U, k], -1 where nothing is left
BASELINES: dict[str, Callable[..., np.ndarray]] = {
  'popularity': popularity.recommend,
  'transitions': transitions.recommend,
}
