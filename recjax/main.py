"""The command line: `python -m recjax.main --config=configs/sports.py [--mode=…] [--workdir=…]`."""

import contextlib
import logging
import os
import sys
import traceback
from typing import Any

from absl import app, flags
from etils import epath
import jax

from data_prep import sources  # also registers the sources' options, for the flags
from recjax import config as config_lib
from recjax import models
from recjax.data import vocabulary
from recjax.data.dataset import Dataset
from recjax.evaluate import evaluate_best
from recjax.models import lora, pretrained
from recjax.recommend import Recommender, recommend_file
from recjax.report.build import report_run
from recjax.runtime import (
  device,
  distributed,
  exit_status,
  goodput,
  logs,
  preemption,
  watchdog,
)
from recjax.schema import flag as config_flag
from recjax.schema.describe import describe
from recjax.sharding import mesh as mesh_lib
from recjax.train import record_mixtures, train_stages
from recjax.training import state as state_lib
from recjax.workdir import checkpoints as checkpoints_lib
from recjax.workdir import claim, identity, resume
from recjax.workdir import stages as stages_lib
from recjax.workdir.request import Request

log = logging.getLogger('recjax')

MODES = {
  'train': 'prepare, train, evaluate and report; the same command continues a stopped run',
  'evaluate': "evaluate the workdir's best checkpoint on all held-out users, and report",
  'recommend': 'rank items for --histories into --out',
  'export': "write the workdir's best checkpoint for transformers into --out",
  'prepare': 'prepare the data only',
  'report': 'write the report again from the files in the workdir',
  'config': 'print every field of the config with its value, its allowed values and its meaning',
}

_CONFIG = config_flag.define()
flags.declare_key_flag('config')  # for --help
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run. Default: runs/NAME, or runs/NAME-VARIANT.'
)
_MODE = flags.DEFINE_enum(
  'mode', 'train', list(MODES), '; '.join(f'{name}: {text}' for name, text in MODES.items()) + '.'
)
_HISTORIES = flags.DEFINE_string(
  'histories', None, 'recommend: JSON lines with "history", raw item ids, oldest first.'
)
_OUT = flags.DEFINE_string(
  'out', None, 'recommend: file to write, JSON lines. export: folder to write, new or empty.'
)
_SKIP = flags.DEFINE_boolean(
  'skip_unknown', False, 'recommend: ignore items of a history that are not in the catalogue.'
)
_K = flags.DEFINE_integer('k', 20, 'recommend: items per history.')
_PRUNE = flags.DEFINE_boolean(
  'prune', False, 'prepare: remove prepared stage folders that this config does not use.'
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments: {argv[1:]}')
  if _CONFIG.value is None:
    raise app.UsageError('--config must be given, such as --config=configs/demo.py')
  logs.set_up()
  preemption.exit_on_sigterm()
  try:
    config = config_lib.from_config_dict(_CONFIG.value)
    if _MODE.value == 'config':
      print(describe(config, _choices()))
      return
    distributed.initialize(config.hosts)
    if jax.process_count() == 1:
      preemption.exit_on_sigterm()  # again: `initialize` may have installed JAX's handler
    logs.set_up(jax.process_index())
    request = _request(config)
    flag_values = {'mode': request.mode, 'workdir': str(request.workdir)}
    distributed.check_same('config', config.to_dict() | flag_values)
    request.check()
    is_training = request.mode == 'train'
    claimed = claim.claimed(request.workdir) if is_training else contextlib.nullcontext()
    with claimed, goodput.recorded(request.workdir, is_training and distributed.is_host0()):
      run(request)
  except (Exception, KeyboardInterrupt) as error:
    is_message = isinstance(error, (ValueError, OSError, FloatingPointError)) and _is_ours(error)
    text = f'{type(error).__name__}: {error}'.rstrip(': ')
    status = exit_status.HUNG if isinstance(error, TimeoutError) and is_message else 1
    watchdog.fail(text, '' if is_message else f'\n{traceback.format_exc()}', status)
    if not is_message:
      raise
    sys.exit(text)
  finally:
    watchdog.stop()


def run(request: Request) -> None:
  """Runs one mode; `request.check` must have passed."""
  config, mode, workdir = request.config, request.mode, request.workdir
  mesh = mesh_lib.make_mesh(config.mesh)
  log.info(
    'process %d of %d, %d devices (%s), mesh %s, workdir %s',
    *(jax.process_index(), jax.process_count(), jax.device_count()),
    *(jax.devices()[0].device_kind, dict(mesh.shape), workdir),
  )
  if mode == 'train':
    identity.check_run(config, workdir)
  elif mode != 'prepare':
    identity.check_use(config, workdir)
  if mode != 'prepare':
    device.set_compilation_cache(config.compilation_cache, workdir)
  models.check_model(config.model)  # before the data are prepared
  with goodput.phase('preparation'), watchdog.expect('preparing or reading the data', 0):
    dataset = _prepared(config, mode == 'prepare', request.prune)
    distributed.barrier('data prepared')
  if mode == 'prepare':
    return
  if mode == 'export':
    space, source = dataset.vocabulary.space, config.model.pretrained
    pretrained.check_export(request.out, source, space, vocabulary.SPECIALS)
    params, _ = _best_params(config, workdir, dataset, mesh)
    _export(request, dataset, params)
    return
  if mode != 'report':
    recommender = Recommender(config, dataset, mesh)
    if mode == 'train':
      params, step = train_stages(config, workdir, dataset, recommender, mesh)
    else:
      params, step = _best_params(config, workdir, dataset, mesh)
    if mode == 'recommend':
      paths = (request.histories, request.out)
      recommend_file(recommender, params, dataset, *paths, request.k, request.skip_unknown)
    else:
      with watchdog.expect('the full evaluation', 0):
        evaluate_best(config, workdir, dataset, recommender, params, step)
  if mode != 'recommend' and distributed.is_host0():
    _report(config, workdir, dataset)
  distributed.barrier('done')
  log.info('done')


def _request(config: config_lib.Config) -> Request:
  workdir = _WORKDIR.value or _default_workdir(flags.FLAGS['config'].config_filename)
  paths = (workdir, _HISTORIES.value, _OUT.value)
  workdir, histories, out = (path and os.path.expanduser(path) for path in paths)
  return Request(
    config=config,
    mode=_MODE.value,
    workdir=epath.Path(workdir),
    histories=histories,
    out=out,
    k=_K.value,
    skip_unknown=_SKIP.value,
    prune=_PRUNE.value,
  )


def _default_workdir(config_flag: str) -> str:
  """Returns runs/sports for configs/sports.py and runs/sports-cpu for configs/sports.py:cpu."""
  file, _, variant = config_flag.partition(':')
  return f'runs/{epath.Path(file).stem}' + (f'-{variant}' if variant else '')


def _choices() -> dict[str, tuple[str, ...]]:
  """Returns the allowed values of the fields that name an entry of a registry."""
  return {'data.source': tuple(sources.SOURCES), 'model.family': tuple(models.FAMILIES)}


def _prepared(config: config_lib.Config, lists_unused: bool, prune: bool) -> Dataset:
  """Returns the prepared data; a run of one process prepares them if they are missing.

  Args:
    config: config of the run.
    lists_unused: whether to log the stage folders that this config does not use.
    prune: whether to remove these folders instead.

  Raises:
    ValueError: the run has several processes, and the data are missing or out of date.
  """
  from data_prep import prepare  # here: only this module uses data_prep, and only to prepare
  from data_prep import prune as prune_lib

  prepared = prepare.prepare(config) if jax.process_count() == 1 else prepare.find(config)
  if prepared is None:
    raise ValueError(
      f'several processes need the data prepared in {config.prepared_folder}; they are missing or out of '
      f'date. Run once: python -m recjax.main --config={flags.FLAGS["config"].config_filename} '
      '--mode=prepare'
    )
  if prune and distributed.is_host0():
    for folder, size in prune_lib.prune(config, prepared).items():
      log.info('removed %s (%.1f MB)', folder, size / 1e6)
  elif lists_unused and (line := prune_lib.describe_unused(prepared)):
    log.info('%s', line)
  return Dataset.load(prepared)


def _best_params(
  config: config_lib.Config, workdir: epath.Path, dataset: Dataset, mesh: jax.sharding.Mesh
) -> tuple[Any, int]:
  """Returns the parameters of the workdir's best checkpoint, on the current mesh, and its step.

  Raises:
    ValueError: the workdir has no undamaged checkpoint, or the data have another code space or tokenizer.
  """
  abstract = state_lib.abstract_params(config.model, dataset.vocabulary.space, mesh)

  def choose(checkpoints: checkpoints_lib.Checkpoints) -> int:
    step = checkpoints.best_step()
    if step is None:
      raise ValueError(f'{checkpoints.folder} must hold an undamaged checkpoint; it has none')
    return step

  def read(checkpoints: checkpoints_lib.Checkpoints, step: int):
    resume.check_tokens(checkpoints.meta(step), dataset, checkpoints.folder)
    return jax.block_until_ready(checkpoints.restore_params(step, abstract)), step

  return checkpoints_lib.read_run(workdir, choose, read)


def _export(request: Request, dataset: Dataset, params: Any) -> None:
  model, space = request.config.model, dataset.vocabulary.space
  params = lora.merge(params, model.lora_alpha)
  pretrained.export(request.out, params, space, model.pretrained, vocabulary.SPECIALS)
  log.info('exported to %s', request.out)


def _report(config: config_lib.Config, workdir: epath.Path, dataset: Dataset) -> None:
  goodput.write()
  with goodput.phase('report'), watchdog.expect('the report', 0):
    trained = identity.config_of(workdir) or config
    num_params = state_lib.num_params(trained.model, dataset.vocabulary.space)
    record_mixtures(trained, workdir, dataset)
    folders = [(stage.name, stage.folder) for stage in stages_lib.plan(trained, workdir)]
    report_run(trained, workdir, dataset, num_params, folders)


def _is_ours(error: Exception) -> bool:
  """Returns whether our own code raised the error. Such errors are shown without a traceback."""
  last = traceback.extract_tb(error.__traceback__)[-1].filename
  root = epath.Path(__file__).parent.parent
  ours = ('recjax', 'data_prep', 'configs', 'launch')
  return any(epath.Path(last).is_relative_to(root / name) for name in ours)


def cli() -> None:
  """Runs the console command `recjax`."""
  app.run(main, flags_parser=config_flag.parse_flags)


if __name__ == '__main__':
  cli()
