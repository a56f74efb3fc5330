"""Reads and writes evaluation.json, the full evaluation of a run's best checkpoint.

| key | value |
|---|---|
| `step` | step of the checkpoint |
| `training` | how the training went until then; see `recjax.workdir.outcome.of_training` |
| `metrics` | every metric with its standard error, by split |
| `rows` | number of evaluated rows, by split |
| `unreachable_targets` | number of targets that `eval.exclude_seen` removes from the ranking, by split |
| `eval` | the eval section that was used |
| `evaluators` | `rows` and metrics of every evaluator, by its name and by split |
| `blend` | weights of the scores of candidates, and the rows that chose them; see `recjax.metrics.weights`. Absent: there is one score |
| `rankers` | the ranking by one score of the model alone (`codes`, `head`), as in `baselines` |
| `baselines` | test metrics by name of the baseline, and under `validation` its validation metrics |
| `baselines_left_out` | estimated seconds of the baselines that were not computed; `eval.baselines` can name them |
| `rows_per_sec` | evaluated rows per second |
| `seconds_per_row` | seconds for a test row: `model` and every baseline |
| `memorization` | metrics of rows whose target is inside and outside OneHop(u), by split; see `recjax.metrics.slices` |
| `splits` | metrics of other groups of rows, by split; see `recjax.metrics.slices` |
| `protocol` | how targets were held out and what may be ranked; see `recjax.metrics.protocol` |
| `items_sharing_a_sid` | number of items that share their semantic ID with another |
| `data` | the evaluated data: `folder`, `item_text`, and the digests `interactions` and `sids` |

Files of earlier versions lack some keys; all have `step`, `metrics`, `baselines` and `rows_per_sec`.
"""

from collections.abc import Mapping
import json
from typing import Any

from etils import epath

from recjax.data.dataset import Dataset, Log
from recjax.runtime.files import write_whole

FILE = 'evaluation.json'

_LOG = ('train_items.npy', 'train_offsets.npy', 'validation_items.npy', 'test_items.npy')


def log_digest(log: Log) -> str:
  """Returns a digest of the sequences and the targets of a log."""
  return log.files_digest('interactions', *_LOG)


def data_record(dataset: Dataset, item_text: str) -> dict[str, str]:
  """Returns a record of the evaluated data, the value of `data`.

  Args:
    dataset: the evaluated data.
    item_text: `data.item_text` of the evaluation's config.
  """
  return {
    'folder': str(dataset.folder),
    'item_text': item_text,
    'interactions': log_digest(dataset),
    'sids': dataset.files_digest('sids', 'codes.npy'),
  }


def write(workdir: epath.Path, results: Mapping[str, Any]) -> None:
  """Writes the results of an evaluation."""
  write_whole(workdir / FILE, json.dumps(results, indent=2))


def read(workdir: epath.Path) -> dict[str, Any]:
  """Returns the results of the latest evaluation.

  Raises:
    ValueError: there was no evaluation, or the file is damaged.
  """
  path = workdir / FILE
  if not path.exists():
    raise ValueError(
      f'{path} must exist before a report; run --mode=evaluate on that --workdir first'
    )
  try:
    results = json.loads(path.read_text())
    complete = {'step', 'metrics', 'baselines', 'rows_per_sec'} <= results.keys()
  except (ValueError, AttributeError):
    complete = False
  if not complete:
    raise ValueError(
      f'{path} must hold the results of an evaluation; it is damaged. Run --mode=evaluate again'
    )
  return results
