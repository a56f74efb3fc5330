"""mixture.json: the table of a training's mixture, for the report."""

import json
from typing import Any

from etils import epath

from recjax.runtime.files import write_whole

FILE = 'mixture.json'


def write(folder: epath.Path, rows: list[dict[str, Any]]) -> None:
  """Writes the rows of `Mixture.table` into the folder of a training."""
  write_whole(folder / FILE, json.dumps(rows, indent=2) + '\n')


def read(folder: epath.Path) -> list[dict[str, Any]]:
  """Returns the rows that `write` wrote; empty if an earlier version of recjax wrote no file."""
  path = folder / FILE
  return json.loads(path.read_text()) if path.exists() else []
