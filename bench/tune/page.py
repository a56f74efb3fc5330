"""The trials of a search as tune.json and tune.html."""

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

from recjax.report import plots, templating
from recjax.runtime.files import write_whole

JSON, HTML = 'tune.json', 'tune.html'


def best_of(trials: Sequence[Mapping[str, Any]], lower_is_better: bool) -> Mapping[str, Any] | None:
  """Returns the best trial; None: none was completed."""
  found = [each for each in trials if each['value'] is not None]
  sign = -1 if lower_is_better else 1
  return max(found, key=lambda each: sign * each['value'], default=None)


def write(
  folder: pathlib.Path,
  trials: Sequence[Mapping[str, Any]],
  metric: str,
  lower_is_better: bool,
  recipe: Mapping[str, Any],
  command: str | None,
) -> dict[str, Any]:
  """Writes both files, each atomically.

  Args:
    folder: the folder of the search.
    trials: the result of `trials.records`.
    metric: name of the metric.
    lower_is_better: whether it is better if lower.
    recipe: what all trials share.
    command: a training with the best settings. None: no trial was completed.

  Returns:
    The content of tune.json.
  """
  best = best_of(trials, lower_is_better)
  result = {
    'metric': metric,
    'rows': f'{recipe["users"]:,} validation rows, a fixed sample; no test row was read',
    'recipe': dict(recipe),
    'best': None if best is None else dict(best),
    'command': command,
    'trials': [dict(each) for each in trials],
  }
  write_whole(folder / JSON, json.dumps(result, indent=2) + '\n')
  write_whole(folder / HTML, render(result, lower_is_better))
  return result


def render(result: Mapping[str, Any], lower_is_better: bool) -> str:
  """Returns the page; all texts are escaped."""
  found = [each for each in result['trials'] if each['value'] is not None]
  sign = -1 if lower_is_better else 1
  ranked = sorted(found, key=lambda each: -sign * each['value'])
  names = list(dict.fromkeys(name for each in result['trials'] for name in each['settings']))
  return templating.render(
    'tune.html.j2',
    r=result,
    names=names,
    ranked=[*ranked, *(each for each in result['trials'] if each['value'] is None)],
    progress=_progress(found, result['metric'], sign) if found else None,
    fields=[(name, _by_setting(found, name, result['metric'])) for name in names]
    if len(found) > 1
    else [],
  )


def _progress(found: Sequence[Mapping[str, Any]], metric: str, sign: int) -> plots.Spec:
  """Returns the values of the trials, and the best so far."""
  rows, best = [], None
  for each in found:
    best = each['value'] if best is None else sign * max(sign * best, sign * each['value'])
    rows.append((str(each['number']), 'trial', each['value'], each['error'] or 0.0))
    rows.append((str(each['number']), 'best so far', best, 0.0))
  return plots.series(rows, metric, 'trial')


def _by_setting(found: Sequence[Mapping[str, Any]], name: str, metric: str) -> plots.Spec:
  """Returns the values of the trials over one setting, in its order."""
  known = [each for each in found if name in each['settings']]
  known.sort(key=lambda each: each['settings'][name])
  rows = [
    (_shown(each['settings'][name]), metric, each['value'], each['error'] or 0.0) for each in known
  ]
  return plots.series(rows, metric, name, [f'trial {each["number"]}' for each in known])


def _shown(value: Any) -> str:
  return f'{value:.3g}' if isinstance(value, float) else str(value)
