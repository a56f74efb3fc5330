"""The command line: `recjax --config=recjax:sports [--mode=…] [--workdir=…]`, or `python -m recjax.main …`."""

import contextlib
import dataclasses
import logging
import os
import sys
import traceback

from recjax.runtime import early, heap

if __name__ != '__mp_main__':  # which a reader process imports
  early.set_up()

from absl import app, flags
from etils import epath
import jax

from data_prep import sources  # also registers the sources' options, for the flags
from recjax import config as config_lib
from recjax import describe as describe_lib
from recjax import models, refresh
from recjax.data.dataset import Dataset, Log
from recjax.data.prepared import Prepared
from recjax.evaluate import evaluate_best, final_metrics, make_context, trained_baselines
from recjax.recommend import Recommender, best_params
from recjax.report.build import report_run
from recjax.report.compare.build import HTML as COMPARISON
from recjax.report.compare.build import compare
from recjax.runtime import (
  device,
  distributed,
  exit_status,
  files,
  goodput,
  interrupt,
  logs,
  messages,
  preemption,
  watchdog,
)
from recjax.runtime.program import program
from recjax.schema import flag as config_flag
from recjax.schema.describe import describe
from recjax.sharding import mesh as mesh_lib
from recjax.train import checked_streams, record_mixtures, train_stages
from recjax.training import preflight
from recjax.training import state as state_lib
from recjax.workdir import (
  checkpoint_name,
  claim,
  command,
  identity,
  next_command,
  outcome,
  refresh_file,
  sizes,
  trackers,
)
from recjax.workdir import paths as paths_lib
from recjax.workdir import sasrec as sasrec_lib
from recjax.workdir import stages as stages_lib
from recjax.workdir.export import formats as export
from recjax.workdir.request import NEEDS, Request

log = logging.getLogger('recjax')

_CONFIG = config_flag.define(identity.read_config_dict)
flags.declare_key_flag('config')  # for --help
flags.adopt_module_key_flags(command)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments: {argv[1:]}')
  mode = command.MODE.value
  if _CONFIG.value is None and mode != 'compare':
    sys.exit(NEEDS if mode == 'refresh' else command.usage())
  logs.set_up()
  preemption.exit_on_sigterm()
  preemption.handle_sigint()
  interrupt.set_line(next_command.interrupted(mode))
  try:
    command.check_flags()
    if mode == 'compare':
      workdirs, out = command.compared()
      compare(workdirs, out)
      log.info('done. Next: open %s', out / COMPARISON)
      return
    config = config_lib.from_config_dict(_CONFIG.value)
    if mode == 'config':
      print(describe(config, _choices()))
      return
    if mode == 'describe':
      _describe(config, command.OUT.value)
      return
    distributed.initialize(config.hosts)
    if jax.process_count() == 1:
      preemption.exit_on_sigterm()  # again: `initialize` may have installed JAX's handler
    logs.set_up(jax.process_index())
    interrupt.set_line(next_command.interrupted(mode), distributed.is_host0())
    request = command.requested(config, refresh.default_workdir)
    request.check_refresh()
    config = checkpoint_name.resolved(config, request.source or request.workdir)
    request = dataclasses.replace(request, config=config)
    if request.mode == 'refresh':
      request = refresh.planned(request)
      config = request.config
    flag_values = {'mode': request.mode, 'workdir': str(request.workdir)}
    distributed.check_same('config', config.to_dict() | flag_values)
    request.check()
    is_training = request.mode in ('train', 'refresh')
    claimed = claim.claimed(request.workdir) if is_training else contextlib.nullcontext()
    with claimed, goodput.recorded(request.workdir, is_training and distributed.is_host0()):
      status = run(request)
    log.info('done. Next: %s', next_command.after(request, status))
    if status:
      sys.exit(status)
  except preemption.Preempted as stopped:
    _end(stopped)
    raise
  except Exception as error:
    if not messages.is_message(error):
      watchdog.fail(messages.line(error), f'\n{traceback.format_exc()}', 1)
      raise
    status = exit_status.HUNG if isinstance(error, TimeoutError) else 1
    watchdog.fail(messages.line(error), '', status)
    sys.exit(messages.line(error))
  finally:
    watchdog.stop()


def _end(stopped: preemption.Preempted) -> None:
  """Ends an interrupted process that has saved its work, at once if it runs alone."""
  if isinstance(stopped, preemption.Interrupted):
    log.info('next: %s', next_command.same())
    if jax.process_count() == 1:  # libraries would wait for their threads
      interrupt.end()


def run(request: Request) -> int:
  """Runs one mode and returns the exit status; `request.check` must have passed."""
  config, mode, workdir = request.config, request.mode, request.workdir
  prepares = mode in ('train', 'prepare', 'refresh')
  mesh = mesh_lib.make_mesh(
    config.mesh if prepares else mesh_lib.fitted(config.mesh, jax.device_count())
  )
  log.info(
    'process %d of %d, %d devices (%s), mesh %s, workdir %s',
    *(jax.process_index(), jax.process_count(), jax.device_count()),
    *(jax.devices()[0].device_kind, dict(mesh.shape), workdir),
  )
  if mode in ('train', 'refresh'):
    identity.check_run(config, workdir)
  elif mode != 'prepare':
    identity.check_use(config, workdir)
    command.check_overrides(request)
  if mode != 'prepare':
    device.set_compilation_cache(config.compilation_cache, workdir)
  is_source_needed = prepares or mode == 'export'
  model = config.model if is_source_needed else models.without_source(config.model, workdir)
  models.check_model(model)  # before the data are prepared
  if prepares:
    config_lib.next_item_component(config)  # raises if there is none
  if prepares or mode == 'evaluate':
    config_lib.check_evaluators(config)
  if prepares and not request.has_begun():
    for stage in stages_lib.plan(config, workdir):
      with stages_lib.named(config, stage.name):
        preflight.check_first_rows(stage.config, stage.config.checkpoint)
  if mode == 'refresh':
    return _refresh(request, mesh)
  with goodput.phase('preparation'), watchdog.expect('preparing or reading the data', 0):
    dataset = Dataset.load(_prepared(request) if prepares else _found(config, workdir))
    # Not at a resume: the log is the same, and the other processes wait.
    if prepares and not request.has_begun() and distributed.is_host0():
      describe_lib.log_short(dataset, config)
    distributed.barrier('data prepared')
  config = dataclasses.replace(config, model=model)
  config = sizes.resolved(config, dataset, None if mode == 'prepare' else workdir, mesh)
  if mode == 'prepare':
    checked_streams(config, workdir, dataset, mesh)
    return 0
  heap.keep(jax.default_backend())
  if mode == 'export':
    export.check(request, config, dataset)
    params, step = best_params(config, workdir, dataset, mesh)
    export.write(request, config, dataset, mesh, params, step)
    return 0
  if mode == 'serve':
    from recjax.serve.start import serve  # here: it needs the extra [serve]

    serve(config, workdir, dataset, mesh, request.serving, request.masks)
    return 0
  if mode == 'recommend':
    recommender = Recommender.of_run(config, workdir, dataset, mesh, masks=request.masks)
    asked = (request.histories, request.out, request.k, request.within)
    recommender.recommend_file(*asked, skip_unknown=request.skip_unknown)
  if mode in ('train', 'evaluate'):
    if config.eval.sasrec is not None:
      sasrec_lib.earlier(config, dataset)  # raises if it does not fit, before hours of training
    context = make_context(config, dataset, mesh)
    if mode == 'train':
      params, step = train_stages(config, workdir, context)
    else:
      params, step = best_params(config, workdir, dataset, mesh)
    trained = trained_baselines(config, workdir, dataset, mesh, train_stages)
    with watchdog.expect('the full evaluation', 0):
      results = evaluate_best(config, workdir, context.with_params(params), step, trained=trained)
      if mode == 'train' and distributed.is_host0():
        trackers.log_test(config, workdir, step, final_metrics(results))
  if mode != 'recommend' and distributed.is_host0():
    _report(config, workdir, dataset)
  distributed.barrier('done')
  if mode in ('train', 'evaluate'):
    log.info('%s', outcome.closing(results))
  return 0


def _refresh(request: Request, mesh: jax.sharding.Mesh) -> int:
  """Runs a refresh, reports it, and returns the exit status of its verdict."""
  config, workdir = request.config, request.workdir

  def prepare():
    with goodput.phase('preparation'), watchdog.expect('preparing or reading the data', 0):
      prepared = _prepared(request)
      distributed.barrier('data prepared')
    heap.keep(jax.default_backend())
    return prepared

  result, dataset = refresh.refresh(request, prepare, mesh)
  if dataset is not None and distributed.is_host0():
    _report(config, workdir, dataset)
  distributed.barrier('done')
  for line in refresh_file.text(result).splitlines():
    log.info('%s', line)
  return 0 if result['verdict'] == 'go' else exit_status.NO_GO


def _describe(config: config_lib.Config, out: str | None) -> None:
  """Describes the log of a config; if the config is that of a workdir, the log that it was trained on."""
  from data_prep import prepare

  if out is not None:
    out = os.path.expanduser(out)
    files.check_file(out, '--out')
  prepared = None
  if saved := config_flag.saved_in(command.config_value()):
    workdir = epath.Path(saved)
    identity.check_use(config, workdir)
    prepared = paths_lib.trained_on(workdir, config.prepared_folder)
    if prepared is None:
      paths_lib.check_exists(config, workdir)
  describe_lib.print_all(Log.load(prepared or prepare.prepare_log(config)), config, out)
  if not saved:
    log.info('done. Next: %s', next_command.training())


def _choices() -> dict[str, tuple[str, ...]]:
  """Returns the allowed values of the fields that name an entry of a registry."""
  return {'data.source': tuple(sources.SOURCES), 'model.family': tuple(models.FAMILIES)}


def _prepared(request: Request) -> Prepared:
  """Returns the prepared data; a run of one process prepares them if they are missing.

  Raises:
    ValueError: the run has several processes, and the data are missing or out of date.
  """
  from data_prep import prepare  # here: only this module uses data_prep, and only to prepare
  from data_prep import prune as prune_lib

  config, workdir = request.config, request.workdir
  is_resume = request.mode == 'train' and paths_lib.read(workdir) is not None
  if is_resume and config_flag.saved_in(command.config_value()):
    paths_lib.check_exists(config, workdir)  # never prepares at the old place of moved data
  prepared = prepare.prepare(config) if jax.process_count() == 1 else prepare.find(config)
  if prepared is None:
    raise ValueError(
      f'several processes need the data prepared in {config.prepared_folder}; they are missing or out of '
      f'date. Run once: {program()} --config={command.config_value()}'
      f'{refresh.data_flags(request) if request.mode == "refresh" else ""} --mode=prepare'
    )
  if request.prune and distributed.is_host0():
    for folder, size in prune_lib.prune(config, prepared).items():
      log.info('removed %s (%.1f MB)', folder, size / 1e6)
  elif request.mode == 'prepare' and (line := prune_lib.describe_unused(prepared)):
    log.info('%s', line)
  return prepared


def _found(config: config_lib.Config, workdir: epath.Path) -> Prepared:
  """Returns the prepared data of a run, and prepares nothing.

  Raises:
    ValueError: they are missing.
  """
  from data_prep import prepare

  found = paths_lib.trained_on(workdir, config.prepared_folder)
  if found is None:
    paths_lib.check_exists(config, workdir)
    found = prepare.find(config)  # another folder than that of the training
  if found is None:
    raise ValueError(
      f'{paths_lib.absolute(config.prepared_folder)} must hold data that were prepared with this config; some '
      'are missing or were prepared with other settings. Set --config.data.prepared_dir, or prepare them first '
      'with --mode=prepare'
    )
  return found


def _report(config: config_lib.Config, workdir: epath.Path, dataset: Dataset) -> None:
  goodput.write()
  with goodput.phase('report'), watchdog.expect('the report', 0):
    trained = identity.config_of(workdir) or config
    model = models.without_source(trained.model, workdir)
    num_params = state_lib.num_params(model, dataset.vocabulary.space)
    record_mixtures(trained, workdir, dataset)
    folders = [(stage.name, stage.folder) for stage in stages_lib.plan(trained, workdir)]
    description = describe_lib.of_run(dataset, trained)
    report_run(trained, workdir, dataset, num_params, folders, description)


def cli() -> None:
  """Runs the command line; the console command `recjax`.

  `recjax inspect …` is `python -m recjax.inspect …`, and `recjax MODE …` is `recjax --mode=MODE …`.
  """
  if sys.argv[1:2] == ['inspect']:
    os.execv(sys.executable, [sys.executable, '-m', 'recjax.inspect', *sys.argv[2:]])
  if sys.argv[1:2] and sys.argv[1] in command.MODES:
    sys.argv[1] = f'--mode={sys.argv[1]}'
  app.run(main, flags_parser=config_flag.parse_flags)


if __name__ == '__main__':
  cli()
