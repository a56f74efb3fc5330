"""Sums over all interactions of a log, gathered some users at a time."""

from collections.abc import Iterable
import dataclasses

import numpy as np

from recjax.report.data.whole import Whole

QUANTILES = {'min': 0, 'p10': 0.1, 'p25': 0.25, 'median': 0.5, 'p75': 0.75, 'p90': 0.9, 'p99': 0.99, 'max': 1}  # fmt: skip
SESSION_SECONDS = 1800  # a longer pause begins a new session
GAPS = 1 << 24  # gaps whose quantiles are computed


@dataclasses.dataclass(frozen=True)
class Gathered:
  """Sums over the interactions of a log.

  Attributes:
    lengths_U: int64, interactions of each user.
    counts_I: int64, interactions of each item.
    events: interactions of each kind, or None.
    ratings: the distinct ratings, sorted, and the number of interactions of each; or None.
    times: first and last; None without times.
    gaps: see `Gaps`; None without times, or if no user has two interactions.
  """

  lengths_U: np.ndarray
  counts_I: np.ndarray
  events: np.ndarray | None
  ratings: tuple[np.ndarray, np.ndarray] | None
  times: tuple[int, int] | None
  gaps: 'Gaps | None'

  @property
  def total(self) -> int:
    """Number of interactions."""
    return int(self.counts_I.sum())


@dataclasses.dataclass(frozen=True)
class Gaps:
  """The times between consecutive interactions of a user, in seconds.

  Attributes:
    quantiles: by the names of `QUANTILES`. Of more than `GAPS` gaps, those of evenly spaced ones, but for the smallest
      and the largest.
    count: number of gaps.
    zero: number of gaps without duration.
    long: number of gaps of more than `SESSION_SECONDS`.
  """

  quantiles: dict[str, float]
  count: int
  zero: int
  long: int


def gather(
  blocks: Iterable[Whole], num_users: int, num_items: int, num_kinds: int, ticks: int, most: int
) -> Gathered:
  """Returns the sums of all blocks.

  Args:
    blocks: the interactions, users in order.
    num_users, num_items, num_kinds: of the log.
    ticks: ticks of a second; 0: times only give an order.
    most: an upper bound on the number of interactions.
  """
  lengths_U, counts_I = np.zeros(num_users, np.int64), np.zeros(num_items, np.int64)
  events, ratings, times = None, None, None
  gaps = _GapSums(step=max(-(-most // GAPS), 1))
  for whole in blocks:
    lengths_U[whole.users] = whole.items.lengths
    counts_I += np.bincount(whole.items.values, minlength=num_items)
    if (column := whole.columns.get('events')) is not None:
      counts = np.bincount(column, minlength=num_kinds)
      events = counts if events is None else events + counts
    if (column := whole.columns.get('ratings')) is not None:
      ratings = _counted(column[~np.isnan(column)], ratings)
    if ticks and (column := whole.columns.get('times')) is not None and len(column):
      first, last = times or (np.inf, -np.inf)
      times = min(first, int(column.min())), max(last, int(column.max()))
      gaps.add(_gaps(column, whole.items.offsets) / ticks)
  return Gathered(lengths_U, counts_I, events, ratings, times, gaps.result())


def _gaps(times: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  inside = np.ones(len(times) + 1, bool)
  inside[offsets] = False  # the first interaction of a user has no gap before it
  return np.diff(times)[inside[1:-1]]


class _GapSums:
  """Gathers gaps."""

  def __init__(self, step: int):
    self._step, self._kept = step, []
    self._count = self._zero = self._long = 0
    self._ends = (np.inf, -np.inf)

  def add(self, gaps: np.ndarray) -> None:
    if not len(gaps):
      return
    self._kept.append(gaps[-self._count % self._step :: self._step].copy())
    self._count += len(gaps)
    self._zero += int((gaps == 0).sum())
    self._long += int((gaps > SESSION_SECONDS).sum())
    self._ends = min(self._ends[0], float(gaps.min())), max(self._ends[1], float(gaps.max()))

  def result(self) -> Gaps | None:
    if not self._count:
      return None
    found = quantiles(np.concatenate(self._kept))
    found |= dict(zip(('min', 'max'), self._ends, strict=True))
    return Gaps(found, self._count, self._zero, self._long)


def _counted(
  values: np.ndarray, before: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
  """Distinct values and their numbers, added to those of earlier blocks."""
  found = np.unique(values, return_counts=True)
  if before is None:
    return found
  joined, places = np.unique(np.concatenate([before[0], found[0]]), return_inverse=True)
  counts = np.bincount(places.ravel(), np.concatenate([before[1], found[1]]), len(joined))
  return joined, counts.astype(np.int64)


def quantiles(values: np.ndarray, counts: np.ndarray | None = None) -> dict[str, float]:
  """Returns quantiles by the names of `QUANTILES`; each is a value of the array.

  Args:
    values: numbers; with `counts` distinct ones in ascending order.
    counts: how often each of them occurs. None: once.
  """
  shares = list(QUANTILES.values())
  if counts is None:
    found = np.quantile(values, shares, method='inverted_cdf')
  else:
    ends = np.cumsum(counts)
    ranks = np.maximum(np.ceil(ends[-1] * np.array(shares) - 1), 0)
    found = values[np.searchsorted(ends, ranks, side='right')]
  return dict(zip(QUANTILES, found.tolist(), strict=True))


def timeline(blocks: Iterable[Whole], first: int, last: int, bins: int) -> list[int]:
  """Returns the number of interactions in each of `bins` equal spans from the first to the last time."""
  counts = np.zeros(bins, np.int64)
  for whole in blocks:
    places = ((whole.columns['times'] - first) / max(last - first, 1) * bins).astype(np.int64)
    counts += np.bincount(np.minimum(places, bins - 1), minlength=bins)
  return counts.tolist()
