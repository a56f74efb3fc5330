"""Lookup in sharded tables: results, gradients, and the traffic between devices."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import models
from recjax.models import embedding
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import optim, state
from recjax.training.step import make_train_step

MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 2, 4)]
START = 50  # of the second table's ids; the first one's rows from 50 on are padding


def tables_and_ids(batch=16):
  rng = np.random.default_rng(0)
  tables = tuple(rng.normal(size=(rows, 16)).astype(np.float32) for rows in (64, 32))
  ids = rng.integers(0, START + 30, (batch, 6)).astype(np.int32)
  ids[:, 0] = START - 1
  ids[:, 1] = START
  return tables, ids, rng.normal(size=(*ids.shape, 16)).astype(np.float32)


def by_hand(tables, ids, weights):
  """Returns the rows, and the gradient of a weighted sum of them."""
  rows = np.concatenate([tables[0][:START], tables[1]])
  gradient = np.zeros_like(rows)
  np.add.at(gradient, ids, weights)
  padded = np.zeros_like(tables[0])
  padded[:START] = gradient[:START]
  return rows[ids], (padded, gradient[START:])


def compiled(shape, dtype=jnp.float32, batch=16):
  """Returns the lookup and its gradient on a mesh, and the sharded arguments."""
  mesh = mesh_lib.make_mesh(Mesh(**dict(zip(mesh_lib.AXES, shape, strict=True))))
  tables, ids, weights = tables_and_ids(batch)
  divides = batch % mesh_lib.batch_shards(mesh) == 0
  rows = mesh_lib.batch_sharding(mesh) if divides else mesh_lib.replicated(mesh)

  def look_up(tables, ids, weights):
    x = embedding.take_rows(tables, (0, START), ids, dtype)
    return jnp.sum(x.astype(jnp.float32) * weights), x

  arguments = (
    tuple(jax.device_put(t, NamedSharding(mesh, P('tensor', 'fsdp'))) for t in tables),
    *(jax.device_put(x, rows) for x in (ids, weights)),
  )
  with jax.set_mesh(mesh):
    run = jax.jit(jax.grad(look_up, has_aux=True)).lower(*arguments).compile()
  return run, arguments


@pytest.mark.parametrize('shape', MESHES, ids=str)
def test_rows_and_gradients_equal_those_of_replicated_tables(shape):
  run, arguments = compiled(shape)
  gradients, x = run(*arguments)
  expected, expected_gradients = by_hand(*tables_and_ids())
  np.testing.assert_array_equal(x, expected)
  for gradient, wanted, table in zip(gradients, expected_gradients, arguments[0], strict=True):
    np.testing.assert_allclose(gradient, wanted, atol=1e-5)
    assert gradient.sharding.is_equivalent_to(table.sharding, 2)


@pytest.mark.parametrize('shape', MESHES, ids=str)
def test_lookup_communicates_no_table(shape):
  text = compiled(shape)[0].as_text()
  gathered = re.findall(r'= (\S+) all-gather\(', text)
  assert all(kind.startswith('s32') for kind in gathered), gathered  # only ids
  moved = re.findall(r'f32\[([\d,]+)\]\S* (?:all-reduce|reduce-scatter|all-to-all)', text)
  tables = {(64, 16), (32, 16)}
  cut = {(rows // shape[2], width // shape[1]) for rows, width in tables}
  for dims in moved:
    dims = tuple(map(int, dims.split(',')))
    # Each device reduces only the gradient of its own shard, over the rows of the batch.
    assert len(dims) > 2 or (dims in cut and shape[0] > 1), dims


def test_a_batch_that_the_mesh_does_not_divide_is_looked_up():
  run, arguments = compiled((2, 2, 2), batch=3)
  gradients, x = run(*arguments)
  expected, expected_gradients = by_hand(*tables_and_ids(3))
  np.testing.assert_array_equal(x, expected)
  for gradient, wanted in zip(gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(gradient, wanted, atol=1e-5)


def test_gradients_of_bfloat16_rows_are_summed_in_float32():
  run, (tables, ids, weights) = compiled((2, 2, 2), jnp.bfloat16)
  often = jnp.zeros_like(ids)  # the same row 96 times
  gradients, x = run(tables, jax.device_put(often, ids.sharding), jnp.ones_like(weights))
  assert x.dtype == jnp.bfloat16
  np.testing.assert_array_equal(gradients[0][0], np.full(16, 96.0))
  whole = sum(float(jnp.abs(g).sum()) for g in gradients)
  assert whole == 96 * 16


@pytest.mark.parametrize('family', ['gemma', 't5'])
def test_a_training_step_gathers_no_batch(family):
  """XLA gathers and reshards everything if it cannot change a sharding directly; that must not happen."""
  config_dict = config_lib.defaults(source='synthetic', name='mesh')
  config_dict.model.update(family=family, depth=1, width=32, ff_width=64, head_width=8)
  config_dict.mesh.update(data=2, fsdp=2, tensor=2)
  config = config_lib.from_config_dict(config_dict)
  space, mesh = TokenSpace(100, (16, 16)), mesh_lib.make_mesh(config.mesh)
  B, T = 16, 12
  rows = mesh_lib.batch_sharding(mesh)
  names = ('tokens', 'segments', 'positions', 'targets', 'encoder_tokens', 'encoder_segments')
  batch = {name: jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=rows) for name in names}
  batch['weights'] = jax.ShapeDtypeStruct((B, T), jnp.float32, sharding=rows)
  counts = jax.ShapeDtypeStruct((B,), jnp.int32, sharding=rows)
  batch |= {'learnt': counts, 'dropped': counts}
  tx = optim.optimizer(config.optim, 10)
  step = make_train_step(config, models.graph(config.model, space), tx, text_targets=True)
  with jax.set_mesh(mesh):
    lowered = jax.jit(step).lower(state.abstract_state(config.model, space, tx, mesh), batch)
  gathered = re.findall(r'= \w+\[([\d,]+)\]\S* all-gather\(', lowered.compile().as_text())
  assert gathered  # fsdp gathers the weights
  assert not [dims for dims in gathered if dims.startswith(f'{B},{T}')]
