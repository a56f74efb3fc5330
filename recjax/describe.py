"""Describes a prepared log: `--mode=describe`, and a few lines at the start of every run."""

import json
import logging
import time
from typing import Any

from etils import epath

from recjax.config import Config
from recjax.data.dataset import Log
from recjax.report.data import text
from recjax.report.data.facts import facts
from recjax.report.data.suspicions import suspicions
from recjax.runtime.files import write_whole

log = logging.getLogger(__name__)

# Interactions of the largest log that a run describes: the facts read all of them twice at every start.
MOST = 200_000_000


def describe(data: Log, config: Config) -> dict[str, Any]:
  """Returns the facts about a log as JSON (`recjax.report.data.facts`), and under `warnings` what is suspicious.

  Args:
    data: the prepared log; a `Dataset` is one.
    config: the config that prepared it.
  """
  found = facts(data, config.data)
  return found | {'warnings': suspicions(found, config, time.time())}


def of_run(data: Log, config: Config) -> dict[str, Any] | None:
  """Returns `describe` for a run; None: the log has more than `MOST` interactions, which takes minutes."""
  return None if data.statistics['interactions'] > MOST else describe(data, config)


def log_short(data: Log, config: Config) -> None:
  """Logs the short form and the warnings."""
  found = of_run(data, config)
  if found is None:
    log.info(
      'data: %s, too many for a description; --mode=describe reads all', text.size(data.statistics)
    )
    return
  for line in text.short_text(found):
    log.info('%s', line)
  for warning in found['warnings']:
    log.warning('data: %s', warning)


def print_all(data: Log, config: Config, out: str | None = None) -> None:
  """Prints all facts and warnings.

  Args:
    data: the prepared log.
    config: the config that prepared it.
    out: also write them as JSON into this file; its folder is created.
  """
  found = describe(data, config)
  print(text.long_text(found, found['warnings']), flush=True)
  if out is not None:
    epath.Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(found, indent=2) + '\n')
    log.info('description: %s', out)
