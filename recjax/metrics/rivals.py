"""The rankings of the baselines, which the model is compared with."""

from collections.abc import Collection, Mapping
import time

import numpy as np

from recjax.baselines import BASELINES, expensive
from recjax.baselines.split import Split
from recjax.data.dataset import Dataset
from recjax.metrics.ranked import Ranked
from recjax.runtime import preemption
from recjax.schema.run import Eval


def split_of(
  dataset: Dataset, split: str, rows: np.ndarray, k: int, exclude_seen: bool = False
) -> Split:
  """Returns the input of the baselines for rows of a split.

  Args:
    dataset: the prepared data.
    split: 'validation' or 'test'.
    rows: row numbers of the split.
    k: length of the ranked lists.
    exclude_seen: whether items of the history are removed from the lists.
  """
  return Split(
    train=dataset.train.whole(),
    counted=dataset.countable_sequences(split).whole(),
    histories=dataset.histories_and_targets(split)[0].take(rows),
    num_items=dataset.num_items,
    k=k,
    exclude_seen=exclude_seen,
    seen=dataset.seen(split).take(rows),
    train_is_target=dataset.train_is_target,
    users=dataset.row_users(split)[rows],
  )


def left_out(
  settings: Eval,
  dataset: Dataset,
  rows: Mapping[str, np.ndarray],
  training_seconds: float | None,
) -> dict[str, float]:
  """Returns the estimated seconds of the baselines that are left out; see `baselines.expensive`.

  Args:
    settings: the eval section; the baselines that `eval.baselines` names are not left out.
    dataset: the prepared data.
    rows: split → row numbers of the evaluated rows.
    training_seconds: recorded seconds of the training steps. None: they are not known.
  """
  splits = [split_of(dataset, split, each, max(settings.ks)) for split, each in rows.items()]
  found = expensive(splits, training_seconds)
  return {name: seconds for name, seconds in found.items() if name not in settings.baselines}


def rankings(
  settings: Eval,
  dataset: Dataset,
  split: str,
  rows: np.ndarray,
  left_out: Collection[str] = (),
) -> dict[str, Ranked]:
  """Returns the ranked items of rows of a split, for every baseline.

  Args:
    settings: the eval section.
    dataset: the prepared data.
    split: 'validation' or 'test'.
    rows: row numbers of the split.
    left_out: names of baselines that are not computed; see `left_out`.

  Raises:
    Preempted: SIGTERM or SIGINT arrived; a baseline is finished first.
  """
  depth, targets, found = max(settings.ks), np.asarray(dataset.targets(split))[rows], {}
  given = split_of(dataset, split, rows, depth, settings.exclude_seen)
  for name, baseline in BASELINES.items():
    if name not in left_out:
      preemption.check()
      start = time.monotonic()
      items_UK = baseline.recommend(given)
      found[name] = Ranked.of(items_UK, None, targets, depth, time.monotonic() - start)
  return found
