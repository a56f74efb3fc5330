"""The train state: step, parameters and optimizer state. Every array is created sharded."""

import math
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from recjax import models
from recjax.models import lora
from recjax.schema.model import Model
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import table as parameter_table
from recjax.sids.token_space import TokenSpace
from recjax.training import optim


class TrainState(NamedTuple):
  """Plain pytrees: `step` is an int32 scalar, `params` nested dicts of float32 arrays.

  With adapters (`model.lora_rank` > 0), `params` also holds them, under `lora`.
  """

  step: jax.Array
  params: Any
  opt_state: Any

  def to_saved(self) -> dict[str, Any]:
    """Returns the items of a checkpoint: `params` (for evaluation and export) and `train` (the rest).

    With averaged parameters, `params` is the average, and the optimizer state holds the raw parameters.
    """
    params, opt_state = optim.swap_average(self.params, self.opt_state)
    return {'params': params, 'train': {'step': self.step, 'opt_state': opt_state}}

  @classmethod
  def from_saved(cls, items: dict[str, Any]) -> 'TrainState':
    """Inverts `to_saved`."""
    train = items['train']
    params, opt_state = optim.swap_average(items['params'], train['opt_state'])
    return cls(train['step'], params, opt_state)


def _init_params(model: Model, space: TokenSpace, seed: int) -> Any:
  params = nnx.to_pure_dict(nnx.split(models.build(model, space, seed))[1])
  if model.lora_rank > 0:
    key = jax.random.key(seed)
    params[lora.NAME] = lora.init(key, params, model.lora_rank, model.lora_targets)
  return params


def _init(model: Model, space: TokenSpace, tx: optax.GradientTransformation, seed: int):
  def init() -> TrainState:
    params = _init_params(model, space, seed)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

  return init


def abstract_params(model: Model, space: TokenSpace, mesh: jax.sharding.Mesh) -> Any:
  """Returns ShapeDtypeStructs of the parameters with their shardings on a mesh.

  Raises:
    ValueError: the mesh leaves too much replicated; see `parameter_table.check_replication`.
  """
  shapes = jax.eval_shape(lambda: _init_params(model, space, seed=0))
  rules = models.family(model).parameter_rules
  parameter_table.check_replication(shapes, mesh, rules)
  shardings = mesh_lib.tree_shardings(shapes, mesh, shapes, rules)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
  )


def abstract_state(
  model: Model, space: TokenSpace, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
  """Returns ShapeDtypeStructs of the state with their shardings on a mesh, the target of a restore.

  Raises:
    ValueError: the mesh leaves too much replicated; see `parameter_table.check_replication`.
  """
  shapes = jax.eval_shape(_init(model, space, tx, seed=0))
  rules = models.family(model).parameter_rules
  parameter_table.check_replication(shapes.params, mesh, rules)
  shardings = mesh_lib.tree_shardings(shapes, mesh, shapes.params, rules)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
  )


def init_state(
  model: Model,
  space: TokenSpace,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  seed: int,
) -> TrainState:
  """Returns the state of step 0 with random parameters; every array is created sharded."""
  shardings = jax.tree.map(lambda x: x.sharding, abstract_state(model, space, tx, mesh))
  # The program runs once. On CPUs its compilation takes seconds, less than half of them at this level.
  on_cpu = mesh.devices.flat[0].platform == 'cpu'
  options = {'xla_backend_optimization_level': 1} if on_cpu else None
  init = jax.jit(_init(model, space, tx, seed), out_shardings=shardings, compiler_options=options)
  return init()


def num_params(model: Model, space: TokenSpace) -> int:
  """Returns the number of parameters of the model, without adapters."""
  built = nnx.eval_shape(lambda: models.build(model, space, seed=0))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.split(built)[1]))
