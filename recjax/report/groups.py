"""The sections of the page about groups of users: one-hop memorization, and other splits of the test rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recjax.report import plots

METRIC, SECOND = 'recall@10', 'ndcg@10'
GROUPS = ('inside', 'outside')
# Splits that are drawn as lines, since their buckets have an order, and the name of these buckets.
SERIES = {
  'popularity': 'decile (1: the least popular)',
  'history_length': 'items of the history',
  'hop': 'hops',
}
NAMES = {
  'popularity': 'popularity of the target',
  'history_length': 'length of the history',
  'hop': 'hops from the history to the target',
  'cold_items': 'target in training',
  'cold_users': 'training interactions of the user',
  'repeated_items': 'target in its own history',
}


def memorization(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
  """Returns the section about one-hop memorization.

  Args:
    values: `memorization` of the report. None or empty: it was not measured.

  Returns:
    `rule`, `shares` (name and share of users), `plots` (title and specification) and `rows`: a dict per ranker with
    `name`, the groups and `top5_share`.
  """
  rankers = (values or {}).get('test')
  if not rankers:
    return None
  bars = [
    (name, group, found[group][METRIC], found[group].get(f'{METRIC}_stderr', 0.0), f'{found[group]["users"]:,} users')
    for name, found in rankers.items()
    for group in GROUPS
    if METRIC in found.get(group, {})
  ]  # fmt: skip
  shares = [
    (name, 'share', found['top5_share'], found.get('top5_share_stderr', 0.0))
    for name, found in rankers.items()
    if 'top5_share' in found
  ]
  drawn = []
  if bars:
    drawn.append((f'{METRIC} by the place of the target', plots.grouped_bars([row[:4] for row in bars], METRIC, [row[4] for row in bars])))  # fmt: skip
  if shares:
    drawn.append(('Share of the first five recommendations in OneHop', plots.grouped_bars(shares, 'share of the top-5')))  # fmt: skip
  return {
    'rule': values.get('rule'),
    'shares': values.get('shares') or {},
    'plots': drawn,
    'rows': [{'name': name, **found} for name, found in rankers.items()],
  }


def splits(values: Mapping[str, Any] | None) -> list[dict[str, Any]]:
  """Returns the sections about splits of the test rows, the drawn ones first.

  Args:
    values: `splits` of the report. None or empty: they were not measured.

  Returns:
    One dict a split: `title`, `meaning` (None: not told), `plot` (a specification or None) and `buckets`: dicts with
    `name`, `rows` and `rankers` (name → metrics).
  """
  tables = (values or {}).get('test') or {}
  order = [*SERIES, *(name for name in tables if name not in SERIES)]
  names = [name for name in order if name in tables]
  return [_split(name, tables[name], values) for name in names]


def _split(
  name: str, table: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]
) -> dict[str, Any]:
  ranges = (values.get('ranges') or {}).get(name) or {}
  buckets = [
    {
      'name': bucket,
      'range': '–'.join(dict.fromkeys(f'{edge:,}' for edge in ranges[bucket])) if bucket in ranges else None,
      'rows': found['rows'],
      'rankers': {ranker: row for ranker, row in found.items() if isinstance(row, Mapping) and METRIC in row},
    }
    for bucket, found in table.items()
  ]  # fmt: skip
  rows = list(_points(buckets))
  title = NAMES.get(name, name.replace('_', ' '))
  spec, meaning = None, (values.get('meanings') or {}).get(name)
  if name in SERIES and rows:
    spec = plots.series([row[:4] for row in rows], METRIC, SERIES[name], [row[4] for row in rows])
  return {
    'title': f'By {title}' if name in SERIES else title[:1].upper() + title[1:],
    'meaning': None if meaning == SERIES.get(name) else meaning,
    'plot': spec,
    'buckets': buckets,
    'rankers': list(dict.fromkeys(ranker for bucket in buckets for ranker in bucket['rankers'])),
  }


def _points(
  buckets: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, str, float, float, str]]:
  for bucket in buckets:
    about = f'{bucket["rows"]:,} rows' + (f', values {bucket["range"]}' if bucket['range'] else '')
    for ranker, row in bucket['rankers'].items():
      yield bucket['name'], ranker, row[METRIC], row.get(f'{METRIC}_stderr', 0.0), about
