"""Renders compare.html."""

from collections.abc import Mapping
from typing import Any

from recjax.report import groups, plots, templating

METRIC = groups.METRIC  # of the plots and of the groups of rows
SHOWN = (groups.METRIC, groups.SECOND)  # of the first plot and table


def render(result: Mapping[str, Any]) -> str:
  """Returns the HTML page of a comparison; all texts are escaped.

  Args:
    result: the content of compare.json.
  """
  return templating.render(
    'compare.html.j2',
    r=result,
    metric=METRIC,
    shown=SHOWN,
    names=list(result['contenders'][0]['metrics']),
    has_shares=any(each['top5_share'] is not None for each in result['contenders']),
    has_sid_seeds=any(any(each['sid_seeds']) for each in result['contenders']),
    overview=_overview(result['differences']),
    trainings=_trainings(**result['trainings']),
    splits=[
      (
        _title(name),
        split,
        {bucket: _name(split, bucket) for bucket in split['buckets']},
        _plot(split),
      )
      for name, split in result['splits'].items()
    ],
  )


def _overview(differences: Mapping[str, Any]) -> plots.Spec | None:
  rows = [
    (name, metric, row[metric]['mean'], row[metric]['low'], row[metric]['high'])
    for name, row in differences.items()
    for metric in SHOWN
    if row[metric]['p'] is not None
  ]
  return plots.intervals(rows, 'difference') if rows else None


def _trainings(metric: str, curves: Mapping[str, Any]) -> plots.Spec | None:
  rows = [(x, name, y, 0.0) for name, points in curves.items() for x, y in points]
  return plots.series(rows, metric, 'minutes') if rows else None


def _plot(split: Mapping[str, Any]) -> plots.Spec | None:
  """Returns the differences in every bucket; None if all rows are in one bucket, which the first plot shows."""
  rows = [
    (_name(split, bucket), name, row[METRIC]['mean'], row[METRIC]['low'], row[METRIC]['high'])
    for bucket, found in split['buckets'].items()
    for name, row in found['differences'].items()
    if row[METRIC]['p'] is not None
  ]
  is_drawn = rows and len(split['buckets']) > 1
  return plots.intervals(rows, f'difference of {METRIC}') if is_drawn else None


def _name(split: Mapping[str, Any], bucket: str) -> str:
  """Returns the name of a bucket, with its smallest and largest value where these depend on the data."""
  edges = dict.fromkeys(f'{edge:,}' for edge in split['ranges'].get(bucket, ()))
  return f'{bucket} ({"–".join(edges)})' if edges else bucket


def _title(name: str) -> str:
  return 'one-hop memorization' if name == 'inside' else groups.NAMES.get(name, name)
