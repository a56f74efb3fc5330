"""The loss of the item head against a loop over positions, with its gradients, and on meshes."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from recjax import train
from recjax.recommend import make_ranker
from recjax.schema.optim import Loss
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.training import optim, state
from recjax.training.item_head import item_head_sums, item_targets, sampled_losses
from recjax.training.step import jit_train_step
from tests.recjax.models.item_decoder_test import CODES_IL, MODEL, SPACE, TOKENS_IL, WIDTH, built


def example():
  """Targets of items, of text, of a cut semantic ID and of codes that are no item; with weights."""
  rng = np.random.default_rng(3)
  rows = [
    [*TOKENS_IL[5], *TOKENS_IL[9], *TOKENS_IL[0]],
    [2, *TOKENS_IL[7], 0, 3, *TOKENS_IL[1][:2], 4],
  ]
  absent = next(c for c in np.ndindex(6, 5, 3) if not (c == CODES_IL).all(1).any())
  rows.append([*SPACE.tokens(np.array(absent)), *TOKENS_IL[33], 0, 0, 0])
  batch = {'targets': np.array(rows, np.int32), 'weights': rng.random((3, 9)).astype(np.float32)}
  batch['weights'][0, 3] = 0
  h_BTD = rng.normal(size=(3, 9, WIDTH)).astype(np.float32)
  return batch, h_BTD, [(0, 0, 5), (0, 3, 9), (0, 6, 0), (1, 1, 7), (2, 3, 33)]


def test_the_loss_is_that_of_a_softmax_over_the_catalogue():
  batch, h_BTD, targets = example()
  model = built()
  tables = model.tables
  own, sid = (np.asarray(x[...], np.float64) for x in (tables.items, tables.sid))
  vectors = sid[TOKENS_IL - SPACE.sid_start].sum(1) + own[: len(CODES_IL)]

  def loss_of(h_BTD, vectors):
    total = weight = 0.0
    for b, t, item in targets:
      logits = h_BTD[b, t] @ vectors.T
      total += batch['weights'][b, t] * (jax.nn.logsumexp(logits) - logits[item])
      weight += batch['weights'][b, t]
    return total, weight

  graph, params = nnx.split(tables)

  def ours(params, h_BTD):
    sums = item_head_sums(nnx.merge(graph, params), h_BTD, batch, Loss())
    return sums['loss_item_head'], sums['weight_item_head']

  grad = jax.jit(jax.value_and_grad(ours, argnums=(0, 1), has_aux=True))
  (loss, weight), (d_params, d_h) = grad(params, jnp.asarray(h_BTD))
  naive = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
  (expected, total), (naive_h, naive_vectors) = naive(
    jnp.asarray(h_BTD), jnp.asarray(vectors, jnp.float32)
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(weight, total, rtol=1e-6)
  np.testing.assert_allclose(d_h, naive_h, atol=1e-5)
  np.testing.assert_allclose(d_params['items'][...][: len(CODES_IL)], naive_vectors, atol=1e-5)
  of_code = np.zeros((sum(SPACE.level_sizes), WIDTH))
  np.add.at(of_code, TOKENS_IL - SPACE.sid_start, np.asarray(naive_vectors)[:, None])
  np.testing.assert_allclose(d_params['sid'][...][: len(of_code)], of_code, atol=1e-5)
  smoothed = item_head_sums(tables, jnp.asarray(h_BTD), batch, Loss(label_smoothing=0.1))
  share = 0.0
  for b, t, item in targets:
    logits = np.float64(h_BTD[b, t]) @ vectors.T
    lse = scipy.special.logsumexp(logits)
    share += batch['weights'][b, t] * (lse - 0.9 * logits[item] - 0.1 * logits.mean())
  np.testing.assert_allclose(smoothed['loss_item_head'], share, rtol=1e-5)


def test_a_sampled_softmax_estimates_the_full_one():
  batch, h_BTD, _ = example()
  tables = built().tables
  full = item_head_sums(tables, jnp.asarray(h_BTD), batch, Loss())
  sampled = Loss(item_head_sampled_from=40, item_head_samples=64)
  draws = jax.jit(
    jax.vmap(lambda key: item_head_sums(tables, jnp.asarray(h_BTD), batch, sampled, key))
  )(jax.random.split(jax.random.key(0), 200))
  # The logarithm of an unbiased denominator is a little too small.
  assert float(draws['loss_item_head'].mean()) == pytest.approx(
    float(full['loss_item_head']), rel=0.02
  )
  # A sample of every item once is the full softmax.
  index_BP, labels_BP, weights_BP = item_targets(tables, batch)
  h_BPD = jnp.take_along_axis(jnp.asarray(h_BTD), index_BP[..., None], axis=1)
  every = jnp.arange(len(CODES_IL), dtype=jnp.int32)
  losses_BP = sampled_losses(
    tables, h_BPD, labels_BP, every, Loss(label_smoothing=0.1, z_loss=0.01)
  )
  exact = item_head_sums(tables, jnp.asarray(h_BTD), batch, Loss(label_smoothing=0.1, z_loss=0.01))
  np.testing.assert_allclose(jnp.sum(losses_BP * weights_BP), exact['loss_item_head'], rtol=1e-5)


@pytest.fixture(scope='module')
def item_world(tiny_world):
  """The tiny world for the item decoder with an item head."""
  config, dataset = tiny_world
  config = dataclasses.replace(
    config,
    model=dataclasses.replace(MODEL, depth=1, heads=4, kv_heads=2, head_width=4),
    loss=Loss(item_head=2.0),
    batch_size=16,
    num_train_steps=6,
    eval=dataclasses.replace(config.eval, beams=20, batch_size=24),
  )
  return config, dataset


def outcome(config, dataset, sizes, is_searched, accumulation=1):
  """Losses and candidates of a short run on a mesh."""
  config = dataclasses.replace(config, grad_accumulation=accumulation)
  names = dict(zip(mesh_lib.AXES, sizes, strict=True))
  mesh = mesh_lib.make_mesh(Mesh(**names), jax.devices()[: int(np.prod(sizes))])
  space, stream = dataset.vocabulary.space, train.make_stream(config, dataset)
  tx = optim.optimizer(config.optim, config.num_train_steps)
  abstract = state.abstract_state(config.model, space, tx, mesh)
  step = jit_train_step(config, space, tx, False, abstract, mesh)
  now = state.init_state(config.model, space, tx, mesh_lib.make_mesh(Mesh(), jax.devices()[:1]), 0)
  now = jax.device_put(jax.device_get(now), jax.tree.map(lambda x: x.sharding, abstract))
  losses = []
  with jax.set_mesh(mesh):
    for n in range(config.num_train_steps):
      batch = stream.host_batch(n * stream.examples_per_batch, 0, 1)
      now, metrics = step(now, mesh_lib.host_rows(batch, mesh))
      losses.append([float(metrics[name]) for name in ('loss', 'loss_item_head')])
      levels = [float(metrics[f'loss_level_{n + 1}']) for n in range(space.num_levels)]
      # A learnt item has a target of every level, and the loss is a mean over these.
      expected = np.mean(levels) + 2 * losses[-1][1] / space.num_levels
      assert losses[-1][0] == pytest.approx(expected, rel=1e-5)
  if not is_searched:
    return np.array(losses), None
  histories = [dataset.train[u] for u in range(30)]
  return np.array(losses), make_ranker(config, dataset, mesh).candidates(now.params, histories)


@pytest.mark.parametrize('is_searched', [False, pytest.param(True, marks=pytest.mark.soak)])
def test_meshes_give_the_same_losses_and_candidates(item_world, is_searched):
  config, dataset = item_world
  losses, found = outcome(config, dataset, (1, 1, 1), is_searched)
  assert losses[-1, 0] < losses[0, 0]  # it learns
  other, others = outcome(config, dataset, (2, 2, 2), is_searched, accumulation=2)
  np.testing.assert_allclose(other, losses, atol=1e-4)
  if is_searched:
    np.testing.assert_array_equal(others.items_BM, found.items_BM)
    np.testing.assert_allclose(others.codes_BM, found.codes_BM, atol=1e-3)
    np.testing.assert_allclose(others.head_BM, found.head_BM, atol=1e-3)
