"""Splits ranges of users, and finds the moments of a global-time split without sorting the whole log."""

from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.beam import blocks
from data_prep.beam.blocks import Block
from data_prep.log import splits
from data_prep.log.interactions import CleanLog
from recjax.data.prepared import SPLITS
from recjax.data.sequences import offsets_of

SAMPLE = 1 << 10  # times of a range's sample


def range_log(
  block: Block, event_names: Sequence[str], context_events: tuple[str, ...] | None
) -> CleanLog:
  """Returns the rows of a range, sorted by user, as a clean log of its users alone."""
  block = blocks.compact(block)
  return CleanLog(
    block.user_ids.to_pylist(),
    [],
    block.items,
    block.times,
    block.rows,
    offsets_of(np.bincount(block.users, minlength=len(block.user_ids))),
    block.ratings,
    block.events,
    tuple(event_names),
    context_events,
  )


def targets(log: CleanLog) -> np.ndarray:
  """Returns the positions of the interactions that have a history and may be targets."""
  is_target = np.ones(len(log.items), bool) if log.is_target is None else log.is_target.copy()
  is_target[log.offsets[:-1]] = False
  return np.flatnonzero(is_target)


def sample(times: np.ndarray) -> list[int]:
  """Returns sorted times such that about equally many lie between neighbours; with the first and the last."""
  at = np.unique(np.linspace(0, len(times) - 1, min(SAMPLE, len(times))).astype(np.int64))
  return np.sort(times)[at].tolist()


def bracket(samples: Sequence[Sequence[int]], counts: Sequence[int], rank: int) -> tuple[int, int]:
  """Returns two times between which the time of the target of a rank lies, both included.

  Args:
    samples: the `sample` of the times of every range.
    counts: number of times of every range.
    rank: from 0, by time.
  """
  times = np.unique(np.concatenate([np.asarray(part, np.int64) for part in samples]))
  fewest, most = np.zeros(len(times), np.int64), np.zeros(len(times), np.int64)
  for part, count in zip(samples, counts, strict=True):
    if count:
      at = np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(np.int64))
      n = np.searchsorted(part, times, side='left')  # samples that are earlier
      fewest += np.where(n > 0, at[n - 1] + 1, 0)  # times that are certainly earlier
      most += np.append(at, count)[n]  # times that may be earlier
  low = times[np.flatnonzero(most <= rank)[-1]]
  later = np.flatnonzero(fewest > rank)
  return int(low), int(times[later[0]]) if len(later) else int(times[-1])


def keys(times: np.ndarray, rows: np.ndarray, low: int, high: int) -> dict[str, np.ndarray]:
  """Returns the number of earlier targets, and times and rows of those in a bracket."""
  inside = (times >= low) & (times <= high)
  earlier = np.array([np.count_nonzero(times < low)])
  return {'earlier': earlier, 'times': times[inside], 'rows': rows[inside]}


def key_of_rank(found: Sequence[Mapping[str, np.ndarray]], rank: int) -> tuple[int, int]:
  """Returns time and row of the target of a rank, from the `keys` of all ranges."""
  times = np.concatenate([part['times'] for part in found])
  rows = np.concatenate([part['rows'] for part in found])
  at = np.lexsort((rows, times))[rank - sum(int(part['earlier'][0]) for part in found)]
  return int(times[at]), int(rows[at])


def global_time(
  log: CleanLog, validation: tuple[int, int], test: tuple[int, int], max_history: int
) -> dict[str, np.ndarray]:
  """Returns the arrays of a range under a global-time split.

  Args:
    log: the log of the range.
    validation, test: time and row of the first target of each part, in the order of the whole log.
    max_history: see `splits.split`.
  """
  late = {'validation': _is_late(log, validation), 'test': _is_late(log, test)}
  held_out = targets(log)
  is_test = late['test'][held_out]
  is_validation = late['validation'][held_out] & ~is_test
  parts = dict(zip(SPLITS, (held_out[is_validation], held_out[is_test]), strict=True))
  return splits.held_out_by_row(log, ~late['validation'], parts, max_history)


def _is_late(log: CleanLog, border: tuple[int, int]) -> np.ndarray:
  """Which interactions do not come before a target, by time, targets before context, row: bool `[N]`."""
  time, row = border
  at_once = log.rows >= row
  if log.is_target is not None:
    at_once |= ~log.is_target
  return (log.times > time) | ((log.times == time) & at_once)
