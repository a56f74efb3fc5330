"""Reads the content of a report from a workdir and a data set."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath

from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.runtime import goodput, lock
from recjax.runtime.files import is_local
from recjax.workdir import mixture_file, starts
from recjax.workdir.metrics_file import read_metrics

EXAMPLES = 8  # number of example items and of example keywords in the report


@dataclasses.dataclass(frozen=True)
class Training:
  """One training of a run: the run itself, or one of its stages.

  Attributes:
    name: name of the stage; empty in a run without stages.
    rows: rows of metrics.jsonl.
    mixture: rows of `Mixture.table`; empty if mixture.json is missing.
    starts: lines of starts.jsonl; empty if it is missing.
  """

  name: str
  rows: Sequence[dict[str, Any]]
  mixture: Sequence[dict[str, Any]] = ()
  starts: Sequence[dict[str, Any]] = ()


def training(name: str, folder: epath.Path) -> Training:
  """Reads the files of a training."""
  return Training(name, read_metrics(folder), mixture_file.read(folder), starts.read(folder))


def processes(workdir: epath.Path) -> list[dict[str, Any]]:
  """Returns the processes of goodput.json; `ended` tells how each ended: 'done', 'running', 'killed' or an error."""
  found = goodput.read(workdir)
  for process in found:
    process['ended'] = process['ended'] or 'killed'
  if found and found[-1]['ended'] == 'killed':
    if goodput.is_recording(workdir):  # this process, whose last work is the report
      found[-1]['ended'] = 'done'
    elif is_local(workdir):
      try:
        lock.check_free(workdir, '--workdir')
      except lock.Held:
        found[-1]['ended'] = 'running'
  return found


def sids(config: Config, dataset: Dataset) -> dict[str, Any]:
  """Returns description, statistics, quality and examples of the loaded semantic IDs, as JSON."""
  table = dataset.sids
  described = (dataset.sid_description or {}) | {
    'levels': table.levels,
    'codes_per_level': list(table.codes_per_level),
    'statistics': table.statistics(),
    'examples': [
      {'title': dataset.items[i]['text'], 'sid': table.codes_IL[i].tolist()}
      for i in _spread(range(dataset.num_items))
    ],
  }
  if dataset.sid_quality is not None:  # earlier preparations wrote none
    described['quality'] = dataset.sid_quality
  if config.needs('keywords') and dataset.keywords:
    described['keywords'] = _spread(dataset.keywords)
  return described


def title_of(item: Mapping[str, Any]) -> str:
  """Returns the title of an item of the catalogue; its whole text if it has none."""
  return item.get('title') or item['text']


def _spread(values: Sequence[Any]) -> Sequence[Any]:
  """Returns at most EXAMPLES evenly spaced values."""
  return values[:: max(1, len(values) // EXAMPLES)][:EXAMPLES]
