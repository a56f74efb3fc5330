"""Integer weights: scales by hand, the bound of the error, bytes, and models that compute with them."""

import functools

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from recjax import models
from recjax.models import embedding, int8, lora
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from tests.recjax.decode import candidates_test
from tests.recjax.models.lora_test import SPACE, built

# Number of input axes by name; the others of a kernel are outputs.
INPUTS = {'out': 2}


def test_a_kernel_has_a_scale_for_each_output_by_hand():
  kernel = np.array([[1.27, -4.0, 0.0], [-0.634, 2.0, 0.0]], np.float32)
  values, scales = int8.quantized(jnp.asarray(kernel), (0,))
  assert values.dtype == jnp.int8
  assert values.tolist() == [[127, -127, 0], [-63, 64, 0]]  # 2 / 4 * 127 = 63.5, to even
  np.testing.assert_allclose(scales, [0.01, 4 / 127, 1.0], rtol=1e-6)


@pytest.mark.parametrize('family', ['gemma', pytest.param('t5', marks=pytest.mark.soak)])
def test_restored_weights_are_within_half_a_scale_and_take_a_quarter_of_the_bytes(family):
  _, params = built(family)
  stored = int8.stored(params, 16.0)
  assert int8.is_stored(stored) and not int8.is_stored(params)
  flat, ours = traverse_util.flatten_dict(params), traverse_util.flatten_dict(stored)
  weights = [path for path in flat if path[-1] == 'kernel' or path[0] == 'tables']
  assert len(ours) == len(flat) + len(weights)
  for path in flat:
    if path not in weights:
      np.testing.assert_array_equal(ours[path], flat[path])  # norms and position buckets
      continue
    W, s = np.asarray(flat[path], np.float64), ours[*path[:-1], path[-1] + '_scale']
    if path[0] == 'tables':
      axes = (1,)
    else:  # the first axis is the depth
      axes = tuple(range(1, 1 + INPUTS.get(path[-2], 1)))
    largest = np.abs(W).max(axes, keepdims=True)
    np.testing.assert_allclose(s, np.squeeze(largest, axes) / 127, rtol=1e-6)
    restored = np.asarray(ours[path], np.float64) * largest / 127
    assert (np.abs(W - restored) <= largest / 127 * 0.5001).all()
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
  kernels = sum(flat[path].nbytes for path in weights)
  scales = 4 * sum(ours[*path[:-1], path[-1] + '_scale'].size for path in weights)
  assert size(stored) == size(params) - kernels + kernels // 4 + scales


@pytest.mark.soak
def test_adapters_are_merged_before_the_weights_are_rounded():
  _, params = built('gemma')
  adapters = lora.init(jax.random.key(0), params, 2, 'attention/q')
  adapters = jax.tree.map(lambda x: x + 0.5, adapters)
  both = params | {lora.NAME: adapters}
  expected = int8.stored(lora.merge(both, 6.0), 6.0)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, int8.stored(both, 6.0), expected)


def restored(stored):
  """Returns the float weights that integers and scales stand for."""
  flat = traverse_util.flatten_dict(stored)
  found = {path: x for path, x in flat.items() if not path[-1].endswith('_scale')}
  for path, x in found.items():
    if (scale := flat.get((*path[:-1], path[-1] + '_scale'))) is not None:
      inputs = lora.input_axes(path, x.ndim) if path[-1] == 'kernel' else (1,)
      found[path] = np.asarray(x, np.float32) * np.expand_dims(scale, inputs)
  return traverse_util.unflatten_dict(found)


@pytest.mark.soak
@pytest.mark.parametrize('family', ['gemma', 't5'])
def test_a_model_computes_with_the_weights_that_the_integers_stand_for(family):
  graph, params = built(family)
  stored = int8.stored(jax.tree.map(lambda x: 0.3 * x, params), 16.0)
  rng = np.random.default_rng(2)
  names = ('tokens', 'encoder_tokens')
  batch = {name: jnp.asarray(rng.integers(1, SPACE.size, (2, 6)), jnp.int32) for name in names}
  batch |= {name: jnp.ones((2, 6), jnp.int32) for name in ('segments', 'encoder_segments')}
  batch['positions'] = jnp.tile(jnp.arange(6), (2, 1))

  @functools.partial(jax.jit, static_argnums=1)
  def outputs(params, merge):
    model = merge(graph, params)
    x_BTD = model.hidden(batch)
    return x_BTD, model.tables.all_logits(x_BTD), model.tables.level_logits(x_BTD, 1)

  found, expected = outputs(stored, int8.merge), outputs(restored(stored), nnx.merge)
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_rows_of_sharded_integers_are_those_of_one_device():
  mesh = mesh_lib.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
  rng = np.random.default_rng(0)
  table = jnp.asarray(rng.integers(-127, 128, (32, 8)), jnp.int8)
  scale = jnp.asarray(rng.uniform(size=32), jnp.float32)
  ids = jnp.asarray(rng.integers(0, 32, (4, 3)), jnp.int32)
  specs = (P('tensor', 'fsdp'), P('tensor'), P(('data', 'fsdp')))
  arrays = [
    jax.device_put(x, NamedSharding(mesh, spec))
    for x, spec in zip((table, scale, ids), specs, strict=True)
  ]
  look_up = lambda t, s, i: embedding.take_rows((t,), (0,), i, jnp.float32, (s,))  # noqa: E731
  with jax.set_mesh(mesh):
    found = jax.jit(look_up)(*arrays)
  np.testing.assert_array_equal(found, np.asarray(table, np.float32)[ids] * scale[ids][..., None])


@pytest.mark.soak
def test_rows_of_items_are_restored():
  params = nnx.to_pure_dict(nnx.split(candidates_test.sharp(candidates_test.MODEL))[1])
  graph = models.graph(candidates_test.MODEL, candidates_test.SPACE)
  stored = int8.stored(params, 16.0)
  assert stored['tables']['items'].dtype == jnp.int8
  ours, theirs = int8.merge(graph, stored).tables, nnx.merge(graph, restored(stored)).tables
  items = jnp.array([[3, 0], [5, 7]])
  for picked in (None, items):
    found, expected = ours.item_vectors(picked), theirs.item_vectors(picked)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
