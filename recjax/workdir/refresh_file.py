"""Reads and writes refresh.json and refresh.txt, the result of a refresh (`recjax.refresh`).

| key | value |
|---|---|
| `verdict`, `reasons`, `rule` | 'go' or 'no-go', the reasons for no-go, and the rule |
| `warnings` | facts to look at, which do not change the verdict |
| `from`, `workdir`, `raw_dir`, `prepared` | the earlier run, this run, the folder of the new log, the prepared data |
| `base_steps`, `base_learning_rate` | those of the first training of a chain of refreshes |
| `inputs`, `steps` | digests of the data, and the steps of this training; None if the preparation failed |
| `data` | what changed in the log (`recjax.data.log_change.compare`), and `items_sharing_a_sid` |
| `old_step`, `new_step`, `unreachable_targets` | steps of both checkpoints, and the test targets that cannot be found |
| `rows`, `metrics`, `differences`, `best_baseline` | the comparison; see `recjax.refresh.judged` |

The keys of the last two lines are absent if nothing was trained.
"""

from collections.abc import Mapping
import json
from typing import Any

from etils import epath

from recjax.runtime.files import write_whole

FILE, TEXT = 'refresh.json', 'refresh.txt'
JUDGED = 'ndcg@10'  # of the test rows; decides, also if another metric chooses the checkpoints
BASE = ('base_steps', 'base_learning_rate')
# Keys of every file.
_KEYS = {'verdict', 'reasons', 'from', 'raw_dir', 'inputs', 'steps', *BASE}


def read(workdir: epath.Path) -> dict[str, Any] | None:
  """Returns the content of refresh.json; None: the workdir is no finished refresh.

  Raises:
    ValueError: the file is damaged.
  """
  path = workdir / FILE
  if not path.exists():
    return None
  try:
    result = json.loads(path.read_text())
    is_complete = result.keys() >= _KEYS
  except (ValueError, AttributeError):
    is_complete = False
  if not is_complete:
    raise ValueError(f'{path} must hold the result of a refresh; it is damaged. Remove it')
  return result


def write(workdir: epath.Path, result: Mapping[str, Any]) -> None:
  """Writes both files; the folder is created. Only process 0 calls it."""
  workdir.mkdir(parents=True, exist_ok=True)
  write_whole(workdir / TEXT, text(result))
  write_whole(workdir / FILE, json.dumps(result, indent=2, allow_nan=False) + '\n')


def text(result: Mapping[str, Any]) -> str:
  """Returns the result as lines for a reader; the first one is the verdict with its reasons."""
  because = '; '.join(result['reasons']) or (
    f'{JUDGED} is not worse than that of the old model and of the baseline {result["best_baseline"]}'
  )
  lines = [f'{result["verdict"].upper()}: {because}']
  if 'metrics' in result:
    rows = result['rows']
    lines.append(
      f'compared on {rows["compared"]:,} test rows of {rows["users"]:,} users'
      + (
        ', all later than the old log' if rows['compared'] == rows['later_than_the_old_log'] else ''
      )
      + f'; {rows["new_items"]:,} targets are new items'
    )
    for name, metrics in result['metrics'].items():
      figures = '  '.join(f'{m} {value:.4f}' for m, value in metrics.items())
      difference = result['differences'].get(name, {}).get(JUDGED)
      against = (
        f'  new is {difference["mean"]:+.4f} ± {difference["stderr"]:.4f}' if difference else ''
      )
      lines.append(f'  {name:<12} {figures}{against}')
  if 'data' in result:
    data = result['data']
    pairs = [
      f'{name} {data[name][0]:,} → {data[name][1]:,}' for name in ('interactions', 'users', 'items')
    ]
    lines.append(
      f'data: {", ".join(pairs)}; {data["new_items"]:,} new items, {data["removed_items"]:,} removed; '
      f'{data["new_users"]:,} new users, {data["removed_users"]:,} removed'
    )
    if 'newest' in data:
      lines.append(
        f'newest interaction {data["newest"][0]} → {data["newest"][1]}; interactions a day '
        f'{data["events_per_day"][0]:,} → {data["events_per_day"][1]:,}'
      )
  lines += [f'warning: {warning}' for warning in result['warnings']]
  return '\n'.join(lines) + '\n'
