"""Renders compare.html."""

from collections.abc import Mapping
from typing import Any

from recjax.report import plots, templating

METRIC = 'recall@10'  # of the plots and of the groups of rows


def render(result: Mapping[str, Any]) -> str:
  """Returns the HTML page of a comparison; all texts are escaped.

  Args:
    result: the content of compare.json.
  """
  differences = result['differences']
  return templating.render(
    'compare.html.j2',
    r=result,
    metric=METRIC,
    names=list(result['contenders'][0]['metrics']),
    overview=_overview(differences) if differences else None,
    splits=[
      (_title(name), split, _plot(split) if differences and len(split['buckets']) > 1 else None)
      for name, split in result['splits'].items()
    ],
  )


def _overview(differences: Mapping[str, Any]) -> plots.Spec:
  rows = [
    (name, metric, row[metric]['mean'], row[metric]['low'], row[metric]['high'])
    for name, row in differences.items()
    for metric in ('recall@10', 'ndcg@10')
  ]
  return plots.intervals(rows, 'difference')


def _plot(split: Mapping[str, Any]) -> plots.Spec:
  rows = [
    (bucket, name, row[METRIC]['mean'], row[METRIC]['low'], row[METRIC]['high'])
    for bucket, found in split['buckets'].items()
    for name, row in found['differences'].items()
  ]
  return plots.intervals(rows, f'difference of {METRIC}')


def _title(name: str) -> str:
  return 'one-hop memorization' if name == 'inside' else name.replace('_', ' ')
