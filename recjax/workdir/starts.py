"""starts.jsonl: one line for every start of a training, with the fields that changed since the start before.

  {"time": "2026-01-31T12:00:00+00:00", "step": 0, "changed": {}, "config": {…}}
  {"time": …, "step": 8, "changed": {"num_train_steps": [8, 80]},
   "learning_rate": {"step": 9, "previous": 0.0007, "old": 0.0, "new": 0.0099}}

`step` is the number of completed steps. `changed` holds the old and the new value by field; null: the field is
absent. The first line of a file holds the full config. `learning_rate` is present if the change moves the
schedule: it holds the rate of the previous step, and the rates of the next step under the old and the new
settings. config.json holds the config of the latest start.
"""

from collections.abc import Mapping
import datetime
import json
import logging
from typing import Any

from etils import epath

from recjax import models
from recjax.config import Config
from recjax.runtime.files import flat, write_whole
from recjax.workdir import identity

FILE = 'starts.jsonl'

log = logging.getLogger(__name__)


def read(folder: epath.PathLike) -> list[dict[str, Any]]:
  """Returns the starts of a training in order (fields: see the module); skips damaged lines."""
  path = epath.Path(folder) / FILE
  starts = []
  for line in path.read_bytes().split(b'\n') if path.exists() else ():
    try:
      start = json.loads(line)
    except (ValueError, RecursionError):  # also bytes that are not UTF-8
      continue
    if _is_start(start):
      starts.append(start)
  return starts


def _is_start(start: Any) -> bool:
  kinds = {'time': str, 'step': int, 'changed': dict}
  return (
    isinstance(start, dict)
    and all(isinstance(start.get(name), kind) for name, kind in kinds.items())
    and all(isinstance(pair, list) and len(pair) == 2 for pair in start['changed'].values())
  )


def record(
  config: Config, folder: epath.Path, step: int, rates: Mapping[str, float] | None
) -> None:
  """Logs what changed since the last start, adds a line to starts.jsonl and writes config.json.

  Args:
    config: config of this start.
    folder: folder of the training; it is created.
    step: number of completed steps.
    rates: `learning_rate` of the line; None: the schedule did not change.
  """
  last = identity.config_of(folder)
  changed = {} if last is None else differences(last.to_dict(), config.to_dict())
  if changed:
    log.info('changed since the last start, from step %d on:', step + 1)
    for field, (old, new) in changed.items():
      log.info('  %s: %s → %s', field, json.dumps(old), json.dumps(new))
  if rates is not None:
    log.warning(
      'the schedule changed: the learning rate of step %d is %.3g (%.3g with the old settings); that of '
      'step %d was %.3g',
      *(step + 1, rates['new'], rates['old'], step, rates['previous']),
    )
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  start = {'time': now, 'step': step, 'changed': changed}
  if rates is not None:
    start['learning_rate'] = {'step': step + 1, **rates}
  before = read(folder)
  if not before:
    start['config'] = config.to_dict()
  folder.mkdir(parents=True, exist_ok=True)
  write_whole(folder / FILE, ''.join(json.dumps(line) + '\n' for line in [*before, start]))
  identity.write_config(config, folder)
  models.save_shape(config.model, folder)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
  """Returns [old, new] by dotted field name for every field that differs; None: the field is absent."""
  old, new = (flat(json.loads(json.dumps(config))) for config in (old, new))
  names = [*new, *(name for name in old if name not in new)]
  return {name: [old.get(name), new.get(name)] for name in names if old.get(name) != new.get(name)}
