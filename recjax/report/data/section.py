"""The section of the report about the data: the facts as lines, tables and charts."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
import numpy as np

from recjax.data.dataset import SPLITS
from recjax.report import charts
from recjax.report.data import text


def section(description: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what the page shows about the data.

  Args:
    description: the result of `recjax.describe.describe`.

  Returns:
    `headline`, `warnings`, `lines` (label and lines of text), `tables` (title and rows, the first is the header)
    and `charts` (title and SVG).
  """
  quantiles = list(zip(*text.quantile_rows(description), strict=True))
  return {
    'headline': f'source {description["source"]}, split {description["split"]}',
    'warnings': description['warnings'],
    'lines': [
      (label, [_unbroken(line) for line in lines]) for label, lines in text.fact_lines(description)
    ],
    'tables': [
      ('Quantiles', quantiles),
      ('Splits', text.split_rows(description)),
      ('Held-out targets', text.target_rows(description)),
    ],
    'charts': list(_charts(description)),
  }


def _unbroken(line: str) -> str:
  """A line with no break between a number and its per cent sign."""
  return line.replace(' %', '\u00a0%')


def _charts(description: Mapping[str, Any]) -> list[tuple[str, Markup]]:
  bars = [
    (f'{low:,}' if low == high else f'{low:,}–{high:,}', count)
    for low, high, count in description['lengths']['histogram']
  ]
  first = next(n for n, (_, count) in enumerate(bars) if count)
  found = [('Interactions a user', charts.bar_chart(bars[first:], 'users', 'interactions'))]
  if dates := description['dates']:
    found.append(('Interactions over time', _timeline(dates, description['splits'])))
  points = [(100 * items, 100 * share) for items, share in description['popularity']['curve']]
  found.append(
    (
      '% of the interactions with the most popular items',
      charts.line_chart([(0, 0), *points], '% of the interactions', '% of the items'),
    )
  )
  return found


def _timeline(dates: Mapping[str, Any], splits: Mapping[str, Any]) -> Markup:
  """Bars of equal durations; marks show where validation and test begin, if they begin later than training."""
  counts, first = dates['timeline'], dates['first_second']
  width = max(dates['last_second'] - first, 1) / len(counts)
  form = 'D' if dates['days'] >= 2 else 'm'
  bars = [
    (str(np.datetime64(int(first + n * width), 's').astype(f'M8[{form}]')), count)
    for n, count in enumerate(counts)
  ]
  marks = {}
  for name in SPLITS:
    begin = splits[name].get('first')
    if begin and begin > splits['training'].get('last', ''):
      marks[f'{name} →'] = (np.datetime64(begin, 's').astype(int) - first) / width
  return charts.bar_chart(bars, 'interactions', 'date', labels=4, marks=marks)
