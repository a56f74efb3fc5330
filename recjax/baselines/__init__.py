"""Recommenders to compare a model with: `BASELINES` by name, and `TRAINED`, which are trained as runs of their own.

To add a baseline, write a module with `recommend(split)` and `seconds(split)`, and add it to `BASELINES`.
"""

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from recjax.baselines import bpr_mf, graph, item_knn, popularity, transitions
from recjax.baselines.split import Split

SHARE = 0.1  # of the training time: baselines that cost more are computed only by name
LEAST_SECONDS = 1.0  # baselines that cost less are always computed


@dataclasses.dataclass(frozen=True)
class Baseline:
  """A recommender.

  Attributes:
    recommend: Split → ranked item indices, int [rows, at most k], best first; -1 after the end of a list.
    seconds: Split → estimated seconds of `recommend` on a core, from the sizes of the split alone, so that they are
      the same at every evaluation. None: it is always computed.
  """

  recommend: Callable[[Split], np.ndarray]
  seconds: Callable[[Split], float] | None = None


BASELINES: dict[str, Baseline] = {
  'popularity': Baseline(popularity.recommend),
  'transitions': Baseline(transitions.recommend),
  'item_knn': Baseline(item_knn.recommend, item_knn.seconds),
  'graph': Baseline(graph.recommend, graph.seconds),
  'bpr_mf': Baseline(bpr_mf.recommend, bpr_mf.seconds),
}

# Baselines that are models of recjax (`recjax.workdir.sasrec`). They are computed if `eval.baselines` names them.
TRAINED = ('sasrec',)


def expensive(splits: Sequence[Split], training_seconds: float | None) -> dict[str, float]:
  """Returns the estimated seconds of the baselines that are computed only if `eval.baselines` names them.

  Args:
    splits: the splits of an evaluation.
    training_seconds: recorded seconds of the training steps. None: they are not known.
  """
  limit = max(LEAST_SECONDS, SHARE * (training_seconds or 0.0))
  costs = {
    name: sum(baseline.seconds(split) for split in splits)
    for name, baseline in BASELINES.items()
    if baseline.seconds
  }
  return {name: cost for name, cost in costs.items() if cost > limit}
