"""Evaluates a model and the baselines: every held-out row once, ranked against the full catalogue.

Items of the history are removed from the ranking unless `eval.exclude_seen` is off. Under leave-one-out the
rows are the users; `data_prep.log.splits` describes the other splits.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import logging
import time
from typing import Any

from etils import epath
import numpy as np

from recjax.baselines import BASELINES
from recjax.baselines.split import Split
from recjax.config import Config
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.sequences import Sequences
from recjax.decode.ranker import Ranker
from recjax.metrics import doubts, ranking
from recjax.metrics.reachable import count_unreachable
from recjax.runtime import distributed, goodput
from recjax.workdir import evaluation_file, outcome

log = logging.getLogger(__name__)


def sample_rows(num_rows: int, size: int, seed: int) -> np.ndarray:
  """Returns the fixed sample of rows for evaluations during training: sorted row numbers, int64."""
  if size >= num_rows:
    return np.arange(num_rows)
  return np.sort(np.random.default_rng(seed).choice(num_rows, size, replace=False))


def evaluate(
  ranker: Ranker,
  params,
  dataset: Dataset,
  split: str,
  ks: Sequence[int],
  rows: np.ndarray | None = None,
) -> dict[str, float]:
  """Returns the metrics of a split with their standard errors; see `recjax.metrics.ranking` and `row_ranks`."""
  return ranking.ranking_metrics(row_ranks(ranker, params, dataset, split, ks, rows), ks)


@goodput.phase('evaluation')
def row_ranks(
  ranker: Ranker,
  params,
  dataset: Dataset,
  split: str,
  ks: Sequence[int],
  rows: np.ndarray | None = None,
) -> np.ndarray:
  """Returns the 0-based rank of the target of every row, int64 `[rows]`; see `ranking.target_ranks`.

  Args:
    ranker: the search.
    params: parameters on the mesh.
    dataset: the prepared data.
    split: 'validation' or 'test'.
    ks: the cut-offs.
    rows: row numbers of the split (users under leave-one-out). None: all rows.
  """
  histories, targets = dataset.histories_and_targets(split)
  rows = np.arange(len(targets)) if rows is None else rows
  columns = {name: dataset.history_column(split, name) for name in ranker.columns}
  if 'times' in columns:  # in seconds, as in a file of histories
    columns['times'] = columns['times'] / dataset.ticks_per_second
  columns = {name: values for name, values in columns.items() if values is not None}
  slices = [slice(histories.offsets[row], histories.offsets[row + 1]) for row in rows]
  ranked_UM, scores_UM = ranker.rank(
    params,
    [histories.values[s] for s in slices],
    f'evaluate {split}',
    [{name: values[s] for name, values in columns.items()} for s in slices],
  )
  if len(rows) == len(targets) and distributed.is_host0():
    for doubt in doubts.of_ranking(ranked_UM, scores_UM, dataset.num_items):
      log.warning('%s: %s', split, doubt)
  return _ranks(ranked_UM, targets[rows], ks)


def _ranks(ranked_UM: np.ndarray, targets_U: np.ndarray, ks: Sequence[int]) -> np.ndarray:
  # Pads lists that are shorter than the largest cut-off: otherwise absent targets would count as found.
  missing = max(max(ks) - ranked_UM.shape[1], 0)
  ranked_UM = np.pad(ranked_UM, ((0, 0), (0, missing)), constant_values=-1)
  return ranking.target_ranks(ranked_UM, targets_U)


def headline(metrics: Mapping[str, float]) -> str:
  """Returns one line of metrics; `eval.ks` always holds 10."""
  recalls = [f'{name} {metrics[name]:.4f}' for name in ('recall@5', 'recall@10') if name in metrics]
  error, ndcg = metrics['recall@10_stderr'], metrics['ndcg@10']
  return f'{"  ".join(recalls)} ± {error:.4f}  ndcg@10 {ndcg:.4f}'


def baselines(config: Config, dataset: Dataset) -> dict[str, dict]:
  """Returns the test metrics of every baseline, and under `validation` its validation metrics."""
  results = {name: {} for name in BASELINES}
  for split in SPLITS:
    for name, ranks_U in baseline_ranks(config, dataset, split).items():
      results[name][split] = ranking.ranking_metrics(ranks_U, config.eval.ks)
  return {name: found.pop('test') | found for name, found in results.items()}


def baseline_ranks(config: Config, dataset: Dataset, split: str) -> dict[str, np.ndarray]:
  """Returns the 0-based rank of the target of every row of a split, int64 `[rows]`, for every baseline."""
  histories, targets = dataset.histories_and_targets(split)
  baseline_input = Split(
    train=Sequences(np.asarray(dataset.train.values), np.asarray(dataset.train.offsets)),
    counted=dataset.countable_sequences(split),
    histories=histories,
    num_items=dataset.num_items,
    k=max(config.eval.ks),
    exclude_seen=config.eval.exclude_seen,
    seen=dataset.seen(split),
    train_is_target=dataset.train_is_target,
  )
  return {
    name: _ranks(recommend(baseline_input), np.asarray(targets), config.eval.ks)
    for name, recommend in BASELINES.items()
  }


def unreachable_targets(config: Config, dataset: Dataset) -> dict[str, int]:
  """Returns the number of targets that `eval.exclude_seen` removes, by split; warns if there are any."""
  if not config.eval.exclude_seen:
    return dict.fromkeys(SPLITS, 0)
  counts = {name: count_unreachable(dataset.seen(name), dataset.targets(name)) for name in SPLITS}
  for split, count in counts.items():
    if count and distributed.is_host0():
      num_rows = dataset.num_rows(split)
      log.warning(
        'eval.exclude_seen removes %d of %d %s targets, which are in their own history: recall cannot exceed '
        '%.4f',
        *(count, num_rows, split, 1 - count / num_rows),
      )
  return counts


@goodput.phase('evaluation')
def evaluate_best(
  config: Config,
  workdir: epath.Path,
  dataset: Dataset,
  ranker: Ranker,
  params,
  step: int,
  ranks: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
  """Evaluates model and baselines on all validation and test rows; writes evaluation.json.

  Args:
    config: config of the evaluation.
    workdir: workdir of the run.
    dataset: the prepared data.
    ranker: the search.
    params: parameters of the best checkpoint, on the mesh.
    step: step of that checkpoint.
    ranks: is filled with the ranks of every split; see `row_ranks`.

  Returns:
    The content of evaluation.json; see `recjax.workdir.evaluation_file`.
  """
  start = time.monotonic()
  ks, ranks = config.eval.ks, {} if ranks is None else ranks
  for split in SPLITS:
    ranks[split] = row_ranks(ranker, params, dataset, split, ks)
  metrics = {split: ranking.ranking_metrics(ranks[split], ks) for split in SPLITS}
  seconds = time.monotonic() - start
  rows = {split: dataset.num_rows(split) for split in SPLITS}
  results = {
    'step': step,
    'training': outcome.of_training(workdir, config, step),
    'metrics': metrics,
    'rows': rows,
    'unreachable_targets': unreachable_targets(config, dataset),
    'eval': dataclasses.asdict(config.eval) | {'ks': list(config.eval.ks)},
    'baselines': baselines(config, dataset),
    'rows_per_sec': sum(rows.values()) / seconds,
    'items_sharing_a_sid': dataset.sids.sharing_items,
    'data': evaluation_file.data_record(dataset, config.data.item_text),
  }
  if distributed.is_host0():
    evaluation_file.write(workdir, results)
  for name, row in [('model', metrics['test']), *results['baselines'].items()]:
    log.info('test %-12s %s', name, headline(row))
  if sharing := results['items_sharing_a_sid']:
    log.info(
      '%d of %d items share their semantic ID with another; the most popular in training is ranked first',
      *(sharing, dataset.num_items),
    )
  return results
