"""The step of a stage of kind grpo: groups, rewards, advantages and updates, in one jitted function."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from recjax import models
from recjax.models import lora
from recjax.schema.grpo import Grpo
from recjax.schema.run import Training
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import optim
from recjax.training.accumulation import micro_batches, summed_gradients
from recjax.training.grpo import loss, rewards
from recjax.training.grpo.groups import Catalogue, code_log_probs, make_groups
from recjax.training.state import TrainState

# (parameters of the teacher, batch, choices `[B, M]`) → their log-probabilities, float32 `[B, M]`.
Teacher = Callable[[Any, dict[str, jax.Array], jax.Array], jax.Array]


class Fixed(NamedTuple):
  """What a stage reads in every step and never changes, on the devices.

  Attributes:
    catalogue: the choices of the search.
    reference: trained parameters that the stage began with. None: `grpo.kl` is 0.
    teacher: parameters of the teacher. None: there is none.
  """

  catalogue: Catalogue
  reference: Any = None
  teacher: Any = None


class Groups(NamedTuple):
  """Groups of items with their advantages, arrays `[B, M, …]`.

  Attributes:
    codes_BML: int32.
    is_real_BM: bool, False where the search found fewer items.
    advantages_BM: float32.
    old_BML: float32, log-probabilities of the codes when the groups were made. None: those of now.
    reference_BML: float32, those of the reference. None: there is none.
  """

  codes_BML: jax.Array
  is_real_BM: jax.Array
  advantages_BM: jax.Array
  old_BML: jax.Array | None
  reference_BML: jax.Array | None


def optimizer(config: Training, updates: int) -> optax.GradientTransformation:
  """Returns the optimizer of a stage whose steps have several updates each; its schedule is in steps."""
  stretched = dataclasses.replace(config.optim, warmup_steps=config.optim.warmup_steps * updates)
  return optim.optimizer(stretched, config.num_train_steps * updates)


@dataclasses.dataclass(frozen=True, eq=False)  # JAX hashes its methods
class Step:
  """The pure step: (state, fixed, batch) → (state, metrics).

  The groups are made without dropout by the current parameters, and so is the loss. The mean over prompts, items and
  codes is the loss; so the number of devices and of micro-batches changes nothing.

  Attributes:
    config: config of the training.
    settings: the section of the stage.
    graph: structure of the model (`models.graph`).
    tx: the optimizer; see `optimizer`.
    teacher: scores choices; with `rewards.teacher`.
  """

  config: Training
  settings: Grpo
  graph: nnx.GraphDef
  tx: optax.GradientTransformation
  teacher: Teacher | None = None

  def __call__(
    self, state: TrainState, fixed: Fixed, batch: dict[str, jax.Array]
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    config, B = self.config, len(batch['target'])
    trained, frozen = optim.split(state.params, config.optim)
    # Threefry: the draws of a prompt must not depend on the devices.
    key = jax.random.fold_in(jax.random.key(config.seed, impl='threefry2x32'), state.step)
    micros = micro_batches(batch | {'row': jnp.arange(B)}, config.grad_accumulation)
    groups, measured = self._all_groups(trained, frozen, fixed, micros, key)
    trained, opt_state, sums = self._updated(
      (trained, state.opt_state), frozen, (micros, groups), key, B
    )
    means = jax.tree.map(lambda x: jnp.mean(x) / B, sums)
    metrics = means | jax.tree.map(lambda x: jnp.sum(x) / B, measured)
    metrics |= {
      'learning_rate': optim.schedule(config.optim, config.num_train_steps)(state.step),
      'tokens': jnp.sum(batch['lengths']) + groups.codes_BML.size,
      'tokens_dropped': jnp.sum(batch['dropped']),
    }
    params = optim.join(trained, frozen)
    return TrainState(state.step + 1, params, opt_state), metrics

  def _model(self, trained, frozen):
    return lora.adapted(self.graph, optim.join(trained, frozen), self.config.model.lora_alpha)

  def _all_groups(self, trained, frozen, fixed: Fixed, micros, key):
    """Returns what `_groups` returns for every micro-batch, stacked."""

    def body(micro):
      return self._groups(trained, frozen, fixed, micro, key)

    if self.config.grad_accumulation == 1:
      return jax.tree.map(lambda x: x[None], body(jax.tree.map(lambda x: x[0], micros)))
    return jax.lax.map(body, micros)

  def _groups(
    self, trained, frozen, fixed: Fixed, micro, key
  ) -> tuple[Groups, dict[str, jax.Array]]:
    """Makes groups, and sums what is measured of them over the prompts."""
    settings, softmax = self.settings, self.config.model.sid_softmax
    model = self._model(trained, frozen)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, micro['row'])
    choices_BM, scores_BM = make_groups(model, fixed.catalogue, micro, settings, softmax, keys_B)
    is_real_BM = choices_BM >= 0
    codes_BML = jnp.take(fixed.catalogue.codes_SL, jnp.maximum(choices_BM, 0), axis=0)
    target_BL = jnp.take(fixed.catalogue.codes_SL, micro['target'], axis=0)
    teacher_BM = None
    if settings.rewards.teacher > 0:
      teacher_BM = self.teacher(fixed.teacher, micro, jnp.maximum(choices_BM, 0))
    depths_BM = rewards.depths(codes_BML, target_BL)
    ranks_BM = jnp.argsort(jnp.argsort(-scores_BM, axis=1, stable=True), axis=1)
    parts = rewards.parts(depths_BM, ranks_BM, is_real_BM, codes_BML.shape[-1], teacher_BM)
    total_BM = rewards.total(parts, settings.rewards)
    advantages_BM = rewards.advantages(total_BM, is_real_BM, settings.scale_by_std)
    old_BML = reference_BML = None
    if settings.updates > 1:
      old_BML = code_log_probs(model, micro, codes_BML, softmax)
    if fixed.reference is not None:
      reference = self._model(fixed.reference, frozen)
      reference_BML = code_log_probs(reference, micro, codes_BML, softmax)
    groups = Groups(codes_BML, is_real_BM, advantages_BM, old_BML, reference_BML)
    return groups, _measured(settings, choices_BM, scores_BM, depths_BM, parts, total_BM, groups)

  def _micro_sums(self, trained, frozen, micro, key):
    """Returns the sum of the loss over the prompts of a micro-batch, and of what is measured of it."""
    del key
    batch, groups = micro
    model, softmax = self._model(trained, frozen), self.config.model.sid_softmax
    now_BML = code_log_probs(model, batch, groups.codes_BML, softmax)
    old_BML = jax.lax.stop_gradient(now_BML) if groups.old_BML is None else groups.old_BML
    losses_BML, measured = loss.token_losses(
      now_BML, old_BML, groups.reference_BML, groups.advantages_BM, self.settings
    )
    _, M, L = losses_BML.shape
    real_BM1 = groups.is_real_BM[..., None] / (M * L)
    sums = {name: jnp.sum(values * real_BM1) for name, values in measured.items()}
    return jnp.sum(losses_BML * real_BM1), sums

  def _updated(self, carry, frozen, micros, key, B: int):
    """Returns (parameters, optimizer state) after all updates on B prompts, and the sums of every update."""

    def update(carry, _):
      trained, opt_state = carry
      (total, sums), gradients = summed_gradients(self._micro_sums, trained, frozen, micros, key)
      gradients = jax.tree.map(lambda g: g / B, gradients)
      updates, opt_state = self.tx.update(gradients, opt_state, trained)
      sums |= {'loss': total, 'grad_norm': B * optax.tree.norm(gradients)}
      return (optax.apply_updates(trained, updates), opt_state), sums

    if self.settings.updates == 1:
      carry, sums = update(carry, None)
    else:
      carry, sums = jax.lax.scan(update, carry, None, length=self.settings.updates)
    return *carry, sums


def _measured(
  settings: Grpo, choices_BM, scores_BM, depths_BM, parts, total_BM, groups: Groups
) -> dict[str, jax.Array]:
  """Returns sums over the prompts of what is measured of their groups; see docs/grpo.md."""
  M, L = groups.codes_BML.shape[1:]
  real_BM = groups.is_real_BM.astype(jnp.float32)
  share_BM = real_BM / jnp.maximum(jnp.sum(real_BM, axis=1, keepdims=True), 1.0)
  if settings.samples == 'beams':  # the policy within the group
    policy_BM = jax.nn.softmax(jnp.where(groups.is_real_BM, scores_BM, -jnp.inf), axis=1)
    policy_BM = jnp.where(groups.is_real_BM, policy_BM, 0.0)
  else:
    policy_BM = share_BM
  sorted_BM = jnp.sort(jnp.where(groups.is_real_BM, choices_BM, -1), axis=1)
  is_first_BM = (jnp.diff(sorted_BM, axis=1, prepend=-1) > 0) & (sorted_BM >= 0)
  found = {
    'reward': total_BM * share_BM,
    'reward_expected': total_BM * policy_BM,
    'unique': is_first_BM / M,
    **{f'reward_{name}': values * share_BM for name, values in parts.items()},
    **{f'reward_level_{n}': (depths_BM >= n) * share_BM for n in range(1, L + 1)},
  }
  flat_B = ~jnp.any(groups.advantages_BM != 0, axis=1)
  hits_B = jnp.any((parts['exact'] > 0) & groups.is_real_BM, axis=1)
  rows = {'no_advantage': flat_B, 'hit_rate': hits_B}
  return {name: jnp.sum(values).astype(jnp.float32) for name, values in (found | rows).items()}


def jit_step(
  config: Training,
  settings: Grpo,
  space: TokenSpace,
  abstract: TrainState,
  mesh: jax.sharding.Mesh,
  teacher: Teacher | None = None,
):
  """Returns the jitted step: the state is donated and keeps its shardings; see `Step`.

  Args:
    config: config of the training.
    settings: the section of the stage.
    space: the token ids.
    abstract: ShapeDtypeStructs of the state, with their shardings.
    mesh: mesh of the shardings; set it (`jax.set_mesh`) around calls.
    teacher: scores choices.
  """
  shardings = jax.tree.map(lambda x: x.sharding, abstract)
  tx = optimizer(config, settings.updates)
  return jax.jit(
    Step(config, settings, models.graph(config.model, space), tx, teacher),
    donate_argnums=0,
    out_shardings=(shardings, mesh_lib.replicated(mesh)),
  )
