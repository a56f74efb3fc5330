"""The metric that chooses the best checkpoint of a run."""

from collections.abc import Mapping
import math
from typing import NamedTuple

from recjax.schema.run import Eval

DEFAULT = Eval().choose_by  # that of workdirs of earlier versions


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
    """The name of the metric in an evaluation; see `named`."""
    return key(f'{self.evaluator}.{self.metric}')

  def shown(self, metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metric and its standard error by their names; without those that are absent."""
    names = (self.key, f'{self.key}_stderr')
    return {name: metrics[name] for name in names if name in metrics}

  def score(self, metrics: Mapping[str, float]) -> float | None:
    """Returns the score of a checkpoint, of which the highest is the best; None: the metric is absent or not finite.

    It is the metric, with the other sign if lower is better.
    """
    value = metrics.get(self.key)
    if value is None or not math.isfinite(value):
      return None
    return -value if self.lower_is_better else value


def key(choose_by: str) -> str:
  """Returns the name of a metric in an evaluation: 'retrieval.ndcg@10' is ndcg@10, 'rating.rmse' is rating/rmse."""
  evaluator, _, metric = choose_by.partition('.')
  return next(iter(named(evaluator, {metric: 0.0})))


def named(evaluator: str, metrics: Mapping[str, float]) -> dict[str, float]:
  """Returns the metrics of an evaluator by their names in metrics.jsonl; those of retrieval keep their names."""
  prefix = '' if evaluator == 'retrieval' else f'{evaluator}/'
  return {f'{prefix}{name}': value for name, value in metrics.items()}
