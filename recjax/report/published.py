"""Published figures of the data set and the protocol of a run, from published.json."""

from collections.abc import Mapping
import json
from typing import Any

from etils import epath

FILE = 'published.json'


def read() -> dict[str, Any]:
  """Returns `protocols`, `data` and `figures` of published.json; its field `about` explains them."""
  return json.loads((epath.resource_path('recjax.report') / FILE).read_text(encoding='utf-8'))


def find(
  config: Mapping[str, Any],
  statistics: Mapping[str, Any],
  metrics: Mapping[str, float],
  sid_metrics: Mapping[str, float],
) -> dict[str, Any] | None:
  """Returns the published figures that a run can be compared with.

  The data are those of the figures if the name of the run's data set contains theirs and all recorded counts are
  equal. The protocol is theirs if the split is, and `eval.exclude_seen` where the protocol fixes it.

  Args:
    config: the config as nested dicts, with `data` and `eval`.
    statistics: of the data: users, items, ….
    metrics: test metrics of the run.
    sid_metrics: test metrics for which an item with the target's semantic ID is a hit; may be empty.

  Returns:
    `data`, `rule`, `seen_items` of the run and `figures`: the published entries, each with `deltas` (the run's value
    minus the published one) and `compared`, the run's kind of hit. None: there are none.
  """
  known = read()
  exclude_seen = config.get('eval', {}).get('exclude_seen', True)
  for name, facts in known['data'].items():
    protocol = known['protocols'][facts['protocol']]
    counts = {key: value for key, value in facts.items() if key != 'protocol'}
    is_same = (
      name in config['data']['name'].lower()
      and config['data'].get('split') == protocol['split']
      and all(statistics.get(key) == value for key, value in counts.items())
      and protocol.get('exclude_seen', exclude_seen) == exclude_seen
    )
    if is_same:
      return {
        'data': name,
        'rule': protocol['rule'],
        'seen_items': 'removed' if exclude_seen else 'kept',
        'figures': [
          _compared(figure, metrics, sid_metrics)
          for figure in known['figures']
          if figure['data'] == name
        ],
      }
  return None


def _compared(
  figure: Mapping[str, Any], metrics: Mapping[str, float], sid_metrics: Mapping[str, float]
) -> dict[str, Any]:
  """Returns a published entry with its differences; hits of SIDs are compared with hits of SIDs where known."""
  of_sids = figure.get('hits') == 'SIDs' and bool(sid_metrics)
  own = sid_metrics if of_sids else metrics
  deltas = {name: own[name] - value for name, value in figure['metrics'].items() if name in own}
  entry = {name: value for name, value in figure.items() if name != 'data'}
  return {'hits': 'items', **entry, 'compared': 'SIDs' if of_sids else 'items', 'deltas': deltas}
