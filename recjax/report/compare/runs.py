"""Reads the rankings of finished runs, and checks that they rank the same rows under the same protocol."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa

from recjax.config import Config
from recjax.schema.names import question
from recjax.workdir import evaluation_file, identity, predictions

SPLIT = 'test'
MODEL = 'retrieval'  # the evaluator that ranks the whole catalogue
ABSENT = 1 << 30  # the rank of a target that is not in its list

# Fields of a config that do not change the figures of a run, that only name its place, or that are its seeds.
_IGNORED = ('mesh', 'hosts', 'loader', 'profile', 'compilation_cache', 'log_to', 'evaluators', 'seed', 'sids.seed',
            'log_every_steps', 'checkpoint_every_steps', 'checkpoint.max_to_keep', 'checkpoint.allow_new_stream',
            'checkpoint.memory_every', 'checkpoint.memory_folder', 'eval.batch_size', 'eval.ks', 'eval.baselines', 'eval.sasrec', 'data.raw_dir', 'data.prepared_dir',
            'data.download', 'data.download_url', 'data.engine', 'data.beam_options')  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
  """The rankings of a run on one split.

  Attributes:
    workdir: its folder, as it was given.
    split: 'validation' or 'test'.
    name: the name of its data set.
    seed: its seed.
    sid_seed: the seed of its semantic IDs.
    recipe: see `recipe`; runs of the same one differ in their seeds alone.
    evaluation: the content of evaluation.json.
    record: the metadata of the predictions, see `predictions.record`.
    rows: the columns `row`, `user` and `target` of the ranked rows.
    ranks: name → 0-based rank of the target, int64 `[U]`, or ABSENT; `model`, its scores alone, and every baseline.
  """

  workdir: str
  split: str
  name: str
  seed: int
  sid_seed: int
  recipe: str
  evaluation: Mapping[str, Any]
  record: Mapping[str, Any]
  rows: pa.Table
  ranks: Mapping[str, np.ndarray]

  @property
  def ks(self) -> tuple[int, ...]:
    """The cut-offs of its evaluation."""
    return tuple(self.evaluation['eval']['ks'])

  @property
  def seeds(self) -> tuple[int, int]:
    """Its seeds: runs of one recipe with different ones are repetitions."""
    return self.seed, self.sid_seed

  def top5_share(self, ranker: str) -> float | None:
    """Returns the share of a ranker's first five recommendations in OneHop(u). None: not measured."""
    measured = self.evaluation.get('memorization', {}).get(self.split, {})
    return measured.get(ranker, {}).get('top5_share')


def read(workdir: str, split: str = SPLIT) -> Run:
  """Reads the files of a run.

  Args:
    workdir: its folder.
    split: 'validation' or 'test'.

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
  names = predictions.names(folder, split)
  evaluation = evaluation_file.read(folder)
  if not evaluation.get('eval', {}).get('ks'):
    raise ValueError(
      f'{folder / evaluation_file.FILE} must hold the settings of the evaluation, eval.ks; it has none. Run '
      '--mode=evaluate on that --workdir again'
    )
  model = predictions.of_evaluation(folder, split, MODEL, evaluation)
  ranks = {'model': _ranks(model)}
  for name in names:
    if name.startswith(predictions.PLACES):
      found = predictions.of_evaluation(folder, split, name, evaluation)
      ranks[name.rpartition('/')[2]] = _ranks(found)
  return Run(
    workdir=workdir,
    split=split,
    name=config.data.name,
    seed=config.seed,
    sid_seed=config.sids.seed,
    recipe=recipe(config, evaluation),
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
  found = predictions.of_evaluation(folder, run.split, predictions.ROWS, run.evaluation)
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


def recipe(config: Config, evaluation: Mapping[str, Any] | None = None) -> str:
  """Returns all settings of a run that may change its figures, without its seeds, as JSON.

  Args:
    config: the config of its workdir.
    evaluation: its evaluation.json; --mode=evaluate may have used other beams than the training.
  """
  fields = config.to_dict()
  if evaluation is not None:
    fields['eval']['beams'] = evaluation['eval'].get('beams')
  if (initial := config.checkpoint.init_from) is not None:
    # Seeds of one recipe may start from the seeds of another.
    earlier = identity.config_of(epath.Path(initial).expanduser())
    fields['checkpoint']['init_from'] = initial if earlier is None else _kept(earlier.to_dict())
  return json.dumps(_kept(fields), sort_keys=True)


def _kept(fields: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  return {
    name: _kept(value, f'{prefix}{name}.') if isinstance(value, dict) else value
    for name, value in fields.items()
    if prefix + name not in _IGNORED
  }


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
      columns = [
        f'{name}s'
        for name in first.rows.column_names
        if not first.rows[name].equals(other.rows[name])
      ]
      differing = [f'the {" and ".join(columns)} of their predictions']
    if differing:
      raise ValueError(
        f'--workdirs must name runs over the same test rows and protocol; {first.workdir} and {other.workdir} '
        f'differ in {", ".join(differing)}. Compare them separately, or run --mode=evaluate again with the same '
        'settings'
      )


def _facts(a: Run, b: Run):
  """Yields name and both values of everything that must agree."""
  digests = [run.record['data'].get('interactions') for run in (a, b)]
  yield 'the digest of the interactions', *digests
  if digests[0] != digests[1]:
    yield 'data.name', a.name, b.name
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
