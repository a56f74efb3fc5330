"""Facts about a prepared log: counts, dates, lengths, gaps, popularity, splits. All as JSON."""

from collections.abc import Callable, Iterator, Mapping
import json
from typing import Any

import numpy as np

from recjax.data.dataset import SPLITS, Log
from recjax.metrics.reachable import unreachable_targets
from recjax.report.data import successors
from recjax.report.data.gathered import Gathered, gather, quantiles, timeline
from recjax.report.data.whole import BLOCK, Whole, whole_blocks
from recjax.schema.data import Data

TIMELINE_BINS = 40  # of the days from first to last; fewer if there are fewer days
Blocks = Callable[[], Iterator[Whole]]


def facts(log: Log, data: Data) -> dict[str, Any]:
  """Returns the facts about a log. Holds some numbers a user and an item, and a fixed number of interactions.

  Args:
    log: the prepared log.
    data: the data section of its config.

  Returns:
    `name`, `source`, `split`, `folder`; `log`; `left_out`; `dates` and `gaps` (None if times only give the
    order); `events` and `ratings` (None without that column); `lengths`; `popularity`; `items`; `splits`;
    `ignored_columns`; `ids_alike`; `unreadable_ratings`. Durations are in seconds, dates in UTC. The quantiles are
    values of the log; see `gathered.Gaps`.
  """

  def blocks():
    return whole_blocks(log, data.split, data.max_history)

  statistics = log.statistics
  size = log.num_users, log.num_items, len(log.event_names)
  found = gather(blocks(), *size, log.ticks_per_second, statistics['interactions'])
  lengths = found.lengths_U
  if data.split == 'global_time':
    lengths = np.maximum(lengths, 1)  # see `whole_blocks`
  return {
    'name': data.name,
    'source': data.source,
    'split': data.split,
    'folder': str(log.folder),
    'log': _log(found, statistics),
    'left_out': left_out(statistics),
    'dates': _dates(log, found, blocks),
    'events': _events(log, found),
    'ratings': _ratings(found),
    'lengths': _lengths(lengths[lengths > 0]),
    'gaps': _gaps(found),
    'popularity': _popularity(log, found),
    'items': _items(statistics),
    'splits': _splits(log),
    'ignored_columns': statistics.get('ignored_columns', {}),
    'ids_alike': statistics.get('ids_alike', {}),
    'unreadable_ratings': statistics.get('unreadable_ratings', 0),
  }


def left_out(statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns what the preparation left out, in the order of its steps, with the reason and its counts."""
  found = [
    {'reason': 'other_event', 'event': name, 'interactions': count}
    for name, count in statistics.get('other_events_dropped', {}).items()
  ]
  if items := statistics.get('unknown_items_dropped'):
    count = statistics['unknown_item_interactions_dropped']
    found.append({'reason': 'unknown_items', 'items': items, 'interactions': count})
  if count := statistics.get('duplicates_dropped'):
    found.append({'reason': 'duplicates', 'interactions': count})
  counts = ('users', 'items', 'interactions')
  below = {name: statistics.get(f'{name}_below_k_core', 0) for name in counts}
  if any(below.values()):
    found.append({'reason': 'k_core', **below})
  return found


def _log(found: Gathered, statistics: Mapping[str, Any]) -> dict[str, Any]:
  users, items, total = (statistics[name] for name in ('users', 'items', 'interactions'))
  repeated = statistics['repeated_interactions']
  return {
    'users': users,
    'items': items,
    'interactions': total,
    'in_no_split': max(total - found.total, 0),
    'repeated_interactions': repeated,
    'repeated_share': repeated / total,
    'density': (total - repeated) / (users * items),
  }


def _dates(log: Log, found: Gathered, blocks: Blocks) -> dict[str, Any] | None:
  if found.times is None:
    return None
  (first, last), ticks = found.times, log.ticks_per_second
  days = (last - first) / ticks / 86_400
  bins = min(TIMELINE_BINS, int(days) + 1) if days >= 2 else TIMELINE_BINS
  return {
    'first': date(first, ticks),
    'last': date(last, ticks),
    'days': days,
    'first_second': first // ticks,
    'last_second': last // ticks,
    'timeline': timeline(blocks(), first, last, bins),
  }


def date(time: int, ticks: int) -> str:
  """Returns a time as a date of ISO 8601 in UTC, in whole seconds."""
  return str(np.datetime64(int(time) // ticks, 's'))


def _events(log: Log, found: Gathered) -> dict[str, Any] | None:
  if found.events is None:
    return None
  names, is_target = log.event_names, log.target_events
  is_target = np.ones(len(names), bool) if is_target is None else is_target
  return {
    name: {
      'interactions': int(found.events[n]),
      'share': found.events[n] / found.total,
      'is_target': bool(is_target[n]),
    }
    for n, name in enumerate(names)
  }


def _ratings(found: Gathered) -> dict[str, Any] | None:
  if found.ratings is None or not len(found.ratings[0]):
    return None
  values, counts = found.ratings
  count = int(counts.sum())
  return {
    'interactions': count,
    'share': count / found.total,
    'mean': float(values.astype(np.float64) @ counts / count),
    **quantiles(values, counts),
  }


def _lengths(lengths: np.ndarray) -> dict[str, Any]:
  """Quantiles and a histogram of [smallest length, largest length, users]; bins double in width."""
  powers = np.frexp(lengths - 0.5)[1]  # 1 → 0, 2 → 1, 3 and 4 → 2, 5 to 8 → 3
  counts = np.bincount(powers)
  bins = [[2**p // 2 + 1, 2**p, int(count)] for p, count in enumerate(counts)]
  return {'mean': float(lengths.mean()), **quantiles(lengths), 'histogram': bins}


def _gaps(found: Gathered) -> dict[str, Any] | None:
  gaps = found.gaps
  if gaps is None:
    return None
  sessions = int((found.lengths_U > 0).sum()) + gaps.long
  return {
    **gaps.quantiles,
    'same_time_share': gaps.zero / gaps.count,
    'sessions': sessions,
    'interactions_per_session': found.total / sessions,
  }


def _popularity(log: Log, found: Gathered) -> dict[str, Any]:
  counts, total = found.counts_I, found.total
  ranked = np.sort(counts)[::-1]
  sums = np.cumsum(ranked)
  shares = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1)
  # At least one item: the smallest shares of a small catalogue are those of one item.
  places = [max(1, int(np.ceil(round(share * len(ranked), 6)))) for share in shares]
  by_share = {share: float(sums[n - 1] / total) for share, n in zip(shares, places, strict=True)}
  top, user = int(counts.argmax()), int(found.lengths_U.argmax())
  return {
    'top_1_percent_share': by_share[0.01],
    'top_10_percent_share': by_share[0.1],
    'curve': [[n / len(ranked), by_share[s]] for s, n in zip(shares, places, strict=True)],
    'items_seen_once': int((counts == 1).sum()),
    'top_item': _item(log, top) | {'interactions': int(counts[top]), 'share': counts[top] / total},
    'top_user': {
      'id': log.user_ids()[user],
      'interactions': int(found.lengths_U[user]),
      'share': int(found.lengths_U[user]) / total,
    },
  }


def _item(log: Log, item: int) -> dict[str, str]:
  """Id and title of an item. The catalogue is not parsed: it may be large."""
  with (log.folder / 'interactions/items.jsonl').open() as lines:
    line = next(line for number, line in enumerate(lines) if number == item)
  row = json.loads(line)
  return {'id': row['id'], 'title': row.get('title', '')}


def _items(statistics: Mapping[str, Any]) -> dict[str, Any]:
  names = ('without_record', 'without_title', 'without_text', 'without_interaction')
  found = {name: statistics.get(f'items_{name}', 0) for name in names}
  return found | {'tidied_fields': statistics.get('tidied_fields', {})}


def _splits(log: Log) -> dict[str, Any]:
  is_trained = log.train.counts(log.num_items) > 0
  training = {
    'users': int((log.train.lengths > 0).sum()),
    'interactions': len(log.train.values),
    'items': int(is_trained.sum()),
    **_period(log, 'train_times'),
  }
  shares = successors.shares(log)
  return {'training': training} | {name: _split(log, name, is_trained, shares) for name in SPLITS}


def _split(
  log: Log, name: str, is_trained: np.ndarray, shares: Mapping[str, Any]
) -> dict[str, Any]:
  targets, users = log.targets(name), log.column(f'{name}_users')
  return {
    'rows': len(targets),
    'users': len(targets) if users is None else _distinct(np.asarray(users)),
    'items': _distinct(targets),
    **_period(log, f'{name}_times'),
    'median_history': quantiles(_history_lengths(log, name))['median'],
    'repeated_targets': unreachable_targets(log, name),
    'cold_targets': int((~is_trained[targets]).sum()),
    'successors': shares[name],
  }


def _history_lengths(log: Log, name: str) -> np.ndarray:
  if log.is_leave_one_out:  # the history of a test row holds the validation target too
    return log.train.lengths + (name == 'test')
  return np.diff(log.column(f'{name}_history_offsets'))


def _distinct(values: np.ndarray) -> int:
  """The number of distinct values of an array of small integers; faster than `np.unique`."""
  return int((np.bincount(values) > 0).sum()) if len(values) else 0


def _period(log: Log, column: str) -> dict[str, str]:
  times, ticks = log.column(column), log.ticks_per_second
  if times is None or not ticks or not len(times):
    return {}
  ends = [
    (block.min(), block.max())
    for start in range(0, len(times), BLOCK)
    for block in [times[start : start + BLOCK]]
  ]
  firsts, lasts = zip(*ends, strict=True)
  return {'first': date(min(firsts), ticks), 'last': date(max(lasts), ticks)}
