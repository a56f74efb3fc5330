"""Recommenders to compare a model with: `BASELINES` by name, and `TRAINED`, which are trained as runs of their own.

To add a baseline, write a module with `recommend(split)` and add it to `BASELINES`.
"""

from collections.abc import Callable

import numpy as np

from recjax.baselines import popularity, transitions
from recjax.baselines.split import Split

# Split -> ranked item indices, int [rows, at most k], best first; -1 after the end of a list.
BASELINES: dict[str, Callable[[Split], np.ndarray]] = {
  'popularity': popularity.recommend,
  'transitions': transitions.recommend,
}

# Baselines that are models of recjax (`recjax.workdir.sasrec`). They are computed if `eval.baselines` names them.
TRAINED = ('sasrec',)
