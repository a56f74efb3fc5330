"""The section of the report about the data: the facts as lines, tables and plots."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from recjax.data.dataset import SPLITS
from recjax.report import plots
from recjax.report.data import text


def section(description: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what the page shows about the data.

  Args:
    description: the result of `recjax.describe.describe`.

  Returns:
    `headline`, `warnings`, `lines` (label and lines of text), `tables` (title and rows, the first is the header)
    and `plots` (title and specification).
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
    'plots': list(_plots(description)),
  }


def _unbroken(line: str) -> str:
  """A line with no break between a number and its per cent sign."""
  return line.replace(' %', '\u00a0%')


def _plots(description: Mapping[str, Any]) -> list[tuple[str, plots.Spec]]:
  bars = [
    (f'{low:,}' if low == high else f'{low:,}–{high:,}', count)
    for low, high, count in description['lengths']['histogram']
  ]
  first = next(n for n, (_, count) in enumerate(bars) if count)
  found = [('Interactions a user', plots.histogram(bars[first:], 'users', 'interactions'))]
  if dates := description['dates']:
    found.append(('Interactions over time', _timeline(dates, description['splits'])))
  points = [(100 * items, 100 * share) for items, share in description['popularity']['curve']]
  found.append(
    (
      '% of the interactions with the most popular items',
      plots.curve([(0, 0), *points], '% of the interactions', '% of the items'),
    )
  )
  return found


def _timeline(dates: Mapping[str, Any], splits: Mapping[str, Any]) -> plots.Spec:
  """Bars of equal durations; marks show where validation and test begin, if they begin later than training."""
  marks = {}
  for name in SPLITS:
    begin = splits[name].get('first')
    if begin and begin > splits['training'].get('last', ''):
      marks[f'{name} →'] = int(np.datetime64(begin, 's').astype(int))
  return plots.timeline(
    dates['timeline'], dates['first_second'], dates['last_second'], 'interactions', marks
  )
