"""The state of a run: step, parameters and optimizer, initialised where it will live."""

import math
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from recjax import models
from recjax.config import Config
from recjax.models import lora
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import table as parameter_table
from recjax.sids.token_space import TokenSpace


class TrainState(NamedTuple):
  """Plain pytrees; `step` is an int32 scalar, `params` nested dicts of float32 arrays.

  With adapters (`model.lora_rank` > 0) `params` holds them under `lora`, beside the model's own.
  """

  step: jax.Array
  params: Any
  opt_state: Any


def graph(config: Config, space: TokenSpace) -> nnx.GraphDef:
  """The structure of the model without its arrays; `nnx.merge(graph, params)` is the model."""
  model = nnx.eval_shape(lambda: models.build(config.model, space, config.seed))
  return nnx.split(model)[0]


def _init(config: Config, space: TokenSpace, tx: optax.GradientTransformation):
  def init() -> TrainState:
    params = nnx.to_pure_dict(nnx.split(models.build(config.model, space, config.seed))[1])
    if config.model.lora_rank > 0:
      key = jax.random.key(config.seed)
      params[lora.NAME] = lora.init(key, params, config.model.lora_rank, config.model.lora_targets)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

  return init


def abstract_state(
  config: Config, space: TokenSpace, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
  """ShapeDtypeStructs with today's shardings: what a checkpoint is restored to.

  Raises:
    ValueError: the mesh leaves too many of the parameters whole; see `parameter_table.check_replication`.
  """
  shapes = jax.eval_shape(_init(config, space, tx))
  parameter_table.check_replication(shapes.params, mesh)
  shardings = mesh_lib.tree_shardings(shapes, mesh, shapes.params)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
  )


def init_state(
  config: Config, space: TokenSpace, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
  """A fresh state; every array is created in its shards."""
  shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, space, tx, mesh))
  return jax.jit(_init(config, space, tx), out_shardings=shardings)()


def num_params(config: Config, space: TokenSpace) -> int:
  """How many parameters the model has."""
  model = nnx.eval_shape(lambda: models.build(config.model, space, config.seed))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.split(model)[1]))
