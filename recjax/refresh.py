"""A day's work: trains an earlier run on with a new log, compares both models on the new day, and decides.

`--mode=refresh --from=W --raw_dir=R` prepares the log in R with the SIDs of W extended to new items, trains a new
workdir from W's best checkpoint, evaluates it like any run, and ranks the same held-out rows with W's model. The
verdict is in refresh.json and refresh.txt of the new workdir: go if no reason speaks against the new model.
"""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import logging
import re
import shlex
from typing import Any

from etils import epath
import jax
import numpy as np

from recjax.config import Config
from recjax.data import log_change
from recjax.data.dataset import Dataset, Log
from recjax.data.prepared import Prepared
from recjax.evaluate import evaluate_best, make_context
from recjax.metrics import paired, ranking
from recjax.metrics.evaluators.retrieval import rank_rows
from recjax.recommend import best_params
from recjax.runtime import distributed, watchdog
from recjax.runtime.program import program
from recjax.sids.extension import NoFreeSidError
from recjax.train import train_stages
from recjax.workdir import evaluation_file, identity, outcome, paths, refresh_file, sizes, weights
from recjax.workdir import stages as stages_lib
from recjax.workdir.checkpoints import Checkpoints
from recjax.workdir.request import Request

# Share of the learning rate of the first training. With the whole rate the model forgets what it has learnt.
RATE_SHARE = 0.25
MOST_REMOVED = 0.2  # share of the old items, or users, that a new log may lack
LEAST_ROWS = 20  # of the new day; with fewer all test rows are compared
MOST_DRIFT = 3.0  # factor of interactions per day that is reported
RULE = (
  f'go if the 95 % interval of the paired difference of {refresh_file.JUDGED} is not wholly below zero, for the new '
  'model against the old one and against the best baseline'
)
_INTERVALS = ('log_every_steps', 'eval_every_steps', 'checkpoint_every_steps')  # in steps
_SAME = ('inputs', 'steps', 'base_steps')  # of a finished refresh that is not done again

log = logging.getLogger(__name__)


def default_workdir(source: epath.Path) -> epath.Path:
  """Returns the workdir of a refresh: runs/shop-2 for runs/shop, runs/shop-3 for runs/shop-2 if that is a refresh."""
  if source.name in ('', '..'):  # the current folder or one above it
    source = epath.Path(paths.absolute(source))
  match = re.fullmatch(r'(.*)-(\d+)', source.name)
  if match and (source / refresh_file.FILE).exists():
    return source.with_name(f'{match[1]}-{int(match[2]) + 1}')
  return source.with_name(f'{source.name}-2')


def planned(request: Request) -> Request:
  """Returns the request with the config of the refresh; `request.config` is that of the earlier run.

  Fields that the command line changed keep their values. Those that depend on the number of steps are left to
  `recjax.workdir.sizes`.

  Raises:
    ValueError: the prepared data of the earlier run are missing.
  """
  source, given = request.source, request.config
  saved, prepared = identity.config_of(source), _old_prepared(source)
  last = stages_lib.plan(given, source)[-1].config
  base = first_training(source)
  steps = max(1, round(request.budget * base['base_steps']))

  def kept(name: str, value: Any) -> Any:
    section, _, field = name.rpartition('.')
    now, was = (getattr(c, section) if section else c for c in (given, saved))
    return getattr(now, field) if getattr(now, field) != getattr(was, field) else value

  steps = None if given.num_epochs else kept('num_train_steps', steps)
  folder = kept('data.prepared_dir', None) or _prepared_folder(prepared.root, request.workdir)
  data = dataclasses.replace(
    given.data, raw_dir=request.raw_dir, prepared_dir=str(folder), download=False
  )
  rate = kept('optim.learning_rate', RATE_SHARE * base['base_learning_rate'])
  config = dataclasses.replace(
    last,
    data=data,
    sids=dataclasses.replace(given.sids, extend=str(prepared / 'sids')),
    checkpoint=dataclasses.replace(given.checkpoint, init_from=str(source), init_from_last=False),
    optim=dataclasses.replace(
      last.optim, warmup_steps=kept('optim.warmup_steps', None), learning_rate=rate
    ),
    num_train_steps=steps,
    num_epochs=given.num_epochs,
    # The verdict compares all test rows of the new day.
    evaluators=given.evaluators
    | {'retrieval': dataclasses.replace(given.evaluators['retrieval'], rows=None)},
    **{name: kept(name, None) for name in _INTERVALS},
    stages={},
  )
  return dataclasses.replace(request, config=config)


def data_flags(request: Request) -> str:
  """Returns the flags with which `--mode=prepare` and the config of the earlier run prepare the new log."""
  data, sids = request.config.data, request.config.sids
  flags = {
    'data.raw_dir': data.raw_dir,
    'data.prepared_dir': data.prepared_dir,
    'sids.extend': sids.extend,
  }
  return ''.join(f' --config.{name}={shlex.quote(value)}' for name, value in flags.items())


def _old_prepared(source: epath.Path) -> Prepared:
  """Returns the prepared data of the earlier run.

  Raises:
    ValueError: they are missing.
  """
  saved = identity.config_of(source)
  if not saved.prepared_folder.exists():
    raise ValueError(
      f'--from needs the prepared data of {source}, whose SIDs are extended; {saved.prepared_folder} does not exist. '
      f'Prepare them again: {program()} --workdir={source} --mode=prepare'
    )
  return paths.prepared_data(saved, source)


def first_training(source: epath.Path) -> dict[str, float]:
  """Returns `base_steps` and `base_learning_rate`: those of the first training of a chain of refreshes."""
  earlier = refresh_file.read(source)
  if earlier is not None:
    return {name: earlier[name] for name in refresh_file.BASE}
  last = stages_lib.plan(identity.config_of(source), source)[-1].config
  with Checkpoints(source, read_only=True) as checkpoints:
    return dict(
      zip(refresh_file.BASE, (checkpoints.steps[-1], last.optim.learning_rate), strict=True)
    )


def _prepared_folder(root: epath.Path, workdir: epath.Path) -> epath.Path:
  """Returns the folder of the new preparation: beside the old one, with the name of the workdir."""
  name = epath.Path(paths.absolute(workdir)).name
  folder = root.with_name(name)
  is_taken = paths.absolute(folder) in (paths.absolute(root), paths.absolute(workdir))
  return root.with_name(f'{name}-data') if is_taken else folder


def refresh(
  request: Request,
  prepare: Callable[[], Prepared],
  mesh: jax.sharding.Mesh,
) -> tuple[dict[str, Any], Dataset | None]:
  """Runs a refresh; the same call continues a killed one, and returns the result of a finished one.

  Args:
    request: result of `planned`.
    prepare: prepares the data of `request.config`.
    mesh: the devices.

  Returns:
    The content of refresh.json; and the data if the new model was evaluated now.

  Raises:
    ValueError: the new workdir holds another refresh, or see `train_stages`.
  """
  config, workdir, old_prepared = request.config, request.workdir, _old_prepared(request.source)
  result = {
    'verdict': 'no-go',
    'reasons': [],
    'warnings': [],
    'rule': RULE,
    'from': paths.absolute(request.source),
    'workdir': str(workdir),
    'raw_dir': paths.absolute(request.raw_dir),
    'prepared': str(config.prepared_folder),
    **first_training(request.source),
  }
  done = refresh_file.read(workdir)
  _check_own(result, done)
  try:
    dataset = Dataset.load(prepare())
  except NoFreeSidError as error:
    reasons = [f'too many new items for the codes: {error}']
    return _finish(workdir, result | {'reasons': reasons, 'inputs': None, 'steps': None}), None
  config = sizes.resolved(config, dataset, workdir, mesh)
  result['inputs'] = {'from': result['from'], **_digests(dataset)}
  result['steps'] = config.num_train_steps
  _check_own(result, done)
  if done is not None and all(done[name] == result[name] for name in _SAME):
    log.info('%s holds the finished refresh of this log: nothing is done again', workdir)
    return done, None
  old = log_change.Summary.of(Log.load(old_prepared))
  change = log_change.compare(old, log_change.Summary.of(dataset))
  result['data'] = change | {'items_sharing_a_sid': dataset.sids.sharing_items}
  reasons = log_change.reasons(old, change, MOST_REMOVED)
  if (
    not reasons
    and _digests(dataset)['interactions'] == _digests(Dataset.load(old_prepared))['interactions']
  ):
    reasons = ['nothing is new: the log is the same as that of the earlier run']
  if reasons:
    return _finish(workdir, result | {'reasons': reasons}), None
  result |= _trained_and_judged(config, request, dataset, old, mesh)
  result['warnings'] = _warnings(result | result['data'], dataset)
  result['verdict'] = 'no-go' if result['reasons'] else 'go'
  return _finish(workdir, result), dataset


def _trained_and_judged(
  config: Config,
  request: Request,
  dataset: Dataset,
  old: log_change.Summary,
  mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
  """Trains and evaluates the new model, and ranks the test rows with the old one; see `judged`."""
  workdir = request.workdir
  context, depth = make_context(config, dataset, mesh), max(config.eval.ks)
  params, step = train_stages(config, workdir, context)
  rankers = {}
  with watchdog.expect('the full evaluation', 0):
    evaluation = evaluate_best(config, workdir, context.with_params(params), step, rankers)
    del params  # the old parameters take their place in the memory of the devices
    old_params, old_step = best_params(config, request.source, dataset, mesh)
    served = identity.required_config(request.source)
    context.ranker.weights = weights.recorded(served, request.source, old_step)
    old_ranked = rank_rows(context.ranker, old_params, dataset, 'test', config.eval.ks)
  log.info('%s', outcome.closing(evaluation))
  new_ranked = rankers['test'].pop('model')
  rankings = {'new': new_ranked, 'old': old_ranked, **rankers['test']}
  models = {name: found.ranks_U for name, found in rankings.items()}
  steps = {'old_step': old_step, 'new_step': step}
  unreachable = evaluation['unreachable_targets']['test']
  own = tuple(evaluation['rankers'])
  return steps | {'unreachable_targets': unreachable} | judged(models, dataset, old, depth, own)


def _check_own(result: Mapping[str, Any], done: Mapping[str, Any] | None) -> None:
  """Checks that no model was trained in the workdir for anything but this refresh.

  Args:
    result: this refresh; `inputs` may not be known yet.
    done: the finished refresh in the workdir.

  Raises:
    ValueError: another run or refresh was trained there.
  """
  workdir = epath.Path(result['workdir'])
  trained = identity.config_of(workdir)
  if trained is None:
    return
  source = trained.checkpoint.init_from
  if source is None or paths.absolute(source) != result['from']:
    raise ValueError(
      f'{workdir} must be a new workdir or that of this refresh; it holds another run. Set --workdir to a new one'
    )
  names = ('raw_dir', *(('inputs',) if 'inputs' in result else ()))
  if done is not None and any(done[name] != result[name] for name in names):
    raise ValueError(
      f'{workdir} must be a new workdir or that of this refresh; it holds a finished refresh of another log or '
      f'from another run. Set --workdir to a new one, or --from={workdir} to go on from it'
    )


def _digests(dataset: Dataset) -> dict[str, str]:
  """Returns the hashes of the log and of the SIDs of a data set."""
  record = evaluation_file.data_record(dataset, '')
  return {name: record[name] for name in ('interactions', 'sids')}


def judged(
  ranks: Mapping[str, np.ndarray],
  dataset: Dataset,
  old: log_change.Summary,
  depth: int,
  own: Collection[str] = (),
) -> dict[str, Any]:
  """Compares the rankings of the new day's test rows.

  Args:
    ranks: ranks of all test rows by name: `new`, `old`, the baselines, and those by one score of the new model.
    dataset: the new data.
    old: the old log.
    depth: largest cut-off of the evaluation.
    own: names of the rankings by one score of the new model. They are shown, but are no baselines.

  Returns:
    `reasons`, `rows`, `metrics` by name, and `differences` of the new model to the others.
  """
  times, users = log_change.times_of(dataset, 'test'), dataset.row_users('test')
  is_new = np.ones(len(users), bool) if times is None else times > old.newest
  is_compared = is_new if is_new.sum() >= LEAST_ROWS else np.ones(len(users), bool)
  of_new_items = log_change.new_item_rows(old, dataset, 'test')
  rows = {
    'test': len(users),
    'later_than_the_old_log': None if times is None else int(is_new.sum()),
    'compared': int(is_compared.sum()),
    'users': len(np.unique(users[is_compared])),
    'new_items': int(of_new_items['all'][is_compared].sum()),
    'new_items_in_training': int(of_new_items['trained'][is_compared].sum()),
  }
  values = {
    name: {m: f(ranks_U[is_compared], 10) for m, f in ranking.METRICS.items()}
    for name, ranks_U in ranks.items()
  }
  differences = {
    name: {
      f'{m}@10': paired.difference(values['new'][m], found[m], users[is_compared]) for m in found
    }
    for name, found in values.items()
    if name != 'new'
  }
  metrics = {
    name: {f'{m}@10': float(found[m].mean()) for m in found} for name, found in values.items()
  }
  baselines = [name for name in ranks if name not in ('new', 'old', *own)]
  best = max(baselines, key=lambda name: metrics[name][refresh_file.JUDGED])
  reasons = [
    f'{refresh_file.JUDGED} is worse than that of {label}: {metrics["new"][refresh_file.JUDGED]:.4f}, not '
    f'{metrics[name][refresh_file.JUDGED]:.4f}, on {rows["compared"]:,} rows (difference {d["mean"]:+.4f}, 95 % '
    f'interval {d["low"]:+.4f} to {d["high"]:+.4f})'
    for name, label in (('old', 'the old model'), (best, f'the baseline {best}'))
    if (d := differences[name][refresh_file.JUDGED])['high'] < 0
  ]
  trained = of_new_items['trained'] & is_compared
  if trained.sum() >= LEAST_ROWS and not (ranks['new'][trained] < depth).any():
    reasons.append(
      f'new items are not covered: none of {trained.sum():,} targets that are new items is among the first '
      f'{depth}, although they are in the training data'
    )
  return {
    'reasons': reasons,
    'rows': rows,
    'best_baseline': best,
    'metrics': metrics,
    'differences': differences,
  }


def _warnings(data: Mapping[str, Any], dataset: Dataset) -> list[str]:
  found = []
  before, after = data.get('events_per_day', (0, 0))
  if before and after and not 1 / MOST_DRIFT <= after / before <= MOST_DRIFT:
    found.append(f'interactions a day changed from {before:,} to {after:,}')
  before, after = data['interactions']
  if after < before:
    found.append(f'the new log has fewer interactions: {after:,}, not {before:,}')
  removed, before = data['removed_users'], data['users'][0]
  if removed > MOST_REMOVED * before:
    found.append(f'the new log lacks {removed:,} of the {before:,} old users')
  if unreachable := data['unreachable_targets']:
    found.append(
      f'{unreachable:,} of {dataset.num_rows("test"):,} test targets are in their own history, and cannot be '
      'recommended'
    )
  if sharing := data['items_sharing_a_sid']:
    found.append(f'{sharing:,} of {dataset.num_items:,} items share their SID with another')
  return found


def _finish(workdir: epath.Path, result: dict[str, Any]) -> dict[str, Any]:
  if distributed.is_host0():
    refresh_file.write(workdir, result)
  return result
