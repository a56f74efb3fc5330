"""Renders report.html."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
from typing import Any

from recjax.metrics import selection, weights
from recjax.report import evaluators, groups, plots, protocol, templating
from recjax.report.data.section import section
from recjax.report.numbers import number
from recjax.workdir import outcome
from recjax.workdir.metrics_file import EVALUATION

EQUAL_TO_RECALL = ('ndcg@1', 'mrr@1')  # equal recall@1: there is one relevant item a row

# Keys of `sids` with a section of their own.
_OWN_SECTIONS = ('statistics', 'quality', 'examples', 'keywords')

_OPTIONAL = (
  'optimum', 'refresh', 'memorization', 'splits', 'evaluators', 'protocol', 'seconds_per_row',
  'sample', 'examples', 'published', 'sid_map', 'rankers', 'blend',
)  # fmt: skip


def render(report: Mapping[str, Any]) -> str:
  """Returns the HTML page of a report; all texts are escaped.

  Args:
    report: the result of `recjax.report.build.build_report`.
  """
  baselines, sids = report['baselines'], report['sids']
  best = max(baselines, key=lambda name: baselines[name]['recall@10'], default=None)
  metric = chosen_metric(report['config'])
  references = {
    name: values['validation'][metric]
    for name, values in baselines.items()
    if metric in values.get('validation', {})
  }
  left_out = report.get('baselines_left_out')
  return templating.render(
    'report.html.j2',
    r={**dict.fromkeys(_OPTIONAL), **report, 'sids': dict.fromkeys(_OWN_SECTIONS) | sids},
    names=_metric_names(report['metrics']['test']),
    one=[name for name in EQUAL_TO_RECALL if name in report['metrics']['test']],
    best_baseline=best if best and baselines[best]['recall@10'] > 0 else None,
    data=section(report['description']) if report.get('description') else None,
    trainings=[
      (training, _charts(training['curves'], metric, references))
      for training in (*report['earlier_stages'], report | {'name': report['stage']})
    ],
    memorization=groups.memorization(report.get('memorization')),
    group_metrics=(groups.METRIC, groups.SECOND),
    splits=groups.splits(report.get('splits')),
    evaluators=evaluators.tables(report),
    published_metrics=_published_metrics(report),
    map=_map(report.get('sid_map')),
    protocol_rows=protocol.rows(report.get('protocol')),
    left_out=outcome.left_out(left_out) if left_out else None,
    blend=weights.line(report['blend']) if report.get('blend') else None,
    time_rows=[
      (name, f'{1000 * seconds:.3g} ms')
      for name, seconds in (report.get('seconds_per_row') or {}).items()
    ],
    metric=metric,
    changes=_changes,
    data_rows=_labelled(_flat(report['data'])),
    sid_rows=_labelled(_flat(_sid_facts(sids))),
    run_rows=[
      *_labelled(_flat(report['run'] | report['throughput'])),
      *(
        (f'{name.removesuffix("_bytes").replace("_", " ")} memory', f'{value / 1e9:.2f} GB')
        for name, value in report['memory'].items()
      ),
    ],
    config_rows=list(_flat(report['config'])),
    version_rows=[('commit', report['commit'] or 'unknown'), *report['versions'].items()],
  )


def _published_metrics(report: Mapping[str, Any]) -> list[str]:
  """Returns the metrics that published figures have, in the order of the page's first table."""
  figures = (report.get('published') or {'figures': []})['figures']
  names = {name: None for figure in figures for name in figure['metrics']}
  return _metric_names(names)


def _map(values: Mapping[str, Any] | None) -> plots.Spec | None:
  """Returns the plot of the semantic IDs: one hue for every first code, neighbours far apart."""
  if not values:
    return None
  points = values['points']
  return plots.scatter(
    [(point['x'], point['y']) for point in points],
    [f'hsl({137.508 * point["sid"][0] % 360:.0f} 62% 52%)' for point in points],
    [f'{point["title"]}\n{" · ".join(map(str, point["sid"]))}' for point in points],
    f'Items by the first two principal components of their {values["of"]}',
  )


def chosen_metric(config: Mapping[str, Any]) -> str:
  """Returns the name of the metric that chose the best checkpoint, by the config in a report."""
  return selection.key(config.get('eval', {}).get('choose_by', selection.DEFAULT))


def _sid_facts(sids: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the rows of the table of semantic IDs, without levels and examples."""
  found = {name: value for name, value in sids.items() if name not in _OWN_SECTIONS}
  found |= {name: value for name, value in sids.get('statistics', {}).items() if name != 'levels'}
  quality = sids.get('quality') or {}
  return found | {name: quality[name] for name in quality if name.startswith('reassigned')}


def _charts(
  curves: Mapping[str, Sequence], metric: str, references: Mapping[str, float]
) -> list[tuple[str, plots.Spec | None]]:
  """Returns title and plot of every curve of a training; None stands for a curve without points."""
  loss, points = curves['loss'], curves[EVALUATION + metric]
  return [
    ('Training loss', plots.curve(loss, 'loss') if loss else None),
    (
      f'{metric} on the validation sample',
      plots.curve(
        [(step, value) for step, value, _ in points],
        metric,
        errors=[error for _, _, error in points],
        references=references,
      )
      if points
      else None,
    ),
  ]


def _flat(values: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, str]]:
  """Yields rows of a table: dotted names, and values as text; lists and None as JSON."""
  for name, value in values.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{name}.')
    else:
      yield prefix + name, _text(value)


def _text(value: Any) -> str:
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    return number(value)
  return value if isinstance(value, str) else json.dumps(value)


def _labelled(rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
  """Returns the rows of a table with readable names."""
  return [(name.replace('_', ' ').replace('.', ': '), value) for name, value in rows]


def _changes(start: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """Returns (field, old value, new value) for every field that a start changed."""
  return [(name, _text(old), _text(new)) for name, (old, new) in start['changed'].items()]


def _metric_names(metrics: Mapping[str, Any]) -> list[str]:
  """Returns the metrics in the order of the table: recall@1, recall@5, …, ndcg@1, …"""
  names = [name for name in metrics if '@' in name and not name.endswith('_stderr')]
  kinds = list(dict.fromkeys(name.split('@')[0] for name in names))
  shown = [name for name in names if name not in EQUAL_TO_RECALL]
  return sorted(shown, key=lambda name: (kinds.index(name.split('@')[0]), int(name.split('@')[1])))
