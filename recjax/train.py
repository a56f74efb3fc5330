"""Trains the stages of a run: set-up, restore, training loop, evaluation and checkpoints."""

from collections.abc import Callable, Iterator
import dataclasses
import logging
from typing import Any

from etils import epath
import jax
import optax

from recjax import models
from recjax.config import Config, next_item_component
from recjax.data import loader
from recjax.data import mixture as mixture_lib
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.evaluate import check_selection, evaluated
from recjax.metrics import doubts, leakage, text
from recjax.metrics.evaluators.base import Context
from recjax.metrics.selection import named
from recjax.runtime import distributed, goodput, preemption, watchdog
from recjax.runtime.profile import Profiler
from recjax.schema.checks import check
from recjax.schema.grpo import Grpo
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import table as parameter_table
from recjax.training import data_preflight, optim, preflight, start
from recjax.training import state as state_lib
from recjax.training.grpo import stage as grpo_lib
from recjax.training.progress import Progress
from recjax.training.state import TrainState
from recjax.training.step import jit_train_step
from recjax.workdir import (
  identity,
  item_rows,
  mixture_file,
  outcome,
  paths,
  resume,
  starts,
  trackers,
)
from recjax.workdir import stages as stages_lib
from recjax.workdir.checkpoints import Checkpoints, Meta
from recjax.workdir.emergency.checkpoints import EmergencyCheckpoints, checkpointing
from recjax.workdir.metrics_file import Writer, read_metrics

log = logging.getLogger(__name__)


def train_stages(
  config: Config,
  workdir: epath.Path,
  context: Context,
) -> tuple[Any, int]:
  """Trains every unfinished stage of a run in order; see `train`.

  Every stage's parameter groups are checked before the first stage is trained.

  Returns:
    The parameters of the last stage's best checkpoint, on the mesh, and its step.

  Raises:
    ValueError: a stage's group matches no parameter, or the workdir belongs to another run. See also `train`.
  """
  config = resume.with_sid_rows(config, workdir)
  stages = stages_lib.plan(config, workdir)
  streams = checked_streams(config, workdir, context.dataset, context.mesh)
  check_selection(config, context)
  identity.check_run(config, workdir)
  first = stages_lib.first_unfinished(stages)
  for stage in stages[:first]:
    if (old := identity.config_of(stage.folder)) is not None:
      with stages_lib.named(config, stage.name):
        resume.check_optimizer(old.optim, stage.config.optim, stage.folder)
  for stage, stream in zip(stages[first:], streams[first:], strict=True):
    if stage.name:
      log.info('stage %s, %d steps', stage.name, stage.config.num_train_steps)
    run = config if stage.folder == workdir else None
    best = train(stage.config, stage.folder, context, run, stream, stage.grpo, stage.name)
  return best


def checked_streams(
  config: Config, workdir: epath.Path, dataset: Dataset, mesh: jax.sharding.Mesh
) -> list[loader.Stream]:
  """Checks before the first step that every stage of a run trains something sensible.

  Returns:
    The stream of every stage, in order.

  Raises:
    ValueError: see `training.data_preflight`, `training.preflight` and `metrics.leakage`; or a stage's group matches
      no parameter.
  """
  data_preflight.check_dataset(dataset, config.eval.exclude_seen, config.eval.eval_users)
  leakage.check(dataset, config.data.split)
  searched = next_item_component(config)
  stages, streams, space = stages_lib.plan(config, workdir), [], dataset.vocabulary.space
  begun = [n for n, s in enumerate(stages) if identity.config_of(s.folder) is not None]
  for number, stage in enumerate(stages):
    with stages_lib.named(config, stage.name):
      preflight.check_rates(stage.config)
      tx = optim.optimizer(stage.config.optim, stage.config.num_train_steps)
      abstract = state_lib.abstract_state(stage.config.model, space, tx, mesh)
      if number > max(begun, default=-1):
        tables = list(abstract.params['tables'])
        preflight.check_first_rows(stage.config, stage.config.checkpoint, tables)
      stream = stage_stream(stage, dataset)
      examples = stage.config.num_train_steps * stream.examples_per_batch
      is_last = stage.folder == workdir and stage.grpo is None
      data_preflight.check_stream(stream, examples, searched if is_last else None)
      prompt = searched.max_prompt_length(stream.mixture.corpus) + space.num_levels - 1
      preflight.check_positions(stage.config.model, stream.plan.row_length, prompt)
    streams.append(stream)
  if config.model.pretrained is None and config.checkpoint.init_from is None:
    preflight.warn_of_random([stage.config for stage in stages], abstract.params)
  return streams


@dataclasses.dataclass(frozen=True)
class _Setup:
  """The fixed parts of one training.

  Attributes:
    config: config of the training.
    context: data, devices and search of the run, for evaluations; without parameters.
    stream: the stream of batches.
    fingerprint: fingerprint of the stream, saved in every checkpoint.
    tx: the optimizer.
    abstract: ShapeDtypeStructs of the train state, with shardings.
    grpo: settings of a stage of kind grpo. None: the training is supervised.
    name: name of the stage; empty in a run without stages.
  """

  config: Config
  context: Context
  stream: loader.Stream
  fingerprint: dict[str, str]
  tx: optax.GradientTransformation
  abstract: TrainState
  grpo: Grpo | None
  name: str

  @property
  def dataset(self) -> Dataset:
    """The prepared data."""
    return self.context.dataset

  @property
  def mesh(self) -> jax.sharding.Mesh:
    """The devices."""
    return self.context.mesh


@dataclasses.dataclass
class _LoopState:
  """The changing parts of one training; every checkpoint holds them.

  Attributes:
    step: number of completed steps.
    state: train state after these steps.
    examples_seen: the position in the stream.
    evaluations: step and metrics of every evaluation so far.
  """

  step: int
  state: TrainState
  examples_seen: int = 0
  evaluations: list[tuple[int, dict[str, float]]] = dataclasses.field(default_factory=list)


def train(
  config: Config,
  workdir: epath.Path,
  context: Context,
  run: Config | None = None,
  stream: loader.Stream | None = None,
  grpo: Grpo | None = None,
  name: str = '',
) -> tuple[Any, int]:
  """Trains until `num_train_steps` or until patience runs out; the same call resumes a killed training.

  Between two saves the state is copied to the memory of the hosts (`checkpoint.memory_every`). A resume takes the
  newest checkpoint or the newest complete copy, if that is of a later step.

  Args:
    config: config of the training.
    workdir: folder of the training.
    context: data, devices and search of the run, for evaluations; without parameters.
    run: Config to record in the workdir. For the last stage: the parent run's. None: `config`.
    stream: the stream of the training. None: it is built.
    grpo: settings of a stage of kind grpo. None: the training is supervised.
    name: name of the stage; empty in a run without stages.

  Returns:
    The parameters of the best checkpoint, on the mesh, and its step.

  Raises:
    ValueError: config, data or workdir do not fit each other. The workdir is then unchanged.
    FloatingPointError: a loss is not finite.
    Preempted: SIGTERM or SIGINT arrived; the state is saved.
    OSError: a file could not be written.
  """
  setup = _set_up(config, context, stream, grpo, name)
  limits, dataset = config.hosts, context.dataset
  saved, mesh = setup.abstract.to_saved(), setup.mesh
  with EmergencyCheckpoints(workdir, config.checkpoint, saved, mesh) as checkpoints:
    latest = checkpoints.latest_step()
    if latest is None:
      loop, rates = _LoopState(0, _initial_state(setup)), None
    else:
      loop, rates = _resumed(setup, checkpoints, latest)
    position = {'step': loop.step, 'examples_seen': loop.examples_seen}
    position |= {'stream': setup.fingerprint, 'evaluations': loop.evaluations}
    distributed.check_same('position in the training', position)
    identity.check_run(run or config, workdir)
    # All checks have passed. Nothing before this line writes to the workdir.
    if distributed.is_host0():
      starts.record(run or config, workdir, loop.step, rates)
      paths.write(workdir, dataset.folder)
      item_rows.write(workdir, config.model, dataset)
      mixture_file.write(workdir, setup.stream.mixture.table())
    train_step = _jitted_step(setup, loop, workdir)
    is_host0 = distributed.is_host0()
    with (
      trackers.opened(config, workdir, is_host0) as tracked,
      Writer(workdir, loop.step, is_host0, tracked.log) as writer,
    ):
      _train_steps(setup, loop, workdir, checkpoints, writer, train_step)
    if distributed.is_host0() and grpo is None:  # whose loss is no measure of what it learns
      losses = [row['loss'] for row in read_metrics(workdir) if row.get('loss') is not None]
      for doubt in doubts.of_losses(losses):
        log.warning('%s', doubt)
    with checkpointing('restoring the best checkpoint', limits):
      best_step = checkpoints.best_step()
      return checkpoints.restore_params(best_step, setup.abstract.params), best_step


def _set_up(
  config: Config, context: Context, stream: loader.Stream | None, grpo: Grpo | None, name: str
) -> _Setup:
  """Builds the fixed parts of a training, and logs its mixture and its parameters."""
  dataset, mesh = context.dataset, context.mesh
  hosts = mesh_lib.host_part(mesh)[1]
  batch_shards = mesh_lib.batch_shards(mesh) * config.grad_accumulation
  loader.check_batch(config.batch_size, config.packing.rows, hosts, batch_shards)
  stream = make_stream(config, dataset) if stream is None else stream
  log.info('mixture\n%s', mixture_lib.format_table(stream.mixture.table()))
  log.info('%s', stream.description)
  tx = optim.optimizer(config.optim, config.num_train_steps)
  abstract = state_lib.abstract_state(config.model, dataset.vocabulary.space, tx, mesh)
  rules = models.family(config.model).parameter_rules
  table = parameter_table.describe(abstract.params, mesh, abstract.opt_state, rules)
  log.info('parameters\n%s', table)
  log.info('%s', optim.describe(abstract.params, config.optim))
  fingerprint = loader.fingerprint(stream, config.mixing)
  return _Setup(config, context, stream, fingerprint, tx, abstract, grpo, name)


def _initial_state(setup: _Setup) -> TrainState:
  """Returns the state of step 0; its parameters are those of `init_from`, pretrained or random."""
  config, dataset, abstract = setup.config, setup.dataset, setup.abstract.params
  space = dataset.vocabulary.space
  state = state_lib.init_state(config.model, space, setup.tx, setup.mesh, config.seed)
  params = start.first_params(config.model, config.checkpoint, state.params, abstract, dataset)
  state = state._replace(params=params)
  seen = data_preflight.seen_tokens(setup.stream)
  preflight.check_rows(state.params, config.optim, dataset, seen)
  return state


def _resumed(
  setup: _Setup, checkpoints: Checkpoints, step: int
) -> tuple[_LoopState, dict[str, float] | None]:
  """Restores a checkpoint of this training.

  Returns:
    The loop state, and the learning rates if the schedule changed; see `optim.rate_change`.

  Raises:
    ValueError: the checkpoint is later than `num_train_steps`, or does not fit the data, the optimizer,
      the stream or `grpo.updates`.
  """
  config, folder = setup.config, checkpoints.folder
  check(
    step <= config.num_train_steps,
    f'num_train_steps must not be less than the {step} steps that {folder} holds',
    config.num_train_steps,
    'num_train_steps, or give a new --workdir',
  )
  meta = checkpoints.meta(step)
  old = identity.read_config(meta.config, f'the config in {folder / str(step)}')
  resume.check_tokens(meta, setup.dataset, folder)
  resume.check_optimizer(old.optim, config.optim, folder)
  resume.check_selection(meta, old, config, folder)
  allow_new = config.checkpoint.allow_new_stream
  is_same = resume.check_stream(meta, setup.fingerprint, folder, allow_new)
  with watchdog.expect('restoring the checkpoint', config.hosts.phase_timeout):
    state = TrainState.from_saved(checkpoints.restore(step, setup.abstract.to_saved()))
  if setup.grpo is not None:
    made = optim.num_updates(state.opt_state)
    resume.check_updates(made, step, setup.grpo.updates, setup.name, folder)
  examples_seen = meta.examples_seen if is_same else 0
  log.info('continuing from step %d, %d examples seen', step, examples_seen)
  loop = _LoopState(step, state, examples_seen, [tuple(e) for e in meta.evaluations])
  return loop, optim.rate_change(old, config, step)


def _train_steps(
  setup: _Setup,
  loop: _LoopState,
  workdir: epath.Path,
  checkpoints: Checkpoints,
  writer: Writer,
  train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
) -> None:
  """Runs the remaining steps; evaluates and saves when due.

  Raises:
    Preempted: SIGTERM or SIGINT arrived; the last step is saved.
    FloatingPointError: a loss is not finite.
  """
  config, stream = setup.config, setup.stream
  limits, steps = config.hosts, range(loop.step + 1, config.num_train_steps + 1)
  batches = _device_batches(setup, loop.examples_seen, len(steps))
  with (
    preemption.Watch() as watch,
    Profiler(config.profile, workdir) as profiler,
    goodput.phase('steps'),
  ):
    goodput.training(workdir, loop.step)
    progress = Progress(config, writer, stream)
    if _is_evaluation_due(config, loop):  # a preemption interrupted the evaluation of this step
      results = _validate(setup, loop, writer)
      if results is None:
        raise preemption.stop()
      checkpoints.score(loop.step, config.selection.score(results))
    for step in watchdog.watched(steps, limits.phase_timeout, limits.step_timeout):
      if outcome.is_patience_out(loop.evaluations, config.eval.patience, config.selection):
        log.info(
          'stopping: %s did not improve in %d evaluations',
          *(config.selection.key, config.eval.patience),
        )
        break
      with profiler.step(step, progress.flush):
        with goodput.phase('input_wait'):
          batch = next(batches)
        with jax.set_mesh(setup.mesh):
          loop.state, metrics = train_step(loop.state, batch)
        progress.step(step, loop.examples_seen, metrics)
      loop.step, loop.examples_seen = step, loop.examples_seen + stream.examples_per_batch
      checkpoints.check()
      is_preempted = watch.reached()
      is_save_due = step % config.checkpoint_every_steps == 0
      if is_preempted or _is_evaluation_due(config, loop) or is_save_due:
        progress.flush()  # never save parameters whose loss was not checked
        is_preempted |= _evaluate_and_save(setup, loop, checkpoints, writer, is_preempted)
      elif checkpoints.is_copy_due(step):
        progress.flush()
        writer.flush()
        with checkpointing(f'copying step {step}', limits):
          checkpoints.copy(step, loop.state.to_saved(), _meta(setup, loop))
      if is_preempted:
        with checkpointing(f'saving step {step}', limits):
          checkpoints.wait()
        stopped = preemption.stop()
        log.info('%s: step %d is saved; the same command resumes from it', stopped.word, step)
        raise stopped
    with checkpointing('saving the last checkpoint', limits):
      checkpoints.wait()


def _is_evaluation_due(config: Config, loop: _LoopState) -> bool:
  is_due = loop.step == config.num_train_steps or loop.step % config.eval_every_steps == 0
  return loop.step > 0 and is_due and all(step != loop.step for step, _ in loop.evaluations)


def _evaluate_and_save(
  setup: _Setup, loop: _LoopState, checkpoints: Checkpoints, writer: Writer, is_preempted: bool
) -> bool:
  """Evaluates if an evaluation is due and no preemption is pending, then starts a save.

  Returns:
    Whether a preemption interrupted the evaluation.
  """
  results, is_interrupted = None, False
  if _is_evaluation_due(setup.config, loop) and not is_preempted:
    results = _validate(setup, loop, writer)
    is_interrupted = results is None
  writer.flush()  # no checkpoint is newer than the metrics
  config = setup.config
  score = None if results is None else config.selection.score(results)
  with checkpointing(f'saving step {loop.step}', config.hosts):
    checkpoints.save(loop.step, loop.state.to_saved(), _meta(setup, loop), score)
  goodput.write()
  return is_interrupted


def _validate(setup: _Setup, loop: _LoopState, writer: Writer) -> dict[str, float] | None:
  """Evaluates a sample of the validation rows; returns None if a preemption interrupts it."""
  config, chosen = setup.config, setup.config.selection
  evaluator = config.evaluators[chosen.evaluator]
  context = setup.context.with_params(optim.averaged_params(loop.state))
  try:
    result = evaluated(context, evaluator, 'validation', config.eval.eval_users)
  except preemption.Preempted as stopped:
    log.info('%s: the restart evaluates step %d', stopped.word, loop.step)
    return None
  results = distributed.from_host0('validation', named(chosen.evaluator, result.metrics))
  epoch = setup.stream.mixture.epochs(loop.examples_seen)
  is_retrieval = chosen.evaluator == 'retrieval'
  line = text.headline(results) if is_retrieval else text.line(chosen.shown(results))
  log.info('step %d  epoch %.1f  validation %s', loop.step, epoch, line)
  loop.evaluations = [*loop.evaluations, (loop.step, results)]
  writer.write_evaluation(loop.step, results)
  return results


def _meta(setup: _Setup, loop: _LoopState) -> Meta:
  code_space, fields = setup.dataset.sids.code_space_hash, setup.config.to_dict()
  return Meta(loop.examples_seen, setup.fingerprint, code_space, loop.evaluations, fields)


def _jitted_step(setup: _Setup, loop: _LoopState, workdir: epath.Path):
  """Returns the step, (state, batch) → (state, metrics); a stage of kind grpo first keeps what it began with."""
  config, dataset, abstract, mesh = setup.config, setup.dataset, setup.abstract, setup.mesh
  if setup.grpo is not None:
    with checkpointing('the reference of the stage', config.hosts):
      meta = _meta(setup, loop)
      return grpo_lib.make_step(
        config, setup.grpo, dataset, abstract, loop.state, meta, workdir, mesh
      )
  text_targets, space = setup.stream.mixture.text_targets, dataset.vocabulary.space
  return jit_train_step(config, space, setup.tx, text_targets, abstract, mesh)


def _device_batches(
  setup: _Setup, examples_seen: int, steps: int
) -> Iterator[dict[str, jax.Array]]:
  """Yields global batches on the mesh; prefetches `loader.device_buffer` of them to the devices."""
  host, hosts = mesh_lib.host_part(setup.mesh)
  batches = setup.stream.batches(examples_seen, steps, host, hosts, setup.config.loader)
  return mesh_lib.transferred(batches, setup.config.loader.device_buffer, setup.mesh)


def make_mixture(config: Config, dataset: Dataset) -> mixture_lib.Mixture:
  """Returns the mixture of one training over its data.

  Raises:
    ValueError: the mixture does not fit the data.
  """
  corpus = Corpus.of(dataset, models.family(config.model))
  return mixture_lib.build(config.active_mixture, config.mixing, corpus, config.seed)


def record_mixtures(config: Config, workdir: epath.Path, dataset: Dataset) -> None:
  """Writes mixture.json for the trainings of a run that an earlier version ran, which wrote none."""
  for stage in stages_lib.plan(config, workdir):
    is_earlier = stage.grpo is None and stage.folder.exists()
    if is_earlier and not (stage.folder / mixture_file.FILE).exists():
      mixture_file.write(stage.folder, make_mixture(stage.config, dataset).table())


def make_stream(config: Config, dataset: Dataset) -> loader.Stream:
  """Returns the stream of batches of one training.

  Raises:
    ValueError: the mixture does not fit the data, or the rows do not fit its examples.
  """
  mixture, start_id = make_mixture(config, dataset), models.start_id(config.model)
  return loader.make_stream(mixture, config.packing, config.batch_size, start_id)


def stage_stream(stage: stages_lib.PlannedStage, dataset: Dataset) -> loader.Stream:
  """Returns the stream of batches of a stage; see `make_stream` and, for prompts, `grpo_lib.make_stream`."""
  if stage.grpo is not None:
    return grpo_lib.make_stream(stage, dataset)
  return make_stream(stage.config, dataset)
