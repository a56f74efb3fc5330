"""Reads the rankings of finished runs, and checks that they rank the same rows under the same protocol."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa

from recjax.schema.names import question
from recjax.workdir import evaluation_file, identity, predictions

SPLIT = 'test'
MODEL = 'retrieval'  # the evaluator that ranks the whole catalogue
ABSENT = 1 << 30  # the rank of a target that is not in its list

# Sections and fields of a config that do not change the figures of a run, or that only name its place.
_IGNORED = ('seed', 'mesh', 'hosts', 'loader', 'profile', 'compilation_cache', 'log_to', 'checkpoint', 'eval',
            'evaluators', 'log_every_steps', 'checkpoint_every_steps')  # fmt: skip
_CHOICE = ('choose_by', 'patience')  # fields of `eval` that decide which checkpoint is evaluated
_PLACES = ('raw_dir', 'prepared_dir', 'download', 'download_url')


@dataclasses.dataclass(frozen=True)
class Run:
  """The test rankings of a run.

  Attributes:
    workdir: its folder, as it was given.
    seed: its seed.
    recipe: its config without the seed and without fields that do not change figures, as JSON.
    evaluation: the content of evaluation.json.
    record: the metadata of the predictions, see `predictions.record`.
    rows: the columns `row`, `user` and `target` of the ranked rows.
    ranks: name → 0-based rank of the target, int64 `[U]`, or ABSENT; `model` and every baseline.
  """

  workdir: str
  seed: int
  recipe: str
  evaluation: Mapping[str, Any]
  record: Mapping[str, Any]
  rows: pa.Table
  ranks: Mapping[str, np.ndarray]

  @property
  def ks(self) -> tuple[int, ...]:
    """The cut-offs of its evaluation."""
    return tuple(self.evaluation['eval']['ks'])


def read(workdir: str) -> Run:
  """Reads the files of a run.

  Args:
    workdir: its folder.

  Raises:
    OSError: the folder does not exist.
    ValueError: it is no workdir, or it has no predictions, or they are not of its evaluation.json.
  """
  folder = epath.Path(workdir).expanduser()
  if not folder.exists():
    raise FileNotFoundError(f'--workdirs must name existing folders; {workdir} does not exist')
  config = identity.config_of(folder)
  if config is None:
    raise ValueError(f'--workdirs must name workdirs of runs; {workdir} has no config.json')
  names = predictions.names(folder, SPLIT)
  evaluation = evaluation_file.read(folder)
  model = predictions.of_evaluation(folder, SPLIT, MODEL, evaluation)
  ranks = {'model': _ranks(model)}
  for name in names:
    if name.startswith('baselines/'):
      found = predictions.of_evaluation(folder, SPLIT, name, evaluation)
      ranks[name.removeprefix('baselines/')] = _ranks(found)
  return Run(
    workdir=workdir,
    seed=config.seed,
    recipe=json.dumps(_recipe(config.to_dict()), sort_keys=True),
    evaluation=evaluation,
    record=model.record,
    rows=model.read('row', 'user', 'target'),
    ranks=ranks,
  )


def labels(run: Run) -> dict[str, np.ndarray]:
  """Returns the bucket of every row of a run by the name of the label, str `[U]`; see `recjax.metrics.slices`.

  Raises:
    ValueError: there are no labels, or they are of another evaluation.
  """
  folder = epath.Path(run.workdir).expanduser()
  found = predictions.of_evaluation(folder, SPLIT, predictions.ROWS, run.evaluation)
  table = found.read()
  if not table['row'].equals(run.rows['row']):
    raise ValueError(
      f'{found.path} must have the rows of {MODEL}.parquet; it has others. Run --mode=evaluate on that --workdir again'
    )
  return {
    name: table[name].to_numpy(zero_copy_only=False)
    for name in table.column_names
    if name not in ('row', 'user', 'target')
  }


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
  kept = {name: value for name, value in config.items() if name not in _IGNORED}
  kept['eval'] = {name: config['eval'][name] for name in _CHOICE}
  kept['is_initialised'] = config['checkpoint']['init_from'] is not None
  kept['data'] = {name: value for name, value in config['data'].items() if name not in _PLACES}
  return kept


def _ranks(found: predictions.Predictions) -> np.ndarray:
  ranks = found.read('rank')['rank'].fill_null(ABSENT)
  return ranks.to_numpy().astype(np.int64)


def check_comparable(runs: Sequence[Run]) -> None:
  """Checks that all runs rank the same rows of the same data under the same protocol.

  Runs may differ in their semantic IDs, since items are compared.

  Raises:
    ValueError: two runs differ; the message names how.
  """
  first = runs[0]
  for other in runs[1:]:
    differing = [
      f'{name} ({a!r} and {b!r})' for name, a, b in _facts(first, other) if a != b
    ]  # fmt: skip
    if not differing and not first.rows.equals(other.rows):
      differing = ['the users or targets of the rows']
    if differing:
      raise ValueError(
        f'--workdirs must name runs over the same test rows and protocol; {first.workdir} and {other.workdir} '
        f'differ in {", ".join(differing)}. Compare them separately, or run --mode=evaluate again with the same '
        'settings'
      )


def _facts(a: Run, b: Run):
  """Yields name and both values of everything that must agree."""
  names = ('interactions', 'item_text')
  meanings = {'interactions': 'the digest of the interactions', 'item_text': 'data.item_text'}
  for name in names:
    yield meanings[name], a.record['data'].get(name), b.record['data'].get(name)
  protocols = {**a.record['protocol'], **b.record['protocol']}
  for name in protocols:
    yield name, a.record['protocol'].get(name), b.record['protocol'].get(name)
  yield 'the number of test rows', a.record['rows'], b.record['rows']


def chosen(name: str, run: Run, ranker: str) -> np.ndarray:
  """Returns the ranks of one ranker of a run.

  Raises:
    ValueError: the run has no such baseline.
  """
  if ranker not in run.ranks:
    known = [each for each in run.ranks if each != 'model']
    raise ValueError(
      f'--workdirs must name a baseline of the run after a colon, one of {", ".join(known)}; got '
      f'{name!r}{question(ranker, known)}'
    )
  return run.ranks[ranker]
