"""Retrieval: the rank of the target among all items of the catalogue, by the constrained search."""

from collections.abc import Sequence
import dataclasses
import logging
import time
from typing import Any

import numpy as np

from recjax.data.dataset import Dataset
from recjax.decode.ranker import Ranker
from recjax.metrics import doubts, ranking
from recjax.metrics.evaluators.base import Context, Evaluator, Result, history_rows
from recjax.metrics.ranked import Ranked
from recjax.runtime import distributed, goodput
from recjax.schema.run import Eval

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(Evaluator):
  """Ranks the full catalogue after the history: recall, ndcg and mrr of the target at the cut-offs `eval.ks`.

  Items of the history are removed unless `eval.exclude_seen` is off. `eval.beams` and `eval.batch_size` are those of
  the search.
  """

  evaluator: str = 'retrieval'

  def metrics(self, settings: Eval) -> tuple[str, ...]:
    return tuple(f'{name}@{k}' for k in settings.ks for name in ranking.METRICS)

  def evaluate(self, context: Context, split: str, rows: np.ndarray) -> Result:
    ks = context.settings.ks
    ranked = rank_rows(context.ranker, context.params, context.dataset, split, ks, rows)
    metrics = ranking.ranking_metrics(ranked.ranks_U, ks)
    return Result(metrics, rows, ranked=ranked)


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
    ranker: the search.
    params: parameters on the mesh.
    dataset: the prepared data.
    split: 'validation' or 'test'.
    ks: the cut-offs, for the ranks of absent targets.
    rows: row numbers of the split (users under leave-one-out). None: all rows.
  """
  targets = dataset.targets(split)
  rows = np.arange(len(targets)) if rows is None else rows
  start = time.monotonic()
  histories, known = history_rows(dataset, split, rows, ranker.columns)
  items_UM, scores_UM = ranker.rank(params, histories, f'evaluate {split}', known)
  seconds = time.monotonic() - start
  if len(rows) == len(targets) and distributed.is_host0():
    for doubt in doubts.of_ranking(items_UM, scores_UM, dataset.num_items):
      log.warning('%s: %s', split, doubt)
  return Ranked.of(items_UM, scores_UM, np.asarray(targets)[rows], max(ks), seconds)
