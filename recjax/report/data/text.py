"""Facts about a log as text of at most 100 columns: all of them, and a short form for the start of a run."""

from collections.abc import Iterator, Mapping, Sequence
import textwrap
from typing import Any

from recjax.data.dataset import SPLITS
from recjax.report.numbers import percent

WIDTH = 100
_LABEL = 17
_BAR = 40
_SHOWN = 10  # kinds of interactions
_REASONS = {
  'other_event': 'another kind of interaction than data.events and data.context_events name',
  'unknown_items': 'the item table lacks the item (data.unknown_items)',
  'duplicates': 'equal to another row in user, item and time (data.duplicates)',
  'k_core': 'too few interactions of the user or of the item (data.k_core)',
}
_NOUNS = ('interaction', 'user', 'item')
_UNITS = ((86_400 * 365.25, 'y'), (86_400, 'd'), (3600, 'h'), (60, 'min'), (1, 's'))
_QUANTILES = {
  'min': 'min', 'p10': '10 %', 'p25': '25 %', 'median': 'median', 'p75': '75 %', 'p90': '90 %',
  'p99': '99 %', 'max': 'max',
}  # fmt: skip
_MISSING = {
  'without_record': 'a row in the table',
  'without_title': 'a title',
  'without_text': 'any text',
  'without_interaction': 'an interaction',
}


def long_text(facts: Mapping[str, Any], warnings: Sequence[str]) -> str:
  """Returns all facts, in aligned lines."""
  lines = [
    f'{facts["name"]}: source {facts["source"]}, split {facts["split"]}, {facts["folder"]}',
    '',
  ]
  for label, values in fact_lines(facts):
    for number, value in enumerate(values):
      lines += _wrapped('' if number else label, value)
  lines += ['', *_table(quantile_rows(facts)), '', *_table(split_rows(facts))]
  lines += ['', *_table(target_rows(facts)), '', *_histogram(facts['lengths'])]
  if warnings:
    lines += ['', 'Look at this:']
    lines += [line for text in warnings for line in _bullet(text)]
  return '\n'.join(lines)


def short_text(facts: Mapping[str, Any]) -> list[str]:
  """Returns a few lines for the start of a run; warnings are not among them."""
  splits, lengths = facts['splits'], facts['lengths']
  rows = ', '.join(f'{name} {_rows_of(splits[name])}' for name in SPLITS)
  left = sum(part['interactions'] for part in facts['left_out'])
  parts = [size(facts['log']) + (f' ({left:,} left out)' if left else ''), period(facts['dates'])]
  events = _ranked(facts['events'] or {})
  parts.append(', '.join(f'{name} {percent(of["share"], 0)}' for name, of in events[:3]))
  return [
    'data: ' + '; '.join(part for part in parts if part),
    f'data: {lengths["median"]:,} interactions a user (10 % to 90 %: {lengths["p10"]:,} to {lengths["p90"]:,}); '
    f'training {splits["training"]["interactions"]:,} interactions, {rows}',
    f'data: targets in their own history: {_shares(splits, "repeated_targets")}; never in training: '
    f'{_shares(splits, "cold_targets")}',
  ]


def duration(seconds: float) -> str:
  """Returns a duration in its largest suitable unit: 0 s, 45 s, 3.5 min, 12 d."""
  for length, unit in _UNITS:
    if seconds >= length:
      return f'{_digits(seconds / length)} {unit}'
  return f'{_digits(seconds)} s'


def _digits(value: float) -> str:
  return f'{value:,.0f}' if value >= 20 or value == int(value) else f'{value:.1f}'


def size(log: Mapping[str, Any]) -> str:
  """Returns the numbers of interactions, users and items."""
  interactions, users, items = (_counted(log[f'{noun}s'], noun) for noun in _NOUNS)
  return f'{interactions} of {users} with {items}'


def _counted(count: int, noun: str) -> str:
  return f'{count:,} {noun}' if count == 1 else f'{count:,} {noun}s'


def period(dates: Mapping[str, Any] | None) -> str:
  """Returns the first and the last date, without times of day if both are midnight; '' without dates."""
  if not dates or 'first' not in dates:
    return ''
  first, last = (dates[name].replace('T', ' ') for name in ('first', 'last'))
  end = 10 if first.endswith(' 00:00:00') and last.endswith(' 00:00:00') else 16
  return f'{first[:end]} to {last[:end]}'


def left_out(part: Mapping[str, Any]) -> str:
  """Returns what one reason left out, and the reason."""
  nouns = [noun for noun in _NOUNS if part.get(f'{noun}s')]
  counts = ', '.join(_counted(part[f'{noun}s'], noun) for noun in nouns)
  event_name = f' ({part["event"]})' if 'event' in part else ''
  return f'{counts}{event_name}: {_REASONS[part["reason"]]}'


def event(name: str, of: Mapping[str, Any]) -> str:
  """Returns the count of a kind of interactions, and whether it is predicted."""
  kind = 'target' if of['is_target'] else 'context, not a target'
  return f'{name}: {of["interactions"]:,} ({percent(of["share"])}), {kind}'


def fact_lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
  """Yields the label and the lines of every fact that is no table."""
  log, dates, popularity = facts['log'], facts['dates'], facts['popularity']
  yield 'kept', [size(log)]
  if facts['left_out']:
    yield 'left out', [left_out(part) for part in facts['left_out']]
  if log['in_no_split']:
    yield (
      'in no split',
      [
        f'{log["in_no_split"]:,} interactions after the training part, neither a target nor in the history of one'
      ],
    )
  yield (
    'dates (UTC)',
    [f'{period(dates)}, {dates["days"]:,.0f} days' if dates else 'none: times only give the order'],
  )
  if facts['events']:
    yield 'events', _events(facts['events'])
  if rating := facts['ratings']:
    spread = f'mean {rating["mean"]:.2f}, from {rating["min"]:g} to {rating["max"]:g}'
    yield 'ratings', [f'{rating["interactions"]:,} ({percent(rating["share"])}), {spread}']
  yield (
    'density',
    [
      f'{percent(log["density"], 3)} of all pairs of user and item; {percent(log["repeated_share"])} of the '
      'interactions repeat an earlier pair'
    ],
  )
  yield (
    'popularity',
    [
      f'the top 1 % of the items have {percent(popularity["top_1_percent_share"])} of the interactions, the top '
      f'10 % {percent(popularity["top_10_percent_share"])}; {_counted(popularity["items_seen_once"], "item")} with one '
      'interaction',
      *tops(popularity),
    ],
  )
  missing = [f'{facts["items"][name]:,} without {what}' for name, what in _MISSING.items()]
  yield 'items', [', '.join(missing)]
  if gaps := facts['gaps']:
    yield (
      'sessions',
      [
        f'{gaps["sessions"]:,} with pauses of 30 min between them, of {gaps["interactions_per_session"]:.1f} '
        f'interactions; {percent(gaps["same_time_share"])} of the time gaps are zero'
      ],
    )
  if facts['ignored_columns']:
    yield (
      'columns not read',
      [f'{table}: {", ".join(names)}' for table, names in facts['ignored_columns'].items()],
    )


def _events(events: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Returns a line for each of the most frequent kinds of interactions, and their number if there are more."""
  ranked = _ranked(events)
  more = [f'and {len(ranked) - _SHOWN:,} more'] if len(ranked) > _SHOWN else []
  return [event(name, of) for name, of in ranked[:_SHOWN]] + more


def _ranked(events: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
  return sorted(events.items(), key=lambda pair: -pair[1]['interactions'])


def tops(popularity: Mapping[str, Any]) -> list[str]:
  """Returns the item and the user with the most interactions."""
  item, user = popularity['top_item'], popularity['top_user']
  title = f' ({textwrap.shorten(item["title"], 40, placeholder="…")})' if item['title'] else ''
  return [
    f'most: item {item["id"]}{title} with {percent(item["share"], 2)}',
    f'most: user {user["id"]} with {percent(user["share"], 2)}',
  ]


def quantile_rows(facts: Mapping[str, Any]) -> list[list[str]]:
  """Returns a table of the quantiles of history lengths and time gaps, with a header."""
  rows = [['quantile', *_QUANTILES.values()]]
  rows.append(['interactions', *(f'{facts["lengths"][name]:,}' for name in _QUANTILES)])
  if facts['gaps']:
    rows.append(['time gap', *(duration(facts['gaps'][name]) for name in _QUANTILES)])
  return rows


def split_rows(facts: Mapping[str, Any]) -> list[list[str]]:
  """Returns a table of the sizes and dates of the splits, with a header."""
  rows = [['split', 'rows', 'users', 'items', 'history', 'dates']]
  for name, of in facts['splits'].items():
    count = of['interactions'] if name == 'training' else of['rows']
    history = '' if name == 'training' else f'{of["median_history"]:,}'
    rows.append([name, f'{count:,}', f'{of["users"]:,}', f'{of["items"]:,}', history, period(of)])
  return rows


def target_rows(facts: Mapping[str, Any]) -> list[list[str]]:
  """Returns a table of the shares of held-out targets, with a header."""
  splits = [facts['splits'][name] for name in SPLITS]
  hops = [split['successors'] for split in splits]
  return [
    ['share of targets', *SPLITS],
    ['in their own history', *(percent(of['repeated_targets'] / of['rows']) for of in splits)],
    ['never in training', *(percent(of['cold_targets'] / of['rows']) for of in splits)],
    ['followed the newest item in training', *(percent(of['of_newest_share']) for of in hops)],
    ['followed any item of the history', *(percent(of['of_any_share']) for of in hops)],
  ]


def _rows_of(split: Mapping[str, Any]) -> str:
  users = '' if split['users'] == split['rows'] else f' of {split["users"]:,} users'
  return f'{split["rows"]:,} rows{users}'


def _shares(splits: Mapping[str, Any], count: str) -> str:
  return ', '.join(
    f'{name} {percent(splits[name][count] / splits[name]["rows"])}' for name in SPLITS
  )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
  """Yields lines: the first column to the left, the others to the right; an empty column is left out."""
  columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
  widths = [max(map(len, column)) for column in columns]
  widths[0] = max(widths[0], _LABEL - 1)
  for cells in zip(*columns, strict=True):
    first, *others = (f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))
    yield '  '.join([f'{cells[0]:<{len(first)}}', *others]).rstrip()


def _histogram(lengths: Mapping[str, Any]) -> Iterator[str]:
  bins = lengths['histogram']
  bins = bins[next(n for n, (*_, count) in enumerate(bins) if count) :]
  most = max(count for *_, count in bins)
  yield f'{"interactions":<{_LABEL}} {"users":>9}'
  for low, high, count in bins:
    name = f'{low:,}' if low == high else f'{low:,} to {high:,}'
    yield f'{name:<{_LABEL}} {count:>9,} {"█" * -(-_BAR * count // most)}'.rstrip()


def _wrapped(label: str, text: str) -> list[str]:
  return textwrap.wrap(
    text, WIDTH, initial_indent=f'{label:<{_LABEL}} ', subsequent_indent=' ' * (_LABEL + 3),
    break_on_hyphens=False,
  )  # fmt: skip


def _bullet(text: str) -> list[str]:
  return textwrap.wrap(
    text, WIDTH, initial_indent='  - ', subsequent_indent='    ', break_on_hyphens=False,
    break_long_words=False,
  )  # fmt: skip
