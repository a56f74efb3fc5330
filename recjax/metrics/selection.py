"""The metric that chooses the best checkpoint of a run."""

from collections.abc import Mapping
from typing import NamedTuple


class Selection(NamedTuple):
  """`eval.choose_by`, taken apart.

  Attributes:
    evaluator: name of the evaluator in the config.
    metric: name of its metric.
    lower_is_better: whether a lower value is better.
  """

  evaluator: str
  metric: str
  lower_is_better: bool = False

  @property
  def key(self) -> str:
    """The name of the metric among all metrics of an evaluation; see `named`."""
    return next(iter(named(self.evaluator, {self.metric: 0.0})))

  def score(self, metrics: Mapping[str, float]) -> float:
    """Returns the score of a checkpoint, of which the highest is the best: the metric, negative if lower is better."""
    return -metrics[self.key] if self.lower_is_better else metrics[self.key]


def named(evaluator: str, metrics: Mapping[str, float]) -> dict[str, float]:
  """Returns metrics under the names of metrics.jsonl: ndcg@10 of retrieval, rating/rmse of an evaluator rating."""
  prefix = '' if evaluator == 'retrieval' else f'{evaluator}/'
  return {f'{prefix}{name}': value for name, value in metrics.items()}
