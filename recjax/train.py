"""Training: the loop, readable from top to bottom."""

import collections
from collections.abc import Iterator
import json
import logging
from typing import Any

from etils import epath
import jax
import numpy as np

from recjax import checkpoint as checkpoint_lib
from recjax import config as config_lib
from recjax import (
  distributed,
  goodput,
  lora,
  optim,
  parameter_table,
  preemption,
  sharding,
  warm_start,
  watchdog,
)
from recjax import state as state_lib
from recjax.checkpoint import Checkpoints, Meta
from recjax.data import loader, mixture, packing
from recjax.data.dataset import Dataset
from recjax.evaluate import evaluate, sample_rows
from recjax.profile import Profiler
from recjax.progress import Progress
from recjax.recommend import Recommender
from recjax.train_step import make_train_step
from recjax.writer import Writer

log = logging.getLogger(__name__)

# What a workdir belongs to: a run with other values here is another run. (What the stream is made of is
# checked against the checkpoints, by fingerprint.)
IDENTITY = ('data', 'sids', 'model')
LOCATIONS = ('raw_dir', 'prepared_dir', 'download', 'download_url', 'table', 'extend')
HOW_TO_COMPUTE = ('compute_dtype', 'remat', 'scan_unroll')


def check_workdir(config: config_lib.Config, workdir: epath.Path) -> None:
  """Raises a ValueError that names what differs, where a workdir belongs to another config."""
  path = workdir / 'config.json'
  if not path.exists():
    return
  old = json.loads(path.read_text())
  different = [
    f'{section}.{name} ({old.get(section, {}).get(name)!r} there, {value!r} here)'
    for section in IDENTITY
    for name, value in json.loads(json.dumps(config.to_dict()[section])).items()
    if old.get(section, {}).get(name) != value and name not in LOCATIONS + HOW_TO_COMPUTE
  ]
  if different:
    raise ValueError(
      f'workdir {workdir} belongs to another config; different are {", ".join(different)}. '
      'Give a new --workdir, or set the old values'
    )


def _claim_workdir(config: config_lib.Config, workdir: epath.Path) -> None:
  """Writes the config into the workdir; from now on it belongs to this config."""
  check_workdir(config, workdir)
  if distributed.is_host0():
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / 'config.json.partial'
    partial.write_text(json.dumps(config.to_dict(), indent=2))
    partial.replace(workdir / 'config.json')


def _patience_is_out(evaluations: list, patience: int) -> bool:
  """Whether the last `patience` evaluations are all no better than the best one before them."""
  scores = [metrics[checkpoint_lib.METRIC] for _, metrics in evaluations]
  return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])


def train(
  config: config_lib.Config,
  workdir: epath.Path,
  dataset: Dataset,
  recommender: Recommender,
  mesh: jax.sharding.Mesh,
) -> tuple[Any, int]:
  """Trains until `num_train_steps` or until patience is out; the same call continues a killed run.

  Returns:
    The parameters of the best checkpoint, on the mesh, and its step.
  """
  (host, hosts), limits = sharding.host_part(mesh), config.hosts

  # --- the stream
  mix = mixture.build(config, dataset)
  plan = packing.make_plan(mix, config.packing, config.model.is_encoder_decoder)
  groups = config.batch_size // plan.rows
  loader.check_hosts(groups, hosts, plan.rows)
  shards = sharding.batch_shards(mesh) * config.grad_accumulation
  config_lib.check(
    config.batch_size % shards == 0,
    f'batch_size must be a multiple of the batch shards x grad_accumulation ({shards})',
    config.batch_size,
    'batch_size',
  )
  stream = loader.Stream(mix, plan, groups)
  fingerprint = loader.fingerprint(config, dataset, stream)
  log.info('mixture\n%s', mixture.format_table(mix.table()))
  log.info(
    'packing: %d examples become %d rows of %d tokens; %d examples a step',
    *(plan.examples, plan.rows, plan.row_length, stream.examples_per_batch),
  )

  # --- the state: own checkpoint, then init_from, then pretrained weights, then scratch
  space = dataset.vocabulary.space
  tx = optim.optimizer(config.optim, config.num_train_steps)
  abstract = state_lib.abstract_state(config, space, tx, mesh)
  table = parameter_table.describe(abstract.params, mesh, abstract.opt_state)
  log.info('parameters\n%s', table)
  log.info('%s', optim.describe(abstract.params, config.optim))
  _claim_workdir(config, workdir)  # nothing was written before, so bad input leaves no workdir
  with Checkpoints(workdir, config.checkpoint.max_to_keep) as checkpoints:
    examples_seen, evaluations = 0, []
    start = checkpoints.latest_step() or 0
    if start:
      meta = checkpoints.meta(start)
      checkpoint_lib.check_tokens(meta, dataset, checkpoints.folder)
      checkpoint_lib.check_optimizer(meta, config.optim, checkpoints.folder)
      same = checkpoint_lib.check_stream(
        meta, fingerprint, checkpoints.folder, config.checkpoint.allow_new_stream
      )
      examples_seen = meta.examples_seen if same else 0
      evaluations = [tuple(evaluation) for evaluation in meta.evaluations]
      with watchdog.expect('restoring the checkpoint', limits.phase_timeout):
        state = checkpoints.restore(start, abstract)
      log.info('continuing from step %d, %d examples seen', start, examples_seen)
    else:
      state = state_lib.init_state(config, space, tx, mesh)
      params = checkpoint_lib.initial_params(config, abstract.params, dataset)
      if params is not None:
        state = state._replace(params=state.params | params)  # fresh adapters, where it had none
        log.info('starting from the parameters of %s', config.checkpoint.init_from)
      elif config.model.pretrained is not None:
        params = warm_start.pretrained_params(config, lora.base(state.params), dataset)
        state = state._replace(params=state.params | params)

    here = {'step': start, 'examples_seen': examples_seen, 'evaluations': evaluations}
    distributed.check_same('place in the training', here | {'stream': fingerprint})

    # --- the loop
    train_step = jax.jit(
      make_train_step(config, state_lib.graph(config, space), tx, mix.text_targets),
      donate_argnums=0,
      out_shardings=(jax.tree.map(lambda x: x.sharding, abstract), sharding.replicated(mesh)),
    )
    sample = sample_rows(dataset.num_rows('validation'), config.eval.eval_users, config.seed)
    steps = config.num_train_steps - start
    batches = _on_devices(
      stream.batches(examples_seen, steps, host, hosts, config.loader),
      config.loader.device_buffer,
      mesh,
    )
    with (
      preemption.Watch() as watch,
      Writer(workdir, start, enabled=distributed.is_host0()) as writer,
      Profiler(config.profile, workdir) as profiler,
      goodput.phase('steps'),
    ):
      goodput.training(workdir, start)
      progress = Progress(config, writer, stream.examples_per_batch)
      numbers = range(start + 1, config.num_train_steps + 1)
      for step in watchdog.watched(numbers, limits.phase_timeout, limits.step_timeout):
        if _patience_is_out(evaluations, config.eval.patience):
          log.info(
            'stopping: no better %s for %d evaluations', checkpoint_lib.METRIC, config.eval.patience
          )
          break
        with profiler.step(step, progress.flush):
          with goodput.phase('input_wait'):
            batch = next(batches)
          with jax.set_mesh(mesh):
            state, metrics = train_step(state, batch)
          progress.step(step, examples_seen, metrics)
        examples_seen += stream.examples_per_batch
        checkpoints.check()
        is_preempted = watch.reached()
        last = step == config.num_train_steps
        is_evaluated = last or step % config.eval_every_steps == 0
        if is_evaluated or is_preempted or step % config.checkpoint_every_steps == 0:
          progress.flush()  # a checkpoint never holds parameters whose loss was not looked at
          results = None
          if is_evaluated:
            params = optim.averaged_params(state)
            results = evaluate(recommender, params, dataset, 'validation', config.eval.ks, sample)
            results = distributed.from_host0('validation', results)
            log.info('step %d  validation %s', step, _headline(results))
            evaluations = [*evaluations, (step, results)]
            writer.write_evaluation(step, results)
          writer.flush()
          meta = Meta(
            examples_seen, fingerprint, dataset.sids.code_space_hash, evaluations, config.to_dict()
          )
          saving = watchdog.expect(f'saving step {step}', limits.phase_timeout)
          with saving, goodput.phase('checkpoint'):
            checkpoints.save(step, state, meta, results)
          goodput.write()
        if is_preempted:
          saving = watchdog.expect(f'saving step {step}', limits.phase_timeout)
          with saving, goodput.phase('checkpoint'):
            checkpoints.wait()
          log.info('preempted: step %d is saved, and the same command continues there', step)
          raise preemption.Preempted
      saving = watchdog.expect('saving the last checkpoint', limits.phase_timeout)
      with saving, goodput.phase('checkpoint'):
        checkpoints.wait()
    best_step = checkpoints.best_step()
    restoring = watchdog.expect('restoring the best checkpoint', limits.phase_timeout)
    with restoring, goodput.phase('checkpoint'):
      params = checkpoints.restore_params(best_step, abstract.params)
    return params, best_step


def _on_devices(
  batches: Iterator[dict[str, np.ndarray]], ahead: int, mesh: jax.sharding.Mesh
) -> Iterator[dict[str, jax.Array]]:
  """Global batches on the mesh; so many are on their way before they are asked for."""
  queue = collections.deque()
  for batch in batches:
    queue.append(sharding.host_rows(batch, mesh))
    if len(queue) > ahead:
      yield queue.popleft()
  yield from queue


def _headline(results: dict[str, float]) -> str:
  return '  '.join(
    f'{name} {results[name]:.4f} ± {results[name + "_stderr"]:.4f}'
    for name in ('recall@5', 'recall@10', 'ndcg@10')
  )
