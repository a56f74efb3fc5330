"""Splits of held-out rows into buckets, and the metrics of every ranker in each bucket; `SLICES` explains them."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from recjax.data.dataset import Log
from recjax.data.sequences import Sequences
from recjax.metrics import hops, onehop, ranking
from recjax.metrics.ranked import Ranked
from recjax.metrics.reachable import is_repeated

TOP = 5  # recommendations of which the share in OneHop(u) is measured
DECILES = 10
LENGTHS = (0, 1, 3, 6, 11, 21, 51)  # the smallest length of each bucket

SLICES = {
  'hop': f'smallest number of direct transitions of training (at least one) from any item of the history to the '
  f'target; none: more than {hops.MOST}, or no path',
  'popularity': 'decile of the rows by the number of training interactions of the target, 1 the least popular; equal '
  'numbers are in one decile, that of their middle row, so a decile may be empty',
  'history_length': 'items of the history',
  'cold_items': 'cold: the target has no training interaction',
  'cold_users': "interactions in the training part of the row's user",
  'repeated_items': 'repeated: the target is in its own history, with context events as an earlier target',
}


@dataclasses.dataclass(frozen=True)
class Labels:
  """The bucket of every row.

  Attributes:
    buckets: names, in their order.
    of_U: int8 `[U]`, indices into `buckets`.
    ranges: bucket → the smallest and the largest value in it, for buckets that depend on the data. None: others.
  """

  buckets: tuple[str, ...]
  of_U: np.ndarray
  ranges: dict[str, list[int]] | None = None

  def rows(self, bucket: str) -> np.ndarray:
    """Returns the mask of the rows of a bucket, bool `[U]`."""
    return self.of_U == self.buckets.index(bucket)

  @property
  def names(self) -> np.ndarray:
    """The bucket of every row by name, str `[U]`."""
    return np.array(self.buckets)[self.of_U]


@dataclasses.dataclass(frozen=True)
class Slices:
  """The parts of evaluation.json about groups of rows, and the labels of the rows.

  Attributes:
    memorization: `rule`, `shares` and the split: ranker → `inside`, `outside`, `top5_share`, `top5_share_stderr`.
    splits: `meanings`, `ranges` and the split: name → bucket → `rows` and the metrics of every ranker.
    labels: name → labels of all rows; `inside` beside the names of `SLICES`.
  """

  memorization: dict[str, Any]
  splits: dict[str, Any]
  labels: dict[str, Labels]


def measure(
  log: Log,
  split: str,
  rankers: Mapping[str, Ranked],
  ks: Sequence[int],
  rows: np.ndarray | None = None,
) -> Slices:
  """Computes the metrics of every ranker for groups of held-out rows.

  Args:
    log: the prepared data.
    split: 'validation' or 'test'.
    rankers: name → result for `rows`, such as `model` and every baseline.
    ks: cut-offs, at most the length of the lists.
    rows: row numbers of the split, ascending. None: all.
  """
  rows = np.arange(log.num_rows(split)) if rows is None else rows
  histories, targets = log.histories_and_targets(split)
  histories, targets_U = histories.take(rows), np.asarray(targets)[rows]
  followers = onehop.successors(log)
  asked = {name: ranked.items_UK[:, :TOP] for name, ranked in rankers.items()}
  members = onehop.memberships(log, histories, {**asked, '': targets_U[:, None]}, followers)
  target = members.pop('')
  labels = {
    'inside': Labels(('outside', 'inside'), target.inside[:, 0].astype(np.int8)),
    'hop': _hops(hops.distances(followers, histories, targets_U)),
  } | _labels(log, split, rows, histories, targets_U)
  memorization = {
    'rule': onehop.RULE,
    'shares': {
      field.name: float(getattr(target, field.name).mean()) for field in dataclasses.fields(target)
    },
    split: _memorization(labels['inside'], rankers, members, ks),
  }
  splits = {
    'meanings': SLICES,
    'ranges': {name: labels[name].ranges for name in SLICES if labels[name].ranges},
    split: {name: _table(labels[name], rankers, ks) for name in SLICES},
  }
  return Slices(memorization, splits, labels)


def _memorization(
  inside: Labels,
  rankers: Mapping[str, Ranked],
  members: Mapping[str, onehop.Membership],
  ks: Sequence[int],
) -> dict[str, Any]:
  found = {}
  for name, ranked in rankers.items():
    # A list of fewer than `TOP` items fills the other places with nothing that is inside.
    shares_U = members[name].inside.sum(axis=1) / TOP
    found[name] = {
      bucket: {'users': int(rows.sum())} | metrics_of(ranked, rows, ks)
      for bucket in inside.buckets
      for rows in [inside.rows(bucket)]
    } | ranking.mean_and_error(f'top{TOP}_share', shares_U)
  return found


def _table(labels: Labels, rankers: Mapping[str, Ranked], ks: Sequence[int]) -> dict[str, Any]:
  return {
    bucket: {'rows': int(rows.sum())}
    | {name: metrics_of(ranked, rows, ks) for name, ranked in rankers.items() if rows.any()}
    for bucket in labels.buckets
    for rows in [labels.rows(bucket)]
  }


def metrics_of(ranked: Ranked, is_row_U: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
  """Returns the metrics of the marked rows; none if no row is marked."""
  return ranking.ranking_metrics(ranked.ranks_U[is_row_U], ks) if is_row_U.any() else {}


def _labels(
  log: Log, split: str, rows: np.ndarray, histories: Sequences, targets_U: np.ndarray
) -> dict[str, Labels]:
  marked = slice(None) if log.train_is_target is None else log.train_is_target
  counts_I = np.bincount(log.train.values[marked], minlength=log.num_items)
  trained_U = log.train.lengths[log.row_users(split)[rows]]
  is_repeated_U = is_repeated(log.seen(split).take(rows), targets_U)
  return {
    'popularity': deciles(counts_I[targets_U]),
    'history_length': ranges_of(histories.lengths, LENGTHS),
    'cold_items': Labels(('cold', 'warm'), (counts_I[targets_U] > 0).astype(np.int8)),
    'cold_users': ranges_of(trained_U, (0, 1, 3, 6)),
    'repeated_items': Labels(('new', 'repeated'), is_repeated_U.astype(np.int8)),
  }


def _hops(distances_U: np.ndarray) -> Labels:
  names = tuple(map(str, range(1, hops.MOST + 1)))
  return Labels(
    (*names, 'none'), np.where(distances_U > 0, distances_U - 1, hops.MOST).astype(np.int8)
  )


def deciles(values_U: np.ndarray) -> Labels:
  """Returns the decile of every row by its value, from '1' (the smallest) to '10'.

  Equal values are in one decile, that of the middle of their rows, so a decile may be empty. `ranges` holds the
  values of each decile that is not.
  """
  distinct, place_U, counts = np.unique(values_U, return_inverse=True, return_counts=True)
  middles = np.cumsum(counts) - counts / 2
  decile = np.minimum((middles * DECILES / max(len(values_U), 1)).astype(np.int8), DECILES - 1)
  names = tuple(map(str, range(1, DECILES + 1)))
  ranges = {
    names[n]: [int(distinct[decile == n].min()), int(distinct[decile == n].max())]
    for n in np.unique(decile)
  }
  return Labels(names, decile[place_U], ranges)


def ranges_of(values_U: np.ndarray, firsts: Sequence[int]) -> Labels:
  """Returns the range of every row's value; `firsts` holds the smallest value of each range, ascending from 0."""
  lasts = [first - 1 for first in firsts[1:]]
  names = [str(a) if a == b else f'{a}-{b}' for a, b in zip(firsts, lasts, strict=False)]
  of_U = np.searchsorted(firsts, values_U, side='right') - 1
  return Labels((*names, f'{firsts[-1]}+'), of_U.astype(np.int8))
