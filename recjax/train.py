"""Training: the loop, readable from top to bottom."""

from collections.abc import Iterator
import dataclasses
import json
import logging
import math
import time
from typing import Any

from etils import epath
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax import checkpoint as checkpoint_lib
from recjax import config as config_lib
from recjax import distributed, loss, optim, sharding
from recjax import state as state_lib
from recjax.checkpoint import Checkpoints, Meta
from recjax.data import loader, mixture, packing
from recjax.data.dataset import Dataset
from recjax.evaluate import evaluate, sample_users
from recjax.recommend import Recommender
from recjax.state import TrainState
from recjax.writer import Writer

log = logging.getLogger(__name__)

# What a workdir belongs to: a run with other values here is another run. (What the stream is made of is
# checked against the checkpoints, by fingerprint.)
IDENTITY = ('data', 'sids', 'model')
LOCATIONS = ('raw_dir', 'prepared_dir', 'download', 'download_url')
HOW_TO_COMPUTE = ('compute_dtype', 'remat', 'scan_unroll')


def claim_workdir(config: config_lib.Config, workdir: epath.Path) -> None:
  """Writes the config into a new workdir, or checks that an old one belongs to this config.

  Raises:
    ValueError: the workdir belongs to another config; the message names what differs.
  """
  path = workdir / 'config.json'
  config_dict = json.loads(json.dumps(config.to_dict()))
  if path.exists():
    old = json.loads(path.read_text())
    different = [
      f'{section}.{name} ({old.get(section, {}).get(name)!r} there, {value!r} here)'
      for section in IDENTITY
      for name, value in config_dict[section].items()
      if old.get(section, {}).get(name) != value and name not in LOCATIONS + HOW_TO_COMPUTE
    ]
    if different:
      raise ValueError(
        f'workdir {workdir} belongs to another config; different are {", ".join(different)}. '
        'Give a new --workdir, or set the old values'
      )
  if distributed.is_host0():
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / 'config.json.partial'
    partial.write_text(json.dumps(config_dict, indent=2))
    partial.replace(path)


def make_train_step(
  config: config_lib.Config,
  graph: nnx.GraphDef,
  tx: optax.GradientTransformation,
  text_targets: bool,
):
  """The pure step: (state, batch) -> (state, metrics).

  The batch `[B, T]` is cut into `grad_accumulation` micro-batches whose gradients are summed; the loss is
  a sum divided by the weights of the whole batch, so the cut changes nothing but the dropout masks, whose
  keys fold (seed, step, micro-batch, layer).
  """
  rate = optim.schedule(config.optim, config.num_train_steps)
  micro_batches = config.grad_accumulation

  def micro_sums(params, batch, key):
    model = nnx.merge(graph, params)
    x_BTD = model.hidden(batch, key if config.model.dropout > 0 else None)
    sums = loss.loss_sums(model.tables, x_BTD, batch, config.model.sid_softmax, text_targets)
    return sums.pop('loss'), sums

  def train_step(state: TrainState, batch: dict[str, jax.Array]):
    # Threefry masks are a visible share of a small model's step; XLA's own generator is not.
    key = jax.random.fold_in(jax.random.key(config.seed, impl='rbg'), state.step)
    total_weight = jnp.maximum(jnp.sum(batch['weights']), 1e-6)

    def body(carry, inputs):
      micro, index = inputs
      (nll, sums), gradients = jax.value_and_grad(micro_sums, has_aux=True)(
        state.params, micro, jax.random.fold_in(key, index)
      )
      return jax.tree.map(jnp.add, carry, (nll, sums, gradients)), None

    # Row b goes to micro-batch b mod A, so that every device keeps its own rows.
    micros = jax.tree.map(
      lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch
    )
    if micro_batches == 1:
      (nll, sums), gradients = jax.value_and_grad(micro_sums, has_aux=True)(
        state.params, jax.tree.map(lambda x: x[0], micros), jax.random.fold_in(key, 0)
      )
    else:
      first = jax.tree.map(lambda x: x[0], micros)
      (shape_nll, shape_sums) = jax.eval_shape(micro_sums, state.params, first, key)
      zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (shape_nll, shape_sums, state.params)
      )
      (nll, sums, gradients), _ = jax.lax.scan(body, zeros, (micros, jnp.arange(micro_batches)))
    gradients = jax.tree.map(lambda g: g / total_weight, gradients)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      'loss': nll / total_weight,
      'learning_rate': rate(state.step),
      'grad_norm': optax.global_norm(gradients),
      'tokens': jnp.sum(batch['segments'] > 0),
    }
    for name in [name for name in sums if name.startswith('loss_')]:
      metrics[name] = sums[name] / jnp.maximum(sums[name.replace('loss_', 'weight_')], 1e-6)
    return TrainState(state.step + 1, params, opt_state), metrics

  return train_step


class Progress:
  """What a run prints and writes about its steps; metrics arrive one step late."""

  def __init__(self, config: config_lib.Config, writer: Writer, examples_per_step: int):
    self._config = config
    self._writer = writer
    self._examples = examples_per_step
    self._pending: tuple[int, int, dict[str, Any]] | None = None
    self._window_start, self._window_steps, self._window_tokens = time.monotonic(), 0, 0.0
    self._waited = 0.0

  def waited(self, seconds: float) -> None:
    """Counts time that the step waited for its input."""
    self._waited += seconds

  def restart_clock(self) -> None:
    """Begins a new window of speed: what came before was not training."""
    self._window_start, self._window_steps, self._window_tokens = time.monotonic(), 0, 0.0
    self._waited = 0.0

  def step(self, step: int, examples_seen: int, metrics: dict[str, jax.Array]) -> None:
    """Takes the metrics of a step that was just dispatched, and writes those of the one before."""
    self.flush()
    self._pending = (step, examples_seen, metrics)

  def flush(self) -> None:
    """Waits for the pending step and writes its metrics.

    Raises:
      FloatingPointError: its loss is not finite.
    """
    if self._pending is None:
      return
    step, examples_seen, metrics = self._pending
    self._pending = None
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not math.isfinite(values['loss']) or not math.isfinite(values['grad_norm']):
      raise FloatingPointError(
        f'loss {values["loss"]} with gradient norm {values["grad_norm"]} at step {step}, batch of '
        f'examples {examples_seen} to {examples_seen + self._examples}. The last checkpoint is whole; '
        'look at that batch, or set a lower --config.optim.learning_rate'
      )
    self._window_steps += 1
    self._window_tokens += values['tokens']
    if step % self._config.log_every_steps == 0 or step == self._config.num_train_steps:
      seconds = max(time.monotonic() - self._window_start, 1e-9)
      speed = self._window_steps / seconds
      values |= {
        'steps_per_sec': speed,
        'tokens_per_sec': self._window_tokens / seconds,
        'input_wait_share': self._waited / seconds,
      }
      left = (self._config.num_train_steps - step) / speed
      log.info(
        'step %d/%d  loss %.4f  %.2f steps/s  %s tokens/s  ETA %d:%02d:%02d',
        step,
        self._config.num_train_steps,
        values['loss'],
        speed,
        f'{values["tokens_per_sec"]:,.0f}',
        left // 3600,
        left % 3600 // 60,
        left % 60,
      )
      self.restart_clock()
    self._writer.write(step, values | {'examples_seen': examples_seen + self._examples})


def _patience_is_out(evaluations: list, patience: int) -> bool:
  """Whether the last `patience` evaluations are all no better than the best one before them."""
  scores = [metrics[checkpoint_lib.METRIC] for _, metrics in evaluations]
  return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])


@dataclasses.dataclass
class Run:
  """What training hands to the evaluation of its best checkpoint.

  Attributes:
    params: parameters of the best checkpoint, on the mesh.
    best_step: its step.
    mixture: what was trained on, row by row.
    plan: the sizes of a packing group.
    num_params: how many parameters the model has.
  """

  params: Any
  best_step: int
  mixture: list[dict[str, Any]]
  plan: packing.Plan
  num_params: int


def train(
  config: config_lib.Config,
  workdir: epath.Path,
  dataset: Dataset,
  recommender: Recommender,
  mesh: jax.sharding.Mesh,
) -> Run:
  """Trains until `num_train_steps` or until patience is out; the same call continues a killed run."""
  hosts, host = jax.process_count(), jax.process_index()

  # --- the stream
  mix = mixture.build(config, dataset)
  plan = packing.make_plan(mix, config.packing)
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
  fingerprint = loader.fingerprint(config, dataset, plan)
  for row in mix.describe():
    log.info(
      'mixture: %s %.2f %% of the examples, %d units', row['name'], 100 * row['share'], row['units']
    )
  log.info(
    'packing: %d examples become %d rows of %d tokens; %d examples a step',
    *(plan.examples, plan.rows, plan.row_length, stream.examples_per_batch),
  )

  # --- the state: own checkpoint, then init_from, then scratch
  space = dataset.vocabulary.space
  tx = optim.optimizer(config.optim, config.num_train_steps)
  abstract = state_lib.abstract_state(config, space, tx, mesh)
  log.info('parameters\n%s', sharding.parameter_table(abstract.params, mesh))
  checkpoints = Checkpoints(workdir, config.checkpoint.max_to_keep)
  examples_seen, evaluations = 0, []
  start = checkpoints.latest_step() or 0
  if start:
    meta = checkpoints.meta(start)
    checkpoint_lib.check_code_space(meta, dataset.sids.code_space_hash, checkpoints.folder)
    same = checkpoint_lib.check_stream(
      meta, fingerprint, checkpoints.folder, config.checkpoint.allow_new_stream
    )
    examples_seen = meta.examples_seen if same else 0
    evaluations = [tuple(evaluation) for evaluation in meta.evaluations]
    state = checkpoints.restore(start, abstract)
    log.info('continuing from step %d, %d examples seen', start, examples_seen)
  else:
    state = state_lib.init_state(config, space, tx, mesh)
    params = checkpoint_lib.initial_params(config, abstract.params, dataset.sids.code_space_hash)
    if params is not None:
      state = state._replace(params=params)
      log.info('starting from the parameters of %s', config.checkpoint.init_from)

  # --- the loop
  train_step = jax.jit(
    make_train_step(config, state_lib.graph(config, space), tx, mix.has_text_targets),
    donate_argnums=0,
    out_shardings=(jax.tree.map(lambda x: x.sharding, abstract), sharding.replicated(mesh)),
  )
  sample = sample_users(dataset.num_users, config.eval.eval_users, config.seed)
  steps = config.num_train_steps - start
  batches = stream.batches(examples_seen, steps, host, hosts, config.loader)
  with Writer(workdir, start, enabled=distributed.is_host0()) as writer:
    progress = Progress(config, writer, stream.examples_per_batch)
    for step in range(start + 1, config.num_train_steps + 1):
      if _patience_is_out(evaluations, config.eval.patience):
        log.info(
          'stopping: no better %s for %d evaluations', checkpoint_lib.METRIC, config.eval.patience
        )
        break
      batch = _next_batch(batches, progress, mesh)
      with jax.set_mesh(mesh):
        state, metrics = train_step(state, batch)
      progress.step(step, examples_seen, metrics)
      examples_seen += stream.examples_per_batch
      last = step == config.num_train_steps
      is_evaluated = last or step % config.eval_every_steps == 0
      if is_evaluated or step % config.checkpoint_every_steps == 0:
        progress.flush()  # a checkpoint never holds parameters whose loss was not looked at
        results = None
        if is_evaluated:
          results = evaluate(
            recommender, state.params, dataset, 'validation', config.eval.ks, sample
          )
          log.info('step %d  validation %s', step, _headline(results))
          evaluations = [*evaluations, (step, results)]
          writer.write_evaluation(step, results)
        meta = Meta(
          examples_seen, fingerprint, dataset.sids.code_space_hash, evaluations, config.to_dict()
        )
        checkpoints.save(step, state, meta, results)
        progress.restart_clock()
  checkpoints.wait()
  best_step = checkpoints.best_step()
  params = checkpoints.restore_params(best_step, abstract.params)
  checkpoints.close()
  num_params = sum(x.size for x in jax.tree.leaves(abstract.params))
  return Run(params, best_step, mix.describe(), plan, num_params)


def _next_batch(
  batches: Iterator[dict[str, np.ndarray]], progress: Progress, mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
  start = time.monotonic()
  rows = next(batches)
  batch = sharding.host_rows({name: rows[name] for name in loader.MODEL_ARRAYS}, mesh)
  progress.waited(time.monotonic() - start)
  return batch


def _headline(results: dict[str, float]) -> str:
  return '  '.join(
    f'{name} {results[name]:.4f} ± {results[name + "_stderr"]:.4f}'
    for name in ('recall@5', 'recall@10', 'ndcg@10')
  )
