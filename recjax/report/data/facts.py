"""Facts about a prepared log: counts, dates, lengths, gaps, popularity, splits. All as JSON."""

from collections.abc import Mapping
import json
from typing import Any

import numpy as np

from recjax.data.dataset import SPLITS, Log
from recjax.data.sequences import Sequences
from recjax.metrics.reachable import count_unreachable
from recjax.report.data.whole import Whole, whole_log
from recjax.schema.data import Data

QUANTILES = {'min': 0, 'p10': 0.1, 'p25': 0.25, 'median': 0.5, 'p75': 0.75, 'p90': 0.9, 'p99': 0.99, 'max': 1}  # fmt: skip
SESSION_SECONDS = 1800  # a longer pause begins a new session
TIMELINE_BINS = 40  # of the days from first to last; fewer if there are fewer days
HOP_ROWS = 20_000  # rows of a split whose targets are looked up among the successors


def facts(log: Log, data: Data) -> dict[str, Any]:
  """Returns the facts about a log.

  Args:
    log: the prepared log.
    data: the data section of its config.

  Returns:
    `name`, `source`, `split`, `folder`; `log`; `left_out`; `dates` and `gaps` (None if times only give the
    order); `events` and `ratings` (None without that column); `lengths`; `popularity`; `items`; `splits`;
    `ignored_columns`; `ids_alike`; `unreadable_ratings`. Durations are in seconds, dates in UTC. The quantiles are
    values of the log.
  """
  whole = whole_log(log, data.split, data.max_history)
  statistics = log.statistics
  lengths = whole.items.lengths
  if data.split == 'global_time':
    lengths = np.maximum(lengths, 1)  # see `whole_log`
  return {
    'name': data.name,
    'source': data.source,
    'split': data.split,
    'folder': str(log.folder),
    'log': _log(whole, statistics),
    'left_out': left_out(statistics),
    'dates': _dates(log, whole),
    'events': _events(log, whole),
    'ratings': _ratings(whole),
    'lengths': _lengths(lengths[lengths > 0]),
    'gaps': _gaps(log, whole),
    'popularity': _popularity(log, whole),
    'items': _items(statistics),
    'splits': _splits(log),
    'ignored_columns': statistics.get('ignored_columns', {}),
    'ids_alike': statistics.get('ids_alike', {}),
    'unreadable_ratings': statistics.get('unreadable_ratings', 0),
  }


def quantiles(values: np.ndarray) -> dict[str, float]:
  """Returns quantiles by the names of `QUANTILES`; each is a value of the array."""
  found = np.quantile(values, list(QUANTILES.values()), method='inverted_cdf')
  return dict(zip(QUANTILES, found.tolist(), strict=True))


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


def _log(whole: Whole, statistics: Mapping[str, Any]) -> dict[str, Any]:
  users, items, total = (statistics[name] for name in ('users', 'items', 'interactions'))
  repeated = statistics['repeated_interactions']
  return {
    'users': users,
    'items': items,
    'interactions': total,
    'in_no_split': max(total - len(whole.items.values), 0),
    'repeated_interactions': repeated,
    'repeated_share': repeated / total,
    'density': (total - repeated) / (users * items),
  }


def _dates(log: Log, whole: Whole) -> dict[str, Any] | None:
  times, ticks = whole.columns.get('times'), log.ticks_per_second
  if times is None or not ticks:
    return None
  first, last = int(times.min()), int(times.max())
  days = (last - first) / ticks / 86_400
  bins = min(TIMELINE_BINS, int(days) + 1) if days >= 2 else TIMELINE_BINS
  places = ((times - first) / max(last - first, 1) * bins).astype(np.int64)
  counts = np.bincount(np.minimum(places, bins - 1), minlength=bins)
  return {
    'first': date(first, ticks),
    'last': date(last, ticks),
    'days': days,
    'first_second': first // ticks,
    'last_second': last // ticks,
    'timeline': counts.tolist(),
  }


def date(time: int, ticks: int) -> str:
  """Returns a time as a date of ISO 8601 in UTC, in whole seconds."""
  return str(np.datetime64(int(time) // ticks, 's'))


def _events(log: Log, whole: Whole) -> dict[str, Any] | None:
  events = whole.columns.get('events')
  if events is None:
    return None
  names, is_target = log.event_names, log.target_events
  is_target = np.ones(len(names), bool) if is_target is None else is_target
  counts = np.bincount(events, minlength=len(names))
  return {
    name: {
      'interactions': int(counts[n]),
      'share': counts[n] / len(events),
      'is_target': bool(is_target[n]),
    }
    for n, name in enumerate(names)
  }


def _ratings(whole: Whole) -> dict[str, Any] | None:
  ratings = whole.columns.get('ratings')
  known = None if ratings is None else ratings[~np.isnan(ratings)]
  if known is None or not len(known):
    return None
  return {
    'interactions': len(known),
    'share': len(known) / len(ratings),
    'mean': float(known.mean(dtype=np.float64)),
    **quantiles(known),
  }


def _lengths(lengths: np.ndarray) -> dict[str, Any]:
  """Quantiles and a histogram of [smallest length, largest length, users]; bins double in width."""
  powers = np.frexp(lengths - 0.5)[1]  # 1 → 0, 2 → 1, 3 and 4 → 2, 5 to 8 → 3
  counts = np.bincount(powers)
  bins = [[2**p // 2 + 1, 2**p, int(count)] for p, count in enumerate(counts)]
  return {'mean': float(lengths.mean()), **quantiles(lengths), 'histogram': bins}


def _gaps(log: Log, whole: Whole) -> dict[str, Any] | None:
  times, offsets = whole.columns.get('times'), whole.items.offsets
  if times is None or not log.ticks_per_second or len(times) < 2:
    return None
  inside = np.ones(len(times) + 1, bool)
  inside[offsets] = False  # the first interaction of a user has no gap before it
  gaps = np.diff(times)[inside[1:-1]] / log.ticks_per_second
  if not len(gaps):
    return None
  sessions = int((np.diff(offsets) > 0).sum() + (gaps > SESSION_SECONDS).sum())
  return {
    **quantiles(gaps),
    'same_time_share': float((gaps == 0).mean()),
    'sessions': sessions,
    'interactions_per_session': len(times) / sessions,
  }


def _popularity(log: Log, whole: Whole) -> dict[str, Any]:
  counts = np.bincount(whole.items.values, minlength=log.num_items)
  ranked, total = np.sort(counts)[::-1], len(whole.items.values)
  sums = np.cumsum(ranked)
  shares = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1)
  # At least one item: the smallest shares of a small catalogue are those of one item.
  places = [max(1, int(np.ceil(round(share * len(ranked), 6)))) for share in shares]
  by_share = {share: float(sums[n - 1] / total) for share, n in zip(shares, places, strict=True)}
  top, user = int(counts.argmax()), int(whole.items.lengths.argmax())
  return {
    'top_1_percent_share': by_share[0.01],
    'top_10_percent_share': by_share[0.1],
    'curve': [[n / len(ranked), by_share[s]] for s, n in zip(shares, places, strict=True)],
    'items_seen_once': int((counts == 1).sum()),
    'top_item': _item(log, top) | {'interactions': int(counts[top]), 'share': counts[top] / total},
    'top_user': {
      'id': log.user_ids()[user],
      'interactions': int(whole.items.lengths[user]),
      'share': int(whole.items.lengths[user]) / total,
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
  transitions, is_trained = _transitions(log), np.zeros(log.num_items, bool)
  is_trained[log.train.values] = True
  training = {
    'users': int((log.train.lengths > 0).sum()),
    'interactions': len(log.train.values),
    'items': int(is_trained.sum()),
    **_period(log, 'train_times'),
  }
  return {'training': training} | {
    name: _split(log, name, is_trained, transitions) for name in SPLITS
  }


def _split(log: Log, name: str, is_trained: np.ndarray, transitions: np.ndarray) -> dict[str, Any]:
  histories, targets = log.histories_and_targets(name)
  users = log.column(f'{name}_users')
  repeated = log.statistics.get('unreachable_targets', {}).get(name)
  if repeated is None:  # folders of earlier versions
    repeated = count_unreachable(log.seen(name), targets)
  return {
    'rows': len(targets),
    'users': len(targets) if users is None else _distinct(users),
    'items': _distinct(targets),
    **_period(log, f'{name}_times'),
    'median_history': quantiles(histories.lengths)['median'],
    'repeated_targets': repeated,
    'cold_targets': int((~is_trained[targets]).sum()),
    'successors': _successors(log, transitions, histories, np.asarray(targets)),
  }


def _distinct(values: np.ndarray) -> int:
  """The number of distinct values of an array of small integers; faster than `np.unique`."""
  return int((np.bincount(values) > 0).sum()) if len(values) else 0


def _period(log: Log, column: str) -> dict[str, str]:
  times = log.column(column)
  if times is None or not log.ticks_per_second or not len(times):
    return {}
  times = np.asarray(times)  # of a bucket it may be read by range
  return {
    'first': date(times.min(), log.ticks_per_second),
    'last': date(times.max(), log.ticks_per_second),
  }


def _transitions(log: Log) -> np.ndarray:
  """The pairs of an item and a target directly after it in training, as item · num_items + target, sorted."""
  values, inside = np.asarray(log.train.values), log.train.places[1:] > 0
  if log.train_is_target is not None:
    inside &= log.train_is_target[1:]
  return np.sort(values[:-1][inside].astype(np.int64) * log.num_items + values[1:][inside])


def _successors(
  log: Log, transitions: np.ndarray, histories: Sequences, targets: np.ndarray
) -> dict[str, Any]:
  """Shares of targets that directly followed the newest item, or any item, of their history in training.

  The second share bounds the recall of transition counting. At most `HOP_ROWS` evenly spaced rows are counted.
  """
  count = min(len(targets), HOP_ROWS)
  rows = np.arange(count) * len(targets) // count
  block, targets = histories.take(rows), targets[rows]
  owners = np.repeat(np.arange(count), block.lengths)
  keys = block.values.astype(np.int64) * log.num_items + targets[owners]
  places = np.searchsorted(transitions, keys)
  found = np.append(transitions, -1)[places] == keys
  is_newest = np.append(owners[1:] != owners[:-1], True)[: len(owners)]
  return {
    'rows': count,
    'of_newest_share': float(found[is_newest].sum() / count),
    'of_any_share': _distinct(owners[found]) / count,
  }
