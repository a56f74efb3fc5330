"""mixture.json: the table of a training's mixture, for the report."""

import json
import logging
from typing import Any

from etils import epath

from recjax.runtime.files import write_whole

FILE = 'mixture.json'

log = logging.getLogger(__name__)


def write(folder: epath.Path, rows: list[dict[str, Any]]) -> None:
  """Writes the rows of `Mixture.table` into the folder of a training."""
  write_whole(folder / FILE, json.dumps(rows, indent=2) + '\n')


def read(folder: epath.Path) -> list[dict[str, Any]]:
  """Returns the rows that `write` wrote; empty if an earlier version wrote no file or the file is damaged."""
  path = folder / FILE
  if not path.exists():
    return []
  try:
    rows = json.loads(path.read_text())
  except (ValueError, RecursionError):  # also bytes that are not UTF-8
    rows = None
  if isinstance(rows, list) and all(isinstance(row, dict) and 'name' in row for row in rows):
    return rows
  log.warning('%s is damaged and left out; the next start of the training writes it again', path)
  return []
