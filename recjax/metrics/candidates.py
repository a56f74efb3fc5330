"""Ranking metrics of scored candidates, of which one is relevant, with standard errors.

Equal scores do not favour any candidate: a metric is its mean over all orders of the candidates that have the target's
score. A ranker that gives all candidates one score gets what a random order gets on average.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recjax.metrics import ranking

METRICS = {'hit': ranking.recall, 'ndcg': ranking.ndcg}  # with a cut-off; `mrr` and `auc` have none


class Places(NamedTuple):
  """Where the targets stand among the candidates of U rows, int64 `[U]` each.

  Attributes:
    ahead_U: other candidates with a higher score.
    tied_U: other candidates with the score of the target.
    others_U: other candidates.
  """

  ahead_U: np.ndarray
  tied_U: np.ndarray
  others_U: np.ndarray

  @classmethod
  def of(cls, scores_UN: np.ndarray, is_candidate_UN: np.ndarray) -> 'Places':
    """Returns the places of the first candidate of every row.

    Args:
      scores_UN: numbers, higher is better.
      is_candidate_UN: bool, False for padding; True in the first column.

    Raises:
      ValueError: the score of a candidate is not a number.
    """
    if np.isnan(scores_UN[is_candidate_UN]).any():
      raise ValueError(
        'the score of every candidate must be a number; the model gives NaN. Did the training diverge?'
      )
    target_U1, is_other = scores_UN[:, :1], is_candidate_UN[:, 1:]
    ahead = ((scores_UN[:, 1:] > target_U1) & is_other).sum(axis=1)
    tied = ((scores_UN[:, 1:] == target_U1) & is_other).sum(axis=1)
    return cls(ahead, tied, is_other.sum(axis=1))


def metric_names(ks: Sequence[int]) -> tuple[str, ...]:
  """Returns the names of the metrics of `candidate_metrics`."""
  return (*(f'{name}@{k}' for k in ks for name in METRICS), 'mrr', 'auc')


def candidate_values(places: Places, ks: Sequence[int]) -> dict[str, np.ndarray]:
  """Returns every metric of every row, float64 `[U]` by name.

  `hit@k`: whether the target is among the first k (recall of one item). `ndcg@k`: see `ranking.ndcg`. `mrr`: 1 / place
  from 1, without a cut-off. `auc`: the share of other candidates below the target; equal ones count a half.
  """
  length = int(places.others_U.max(initial=0)) + 1
  ranks = np.arange(length)

  def mean(values: np.ndarray) -> np.ndarray:
    """The mean of a metric over the ranks that the target has in the orders of its ties."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = places.ahead_U + places.tied_U + 1
    return (sums[last] - sums[places.ahead_U]) / (places.tied_U + 1)

  found = {f'{name}@{k}': mean(metric(ranks, k)) for k in ks for name, metric in METRICS.items()}
  below = places.others_U - places.ahead_U - places.tied_U
  auc = (below + places.tied_U / 2) / np.maximum(places.others_U, 1)
  return found | {'mrr': mean(ranking.mrr(ranks, length)), 'auc': auc}


def candidate_metrics(places: Places, ks: Sequence[int]) -> dict[str, float]:
  """Returns the mean of every metric over the rows, and its standard error `<metric>_stderr`.

  Raises:
    ValueError: there are no rows.
  """
  return {
    name: value
    for metric, values_U in candidate_values(places, ks).items()
    for name, value in ranking.mean_and_error(metric, values_U).items()
  }
