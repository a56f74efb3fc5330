"""Training: the loop, readable from top to bottom."""

import collections
from collections.abc import Iterator
import contextlib
import dataclasses
import logging
from typing import Any

from etils import epath
import jax
import numpy as np
import optax

from recjax import config as config_lib
from recjax import models
from recjax.data import loader
from recjax.data import mixture as mixture_lib
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.evaluate import evaluate, headline, sample_rows
from recjax.models import lora
from recjax.recommend import Recommender
from recjax.runtime import distributed, goodput, preemption, watchdog
from recjax.runtime.profile import Profiler
from recjax.schema.checks import check
from recjax.schema.run import Hosts
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import table as parameter_table
from recjax.training import optim, start
from recjax.training import state as state_lib
from recjax.training.progress import Progress
from recjax.training.state import TrainState
from recjax.training.step import jit_train_step
from recjax.workdir import checkpoints as checkpoints_lib
from recjax.workdir import identity
from recjax.workdir import stages as stages_lib
from recjax.workdir.checkpoints import Checkpoints, Meta
from recjax.workdir.metrics_file import Writer

log = logging.getLogger(__name__)


def _patience_is_out(evaluations: list, patience: int) -> bool:
  """Whether the last `patience` evaluations are all no better than the best one before them."""
  scores = [metrics[checkpoints_lib.METRIC] for _, metrics in evaluations]
  is_out = 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])
  if is_out:
    log.info('stopping: no better %s for %d evaluations', checkpoints_lib.METRIC, patience)
  return is_out


@dataclasses.dataclass
class _Place:
  """Where a training stands: what a checkpoint holds of it.

  Attributes:
    step: steps that are done.
    state: after them.
    examples_seen: the position in the stream.
    evaluations: step and metrics of every evaluation so far.
  """

  step: int
  state: TrainState
  examples_seen: int = 0
  evaluations: list[tuple[int, dict[str, float]]] = dataclasses.field(default_factory=list)


def train(
  config: config_lib.Config,
  workdir: epath.Path,
  dataset: Dataset,
  recommender: Recommender,
  mesh: jax.sharding.Mesh,
  run: config_lib.Config | None = None,
) -> tuple[Any, int]:
  """Trains until `num_train_steps` or until patience is out; the same call continues a killed run.

  Args:
    config: of the training.
    workdir: of the training.
    dataset: the prepared data.
    recommender: the search.
    mesh: the devices.
    run: what the workdir is claimed for: the whole run, where this is a stage of it; None: the config.

  Returns:
    The parameters of the best checkpoint, on the mesh, and its step.
  """
  limits, (host, hosts) = config.hosts, mesh_lib.host_part(mesh)
  stream = _stream(config, dataset, mesh)
  fingerprint = loader.fingerprint(stream, config.mixing)
  space, tx = dataset.vocabulary.space, optim.optimizer(config.optim, config.num_train_steps)
  abstract = state_lib.abstract_state(config.model, space, tx, mesh)
  rules = models.family(config.model).parameter_rules
  table = parameter_table.describe(abstract.params, mesh, abstract.opt_state, rules)
  log.info('parameters\n%s', table)
  log.info('%s', optim.describe(abstract.params, config.optim))

  with Checkpoints(workdir, config.checkpoint.max_to_keep) as checkpoints:
    latest = checkpoints.latest_step()
    if latest is None:
      place = _Place(0, _initial_state(config, dataset, tx, mesh, abstract))
    else:
      place = _restored(config, dataset, checkpoints, latest, abstract, fingerprint)
    here = {'step': place.step, 'examples_seen': place.examples_seen, 'stream': fingerprint}
    distributed.check_same('place in the training', here | {'evaluations': place.evaluations})
    # Nothing was written before, so bad input leaves no workdir.
    identity.claim(run or config, workdir)

    steps = range(place.step + 1, config.num_train_steps + 1)
    parts = stream.batches(place.examples_seen, len(steps), host, hosts, config.loader)
    batches = _on_devices(parts, config.loader.device_buffer, mesh)
    train_step = jit_train_step(config, space, tx, stream.mixture.text_targets, abstract, mesh)
    with (
      preemption.Watch() as watch,
      Writer(workdir, place.step, enabled=distributed.is_host0()) as writer,
      Profiler(config.profile, workdir) as profiler,
      goodput.phase('steps'),
    ):
      goodput.training(workdir, place.step)
      progress = Progress(config, writer, stream.examples_per_batch)
      if _is_to_evaluate(config, place):  # a preemption came before
        results = _validate(config, dataset, recommender, place, writer)
        if results is None:
          raise preemption.Preempted
        checkpoints.score(place.step, results)
      for step in watchdog.watched(steps, limits.phase_timeout, limits.step_timeout):
        if _patience_is_out(place.evaluations, config.eval.patience):
          break
        with profiler.step(step, progress.flush):
          with goodput.phase('input_wait'):
            batch = next(batches)
          with jax.set_mesh(mesh):
            place.state, metrics = train_step(place.state, batch)
          progress.step(step, place.examples_seen, metrics)
        place.step, place.examples_seen = step, place.examples_seen + stream.examples_per_batch
        checkpoints.check()
        is_preempted, is_evaluated = watch.reached(), _is_to_evaluate(config, place)
        if is_evaluated or is_preempted or step % config.checkpoint_every_steps == 0:
          progress.flush()  # a checkpoint never holds parameters whose loss was not looked at
          results = None
          if is_evaluated and not is_preempted:
            results = _validate(config, dataset, recommender, place, writer)
            is_preempted = results is None
          writer.flush()  # so that no checkpoint is newer than the metrics
          meta = _meta(config, dataset, place, fingerprint)
          with _checkpointing(f'saving step {step}', limits):
            checkpoints.save(step, place.state.to_saved(), meta, results)
          goodput.write()
        if is_preempted:
          with _checkpointing(f'saving step {step}', limits):
            checkpoints.wait()
          log.info('preempted: step %d is saved, and the same command continues there', step)
          raise preemption.Preempted
      with _checkpointing('saving the last checkpoint', limits):
        checkpoints.wait()
    with _checkpointing('restoring the best checkpoint', limits):
      best_step = checkpoints.best_step()
      return checkpoints.restore_params(best_step, abstract.params), best_step


def train_stages(
  config: config_lib.Config,
  workdir: epath.Path,
  dataset: Dataset,
  recommender: Recommender,
  mesh: jax.sharding.Mesh,
) -> tuple[Any, int]:
  """Trains every stage that is not finished; see `train`.

  Returns:
    The parameters of the last stage's best checkpoint, on the mesh, and its step.

  Raises:
    ValueError: before any stage is trained, where a group of one of them names no parameter.
  """
  stages = stages_lib.plan(config, workdir)
  for name, stage_config, _ in stages:
    tx = optim.optimizer(stage_config.optim, stage_config.num_train_steps)
    try:
      state_lib.abstract_state(stage_config.model, dataset.vocabulary.space, tx, mesh)
    except ValueError as error:
      raise ValueError(f'stage {name}: {error}' if name else str(error)) from error
  identity.check_run(config, workdir)
  for name, stage_config, folder in stages[_first_to_do(stages) :]:
    if name:
      log.info('stage %s, %d steps', name, stage_config.num_train_steps)
    run = config if folder == workdir else None
    best = train(stage_config, folder, dataset, recommender, mesh, run)
  return best


def _first_to_do(stages: list[tuple[str, config_lib.Config, epath.Path]]) -> int:
  """The latest stage that has begun: what is before it is finished, and need not be there any more."""
  for n in range(len(stages) - 1, 0, -1):
    with Checkpoints(stages[n][2], read_only=True) as checkpoints:
      if checkpoints.steps:
        return n
  return 0


def make_mixture(config: config_lib.Config, dataset: Dataset) -> mixture_lib.Mixture:
  """The mixture of one training over its data.

  Raises:
    ValueError: the mixture does not fit the data.
  """
  corpus = Corpus(dataset, models.family(config.model).is_encoder_decoder)
  return mixture_lib.build(config.active_mixture, config.mixing, corpus, config.seed)


def make_stream(config: config_lib.Config, dataset: Dataset) -> loader.Stream:
  """The stream of batches of one training.

  Raises:
    ValueError: the mixture does not fit the data, or the rows do not fit its examples.
  """
  mixture, start_id = make_mixture(config, dataset), models.start_id(config.model)
  return loader.make_stream(mixture, config.packing, config.batch_size, start_id)


def _stream(config: config_lib.Config, dataset: Dataset, mesh: jax.sharding.Mesh) -> loader.Stream:
  """The stream of examples, once it is clear that its batches can be cut for the mesh."""
  parts = mesh_lib.host_part(mesh)[1]
  pieces = mesh_lib.batch_shards(mesh) * config.grad_accumulation
  loader.check_batch(config.batch_size, config.packing.rows, parts, pieces)
  stream = make_stream(config, dataset)
  log.info('mixture\n%s', mixture_lib.format_table(stream.mixture.table()))
  log.info(
    'packing: %d examples become %d rows of %d tokens; %d examples a step',
    *(stream.plan.examples, stream.plan.rows, stream.plan.row_length, stream.examples_per_batch),
  )
  return stream


def _restored(
  config: config_lib.Config,
  dataset: Dataset,
  checkpoints: Checkpoints,
  step: int,
  abstract: TrainState,
  fingerprint: dict[str, str],
) -> _Place:
  """The place that a checkpoint of this workdir holds.

  Raises:
    ValueError: it is of a later step than the last, or belongs to other tokens, another optimizer or another
      stream.
  """
  check(
    step <= config.num_train_steps,
    f'num_train_steps must not be less than the {step} steps that {checkpoints.folder} holds',
    config.num_train_steps,
    'num_train_steps, or give a new --workdir',
  )
  meta = checkpoints.meta(step)
  identity.check_tokens(meta, dataset, checkpoints.folder)
  identity.check_optimizer(meta, config.optim, checkpoints.folder)
  allow_new = config.checkpoint.allow_new_stream
  same = identity.check_stream(meta, fingerprint, checkpoints.folder, allow_new)
  with watchdog.expect('restoring the checkpoint', config.hosts.phase_timeout):
    state = TrainState.from_saved(checkpoints.restore(step, abstract.to_saved()))
  examples_seen = meta.examples_seen if same else 0
  log.info('continuing from step %d, %d examples seen', step, examples_seen)
  return _Place(step, state, examples_seen, [tuple(e) for e in meta.evaluations])


def _initial_state(
  config: config_lib.Config,
  dataset: Dataset,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  abstract: TrainState,
) -> TrainState:
  """The state of step 0: with the parameters of `init_from`, else the pretrained ones, else fresh ones."""
  state = state_lib.init_state(config.model, dataset.vocabulary.space, tx, mesh, config.seed)
  params = start.initial_params(config.checkpoint, config.model, abstract.params, dataset)
  if params is not None:
    log.info('starting from the parameters of %s', config.checkpoint.init_from)
  elif config.model.pretrained is not None:
    params = start.pretrained_params(config.model, lora.base(state.params), dataset)
  else:
    return state
  return state._replace(params=state.params | params)  # fresh adapters, where it had none


def _is_to_evaluate(config: config_lib.Config, place: _Place) -> bool:
  is_due = place.step == config.num_train_steps or place.step % config.eval_every_steps == 0
  return place.step > 0 and is_due and all(step != place.step for step, _ in place.evaluations)


def _validate(
  config: config_lib.Config,
  dataset: Dataset,
  recommender: Recommender,
  place: _Place,
  writer: Writer,
) -> dict[str, float] | None:
  """Metrics of the sample of validation rows; None where the machine is taken away meanwhile."""
  sample = sample_rows(dataset.num_rows('validation'), config.eval.eval_users, config.seed)
  params = optim.averaged_params(place.state)
  try:
    results = evaluate(recommender, params, dataset, 'validation', config.eval.ks, sample)
  except preemption.Preempted:
    log.info('the evaluation of step %d is left to the restart', place.step)
    return None
  results = distributed.from_host0('validation', results)
  log.info('step %d  validation %s', place.step, headline(results))
  place.evaluations = [*place.evaluations, (place.step, results)]
  writer.write_evaluation(place.step, results)
  return results


def _meta(
  config: config_lib.Config, dataset: Dataset, place: _Place, fingerprint: dict[str, str]
) -> Meta:
  code_space = dataset.sids.code_space_hash
  return Meta(place.examples_seen, fingerprint, code_space, place.evaluations, config.to_dict())


@contextlib.contextmanager
def _checkpointing(what: str, limits: Hosts) -> Iterator[None]:
  """Time that goes into a checkpoint, and must end."""
  with watchdog.expect(what, limits.phase_timeout), goodput.phase('checkpoint'):
    yield


def _on_devices(
  batches: Iterator[dict[str, np.ndarray]], ahead: int, mesh: jax.sharding.Mesh
) -> Iterator[dict[str, jax.Array]]:
  """Global batches on the mesh; so many are on their way before they are asked for."""
  queue = collections.deque()
  for batch in batches:
    queue.append(mesh_lib.host_rows(batch, mesh))
    if len(queue) > ahead:
      yield queue.popleft()
  yield from queue
