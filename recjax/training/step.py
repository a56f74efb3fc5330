"""The training step, a pure function of state and batch."""

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from recjax import models
from recjax.models import lora
from recjax.schema.run import Training
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import item_head, loss, optim
from recjax.training.accumulation import micro_batches, summed_gradients
from recjax.training.state import TrainState


def make_train_step(
  config: Training,
  graph: nnx.GraphDef,
  tx: optax.GradientTransformation,
  text_targets: bool,
):
  """Returns the pure step: (state, batch) -> (state, metrics).

  The batch `[B, T]` is split into `grad_accumulation` micro-batches whose gradients are summed. The loss is
  a weighted sum divided by the number of learnt targets of the full batch. So the split changes only the
  dropout masks, whose keys fold in step, micro-batch and layer. Frozen parameters stay unchanged.

  Args:
    config: config of the training.
    graph: structure of the model (`models.graph`).
    tx: the optimizer.
    text_targets: whether the stream has text targets.
  """
  rate = optim.schedule(config.optim, config.num_train_steps)

  def micro_sums(trained, frozen, batch, key):
    model = lora.adapted(graph, optim.join(trained, frozen), config.model.lora_alpha)
    x_BTD, h_BTD = models.hidden(model, batch, key if config.model.dropout > 0 else None)
    sums = loss.loss_sums(
      model.tables, x_BTD, batch, config.model.sid_softmax, text_targets, config.loss
    )
    if config.model.item_head:
      drawn = jax.random.fold_in(key, 1)
      sums |= item_head.item_head_sums(model.tables, h_BTD, batch, config.loss, drawn)
      sums['loss'] += config.loss.item_head * sums['loss_item_head']
    return sums.pop('loss'), sums

  def train_step(state: TrainState, batch: dict[str, jax.Array]):
    # Threefry would take a visible share of a small model's step; XLA's own generator does not.
    key = jax.random.fold_in(jax.random.key(config.seed, impl='rbg'), state.step)
    # The number of learnt targets: a component's loss_weight scales its own loss alone.
    num_targets = jnp.maximum(jnp.sum(batch['learnt']), 1).astype(jnp.float32)
    trained, frozen = optim.split(state.params, config.optim)

    micros = micro_batches(batch, config.grad_accumulation)
    (nll, sums), gradients = summed_gradients(micro_sums, trained, frozen, micros, key)
    gradients = jax.tree.map(lambda g: g / num_targets, gradients)
    updates, opt_state = tx.update(gradients, state.opt_state, trained)
    params = optim.join(optax.apply_updates(trained, updates), frozen)
    all_segments = [batch[n] for n in ('segments', 'encoder_segments') if n in batch]
    metrics = {
      'loss': nll / num_targets,
      'learning_rate': rate(state.step),
      'grad_norm': optax.tree.norm(gradients),
      'tokens': sum(jnp.sum(segments > 0) for segments in all_segments),
      'tokens_dropped': jnp.sum(batch['dropped']),
    }
    for name in [name for name in sums if name.startswith('loss_')]:
      metrics[name] = sums[name] / jnp.maximum(sums[name.replace('loss_', 'weight_')], 1e-6)
    return TrainState(state.step + 1, params, opt_state), metrics

  return train_step


def jit_train_step(
  config: Training,
  space: TokenSpace,
  tx: optax.GradientTransformation,
  text_targets: bool,
  abstract: TrainState,
  mesh: jax.sharding.Mesh,
):
  """Returns the jitted step: the state is donated and keeps its shardings.

  Args:
    config: config of the training.
    space: the token ids.
    tx: the optimizer.
    text_targets: whether the stream has text targets.
    abstract: ShapeDtypeStructs of the state, with their shardings.
    mesh: mesh of the shardings; set it (`jax.set_mesh`) around calls.
  """
  shardings = jax.tree.map(lambda x: x.sharding, abstract)
  return jax.jit(
    make_train_step(config, models.graph(config.model, space), tx, text_targets),
    donate_argnums=0,
    out_shardings=(shardings, mesh_lib.replicated(mesh)),
  )
