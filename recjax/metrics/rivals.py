"""The rankings of the baselines, which the model is compared with."""

from collections.abc import Collection
import time

import numpy as np

from recjax.baselines import BASELINES, expensive
from recjax.baselines.split import Split
from recjax.data import log_change
from recjax.data.dataset import SPLITS, Dataset
from recjax.data.sequences import Sequences
from recjax.metrics.ranked import Ranked
from recjax.runtime import preemption
from recjax.schema.run import Eval


def split_of(settings: Eval, dataset: Dataset, split: str) -> Split:
  """Returns what the baselines may use to rank the rows of a split."""
  return Split(
    train=Sequences(np.asarray(dataset.train.values), np.asarray(dataset.train.offsets)),
    counted=dataset.countable_sequences(split),
    histories=dataset.histories_and_targets(split)[0],
    num_items=dataset.num_items,
    k=max(settings.ks),
    exclude_seen=settings.exclude_seen,
    seen=dataset.seen(split),
    train_is_target=dataset.train_is_target,
    users=log_change.row_users(dataset, split),
  )


def left_out(settings: Eval, dataset: Dataset, training_seconds: float | None) -> dict[str, float]:
  """Returns the estimated seconds of the baselines that are left out; see `baselines.expensive`.

  Args:
    settings: the eval section; the baselines that `eval.baselines` names are not left out.
    dataset: the prepared data.
    training_seconds: recorded seconds of the training steps. None: they are not known.
  """
  found = expensive([split_of(settings, dataset, split) for split in SPLITS], training_seconds)
  return {name: seconds for name, seconds in found.items() if name not in settings.baselines}


def rankings(
  settings: Eval,
  dataset: Dataset,
  split: str,
  left_out: Collection[str] = (),
  rows: np.ndarray | None = None,
) -> dict[str, Ranked]:
  """Returns the ranked items of rows of a split, for every baseline.

  Args:
    settings: the eval section.
    dataset: the prepared data.
    split: 'validation' or 'test'.
    left_out: names of baselines that are not computed; see `left_out`.
    rows: row numbers of the split. None: all rows.

  Raises:
    Preempted: SIGTERM or SIGINT arrived; a baseline is finished first.
  """
  ranked, depth = split_of(settings, dataset, split), max(settings.ks)
  targets, found = np.asarray(dataset.targets(split)), {}
  for name, baseline in BASELINES.items():
    if name not in left_out:
      preemption.check()
      start = time.monotonic()
      items_UK = baseline.recommend(ranked)
      each = Ranked.of(items_UK, None, targets, depth, time.monotonic() - start)
      found[name] = each if rows is None else each.take(rows)
  return found
