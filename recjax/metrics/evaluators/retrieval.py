"""Retrieval: the rank of the target among all items of the catalogue, by the constrained search."""

from collections.abc import Sequence
import dataclasses
import logging
import time
from typing import Any

import numpy as np

from recjax.data.dataset import Dataset
from recjax.decode import blend
from recjax.decode.blend import Weights
from recjax.decode.ranker import Ranker
from recjax.metrics import doubts, ranking
from recjax.metrics import weights as weights_lib
from recjax.metrics.evaluators.base import Context, Evaluator, Result, history_rows
from recjax.metrics.ranked import Ranked
from recjax.runtime import distributed, goodput
from recjax.schema.run import Eval

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(Evaluator):
  """Ranks the full catalogue after the history: recall, ndcg and mrr of the target at the cut-offs `eval.ks`.

  Items of the history are removed unless `eval.exclude_seen` is off. `eval.beams` and `eval.batch_size` are those of
  the search. Where candidates have several scores, the weights are chosen on the validation rows that are evaluated
  (`recjax.metrics.weights`), and the ranking by each score of the model alone is kept too.
  """

  evaluator: str = 'retrieval'

  def metrics(self, settings: Eval) -> tuple[str, ...]:
    return tuple(f'{name}@{k}' for k in settings.ks for name in ranking.METRICS)

  def evaluate(self, context: Context, split: str, rows: np.ndarray) -> Result:
    settings, ranker = context.settings, context.ranker
    start = time.monotonic()
    histories, known = context.histories(split, rows)
    candidates = ranker.candidates(context.params, histories, f'evaluate {split}', known)
    seconds = time.monotonic() - start
    targets_U = np.asarray(context.dataset.targets(split))[rows]
    weights, chosen = context.weights, {}
    if weights is None:
      weights = weights_lib.fixed(settings.blend, candidates)
    if weights is None:
      if split != 'validation':
        raise ValueError(
          f'the weights of the scores must be chosen on validation rows before {split} rows are ranked; got none'
        )
      weights = weights_lib.choose(candidates, targets_U, settings.blend)
      chosen = weights_lib.as_metrics(weights)

    def rank(by: Weights) -> Ranked:
      found = blend.ranked(candidates, by, ranker.beams)
      return Ranked.of(*found, targets_U, max(settings.ks), seconds)

    ranked = rank(weights)
    if len(rows) == context.dataset.num_rows(split):
      _log_doubts(ranked, split, context.dataset)
    return Result(
      ranking.ranking_metrics(ranked.ranks_U, settings.ks) | chosen,
      rows,
      ranked=ranked,
      rankers={name: rank(by) for name, by in blend.alone(candidates).items()},
      weights=weights,
    )


@goodput.phase('evaluation')
def rank_rows(
  ranker: Ranker,
  params: Any,
  dataset: Dataset,
  split: str,
  ks: Sequence[int],
  rows: np.ndarray | None = None,
) -> Ranked:
  """Ranks the catalogue for rows of a split.

  Args:
    ranker: the search, with the weights of its ranking.
    params: parameters on the mesh.
    dataset: the prepared data.
    split: 'validation' or 'test'.
    ks: the cut-offs, for the ranks of absent targets.
    rows: row numbers of the split (users under leave-one-out). None: all rows.
  """
  targets = np.asarray(dataset.targets(split))
  rows = np.arange(len(targets)) if rows is None else rows
  start = time.monotonic()
  histories, known = history_rows(dataset, split, rows, ranker.columns)
  found = ranker.rank(params, histories, f'evaluate {split}', known)
  ranked = Ranked.of(*found, targets[rows], max(ks), time.monotonic() - start)
  if len(rows) == len(targets):
    _log_doubts(ranked, split, dataset)
  return ranked


def _log_doubts(ranked: Ranked, split: str, dataset: Dataset) -> None:
  if distributed.is_host0():
    for doubt in doubts.of_ranking(ranked.items_UK, ranked.scores_UK, dataset.num_items):
      log.warning('%s: %s', split, doubt)
