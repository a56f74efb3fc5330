"""The loss against a naive loop over positions, and what it costs in memory and collectives."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from launch.compile import hlo
from recjax.models.embedding import TokenTables
from recjax.schema.optim import Loss
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import TokenSpace
from recjax.training import wide_softmax
from recjax.training.loss import NO_EXTRAS, loss_sums

SPACE = TokenSpace(text_size=30, level_sizes=(8, 6, 4))


def example(seed=0, B=3, T=12):
  """Rows of complete semantic IDs (three levels each) and text, with weights."""
  rng = np.random.default_rng(seed)
  targets = np.zeros((B, T), np.int32)
  for b in range(B):
    items = [SPACE.tokens(rng.integers(0, SPACE.level_sizes)) for _ in range(b % 3 + 1)]
    row = np.concatenate([*items, rng.integers(0, SPACE.text_size, T - 3 * (b % 3 + 1))])
    targets[b] = np.roll(row, rng.integers(0, T))
  weights = rng.choice([0.0, 0.5, 1.0], (B, T)).astype(np.float32)
  x = rng.normal(size=(B, T, 8)).astype(np.float32)
  return TokenTables(SPACE, 8, nnx.Rngs(params=seed)), x, targets, weights


def naive(tables, x, targets, weights, sid_softmax, extras=NO_EXTRAS):
  """A loop over positions in float64."""
  text = np.asarray(tables.text[...], np.float64)[: SPACE.text_size]
  sid = np.asarray(tables.sid[...], np.float64)[: SPACE.sid_size]
  total = 0.0
  for b, t in np.ndindex(targets.shape):
    token, state = targets[b, t], x[b, t].astype(np.float64)
    if sid_softmax == 'full':
      rows, label = np.concatenate([text, sid]), token
    elif token < SPACE.sid_start:
      rows, label = text, token
    else:
      row = token - SPACE.sid_start
      level = max(i for i in range(3) if row >= SPACE.level_starts[i])
      start = SPACE.level_starts[level]
      rows, label = sid[start : start + SPACE.level_sizes[level]], row - start
    logits = rows @ state * tables.output_scale
    if tables.logit_softcap:
      logits = tables.logit_softcap * np.tanh(logits / tables.logit_softcap)
    wanted = np.full(len(rows), extras.label_smoothing / len(rows))
    wanted[label] += 1 - extras.label_smoothing
    log_z = scipy.special.logsumexp(logits)
    total += weights[b, t] * (wanted @ (log_z - logits) + extras.z_loss * log_z**2)
  return total


EXTRAS = [
  NO_EXTRAS,
  Loss(z_loss=0.03),
  Loss(label_smoothing=0.2),
  Loss(z_loss=0.03, label_smoothing=0.2),
]


@pytest.mark.parametrize('extras', EXTRAS, ids=['plain', 'z_loss', 'smoothing', 'both'])
@pytest.mark.parametrize('sid_softmax', ['level', 'full'])
@pytest.mark.parametrize('block_bytes', [1 << 27, 4 * 36 * 64])  # one block of a table, and eight
def test_the_loss_equals_a_loop_over_positions(sid_softmax, extras, block_bytes, monkeypatch):
  monkeypatch.setattr(wide_softmax, 'BLOCK_BYTES', block_bytes)
  tables, x, targets, weights = example()
  batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}
  sums = loss_sums(tables, jnp.asarray(x), batch, sid_softmax, True, extras)
  expected = naive(tables, x, targets, weights, sid_softmax, extras)
  np.testing.assert_allclose(sums['loss'], expected, rtol=1e-5)
  np.testing.assert_allclose(sums['weight'], weights.sum(), rtol=1e-6)


def test_a_full_row_of_items_counts_every_target():
  tables, x, _, _ = example()
  codes = np.random.default_rng(1).integers(0, SPACE.level_sizes, (3, 4, 3))
  targets = SPACE.tokens(codes).reshape(3, 12)
  weights = np.ones((3, 12), np.float32)
  batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}
  sums = loss_sums(tables, jnp.asarray(x), batch, 'level', text_targets=False)
  np.testing.assert_allclose(sums['loss'], naive(tables, x, targets, weights, 'level'), rtol=1e-5)
  assert [float(sums[f'weight_level_{level}']) for level in (1, 2, 3)] == [12, 12, 12]


def test_a_row_with_more_targets_of_a_level_than_packing_allows_gives_nan():
  tables, x, _, _ = example()
  weights = np.ones((3, 12), np.float32)
  for count in (SPACE.row_capacity(12), SPACE.row_capacity(12) + 1):
    targets = np.zeros((3, 12), np.int32)
    targets[1, :count] = SPACE.sid_start
    batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}
    sums = loss_sums(tables, jnp.asarray(x), batch, 'level', text_targets=True)
    assert np.isfinite(sums['loss']) == (count == 4)


def test_padding_rows_get_no_gradient_and_text_rows_none_from_sids():
  tables, x, targets, weights = example()
  graph, params = nnx.split(tables)
  batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}

  def loss(params):
    return loss_sums(nnx.merge(graph, params), jnp.asarray(x), batch, 'level', False)['loss']

  gradients = nnx.to_pure_dict(jax.grad(loss)(params))
  assert np.abs(gradients['sid'][: SPACE.sid_size]).sum() > 0
  assert np.abs(gradients['sid'][SPACE.sid_size :]).sum() == 0
  assert np.abs(gradients['text']).sum() == 0


def plain_loss(graph, params, x, batch, extras):
  """Computes the loss over the full vocabulary by its definition, from all logits at once."""
  logits = nnx.merge(graph, params).all_logits(x)
  wanted = jax.nn.one_hot(batch['targets'], SPACE.size) * (1 - extras.label_smoothing)
  wanted = wanted + extras.label_smoothing / SPACE.size
  log_z = jax.nn.logsumexp(logits, axis=-1)
  losses = log_z - jnp.sum(wanted * logits, axis=-1) + extras.z_loss * log_z**2
  return jnp.sum(losses * batch['weights'])


@pytest.mark.parametrize(
  ('softcap', 'block_bytes', 'kept_bytes'),
  [(0.0, 1 << 27, 1 << 30), (0.0, 4 * 36 * 64, 0), (2.0, 4 * 36 * 64, 1 << 30), (2.0, 1 << 27, 0)],
)
def test_gradients_are_those_of_the_plain_loss(softcap, block_bytes, kept_bytes, monkeypatch):
  monkeypatch.setattr(wide_softmax, 'BLOCK_BYTES', block_bytes)
  monkeypatch.setattr(wide_softmax, 'KEPT_BYTES', kept_bytes)
  _, x, targets, weights = example()
  tables = TokenTables(
    SPACE, 8, nnx.Rngs(params=0), tied=False, output_scale=0.7, logit_softcap=softcap
  )
  graph, params = nnx.split(tables)
  params = nnx.to_pure_dict(params)

  def ours(params, x, weights):
    batch = {'targets': jnp.asarray(targets), 'weights': weights}
    return loss_sums(nnx.merge(graph, params), x, batch, 'full', True, EXTRAS[-1])['loss']

  def plain(params, x, weights):
    batch = {'targets': jnp.asarray(targets), 'weights': weights}
    return plain_loss(graph, params, x, batch, EXTRAS[-1])

  arguments = (params, jnp.asarray(x), jnp.asarray(weights))
  got = jax.jit(jax.grad(lambda *a: 3 * ours(*a), argnums=(0, 1)))(*arguments)
  expected = jax.jit(jax.grad(lambda *a: 3 * plain(*a), argnums=(0, 1)))(*arguments)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, expected)


def test_the_smallest_part_that_holds_the_learnt_positions_gives_the_loss_and_gradients_of_all(
  monkeypatch,
):
  tables, x, targets, _ = example()
  graph, params = nnx.split(tables)
  ran, logits = [], wide_softmax.Wide.logits

  def recorded(self, x_ND, rows_CD):
    jax.debug.callback(lambda: ran.append(len(x_ND)))
    return logits(self, x_ND, rows_CD)

  def loss(params, x, weights):
    batch = {'targets': jnp.asarray(targets), 'weights': weights}
    return loss_sums(nnx.merge(graph, params), x, batch, 'full', True, EXTRAS[-1])['loss']

  arguments = (nnx.to_pure_dict(params), jnp.asarray(x), jnp.ones((3, 12)))
  in_parts, whole = (jax.jit(jax.value_and_grad(loss, argnums=(0, 1))) for _ in range(2))
  whole = whole.lower(*arguments).compile()
  monkeypatch.setattr(wide_softmax, 'LOGITS_FOR_PARTS', 0)
  monkeypatch.setattr(wide_softmax.Wide, 'logits', recorded)
  in_parts = in_parts.lower(*arguments).compile()
  rng = np.random.default_rng(0)
  for learnt, part in [(0, 5), (4, 5), (5, 5), (6, 9), (14, 14), (15, 18), (28, 36), (36, 36)]:
    weights = np.zeros(36, np.float32)
    weights[rng.permutation(36)[:learnt]] = rng.uniform(0.5, 2, learnt)
    weights = jnp.asarray(weights.reshape(3, 12))
    got, expected = (program(*arguments[:2], weights) for program in (in_parts, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5), got, expected)
    assert np.all(np.asarray(got[1][1])[weights == 0] == 0)
    jax.effects_barrier()
    assert ran and set(ran) == {part}
    ran.clear()


@pytest.mark.parametrize('tensor', [1, 2])
def test_large_logits_where_nothing_is_learnt_give_finite_gradients(tensor):
  tables, x, targets, weights = example(B=8)
  weights[:, 2:] = 0
  graph, params = nnx.split(tables)
  batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}
  mesh = mesh_lib.make_mesh(Mesh(tensor=tensor), jax.devices()[:tensor])
  params = {'tables': nnx.to_pure_dict(params)}
  params = jax.device_put(params, mesh_lib.tree_shardings(params, mesh))

  def loss(params, x):
    return loss_sums(nnx.merge(graph, params['tables']), x, batch, 'full', True)['loss']

  x = 1000 * jnp.asarray(x)  # exp of a logit is infinite
  assert np.asarray(nnx.merge(graph, params['tables']).all_logits(x)).max() > 100
  with jax.set_mesh(mesh):
    for found in jax.tree.leaves(jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)):
      assert np.all(np.isfinite(found))


def test_bfloat16_states_give_gradients_near_those_of_float32():
  tables, x, targets, weights = example()
  batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}
  graph, params = nnx.split(tables)

  @jax.jit
  def gradient(params, x):
    return jax.grad(
      lambda p: loss_sums(nnx.merge(graph, p), x, batch, 'full', True)['loss'].astype(jnp.float32)
    )(nnx.to_pure_dict(params))

  exact = gradient(params, jnp.asarray(x))
  rounded = gradient(params, jnp.asarray(x, jnp.bfloat16))
  for name in ('text', 'sid'):
    assert rounded[name].dtype == jnp.float32
    np.testing.assert_allclose(rounded[name], exact[name], atol=0.02 * np.abs(exact[name]).max())


@pytest.mark.parametrize(
  ('sid_softmax', 'axes'),
  [
    *(('full', axes) for axes in [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]),
    *(('level', axes) for axes in [(2, 4, 1), (2, 2, 2)]),
  ],
)
def test_loss_and_gradients_are_the_same_on_every_mesh(sid_softmax, axes, monkeypatch):
  monkeypatch.setattr(wide_softmax, 'BLOCK_BYTES', 4 * 36 * 64)
  if sid_softmax == 'full' and axes[2] < 8:
    monkeypatch.setattr(wide_softmax, 'LOGITS_FOR_PARTS', 0)
    monkeypatch.setattr(wide_softmax, 'EIGHTHS', (4, 8))
  tables, x, targets, weights = example(B=8)
  weights[:4] *= np.arange(12) < 2  # other devices take another part
  graph, params = nnx.split(tables)
  batch = {'targets': jnp.asarray(targets), 'weights': jnp.asarray(weights)}

  def loss(params, x, batch):
    sums = loss_sums(nnx.merge(graph, params), x, batch, sid_softmax, True, EXTRAS[-1])
    return sums['loss'], sums

  gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
  params = {'tables': nnx.to_pure_dict(params)}
  expected = jax.jit(lambda p, x, b: gradient(p['tables'], x, b))(params, jnp.asarray(x), batch)
  mesh = mesh_lib.make_mesh(Mesh(data=axes[0], fsdp=axes[1], tensor=axes[2]))
  params = jax.device_put(params, mesh_lib.tree_shardings(params, mesh))
  rows = mesh_lib.batch_sharding(mesh)
  with jax.set_mesh(mesh):
    got = jax.jit(lambda p, x, b: gradient(p['tables'], x, b))(
      params, jax.device_put(x, rows), jax.device_put(batch, rows)
    )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, expected)


@pytest.mark.parametrize(
  ('axes', 'expected'),
  [
    ((1, 8, 1), {'all-gather': 1, 'reduce-scatter': 1}),
    ((2, 4, 1), {'all-gather': 1, 'reduce-scatter': 1, 'all-reduce': 1}),  # the last of a quarter
    ((2, 2, 2), {'all-gather': 1, 'reduce-scatter': 1, 'all-reduce': 1}),
    ((8, 1, 1), {'all-reduce': 1}),
    ((1, 1, 8), {}),
  ],
  ids=str,
)
def test_a_sharded_table_is_gathered_once_and_its_gradient_reduced_once(
  axes, expected, monkeypatch
):
  space = TokenSpace(text_size=8192, level_sizes=(64, 64))
  tables = nnx.eval_shape(lambda: TokenTables(space, 16, nnx.Rngs(params=0)))
  graph, params = nnx.split(tables)
  mesh = mesh_lib.make_mesh(Mesh(data=axes[0], fsdp=axes[1], tensor=axes[2]))
  params = {'tables': nnx.to_pure_dict(params)}
  shaped = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    params,
    mesh_lib.tree_shardings(params, mesh),
  )
  rows = mesh_lib.batch_sharding(mesh)
  x = jax.ShapeDtypeStruct((8, 64, 16), jnp.float32, sharding=rows)  # less than a part of the table
  batch = {
    'targets': jax.ShapeDtypeStruct((8, 64), jnp.int32, sharding=rows),
    'weights': jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=rows),
  }

  def loss(params, x, batch):
    return loss_sums(nnx.merge(graph, params['tables']), x, batch, 'full', True)['loss']

  monkeypatch.setattr(wide_softmax, 'BLOCK_BYTES', 1 << 15)
  with jax.set_mesh(mesh):
    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(shaped, x, batch).compile().as_text()
  assert ' while(' in text
  part = space.text_rows * 16 * 4 // (axes[1] * axes[2])  # bytes of the text table on a device
  moved = [c for c in hlo.collectives(text) if c.payload >= part]
  assert {c.kind: c.count for c in moved} == expected
  assert len(moved) == len(expected)


def test_gemma2_2b_takes_an_eighth_of_the_plain_losses_memory(monkeypatch):
  monkeypatch.setattr(wide_softmax, 'EIGHTHS', (4, 8))  # branches share their memory
  space = TokenSpace(text_size=256_000, level_sizes=(256,) * 4)
  tables = nnx.eval_shape(lambda: TokenTables(space, 2304, nnx.Rngs(params=0)))
  graph, params = nnx.split(tables)
  params = nnx.to_pure_dict(params)
  x = jax.ShapeDtypeStruct((8, 512, 2304), jnp.float32)
  batch = {
    'targets': jax.ShapeDtypeStruct((8, 512), jnp.int32),
    'weights': jax.ShapeDtypeStruct((8, 512), jnp.float32),
  }

  def ours(params, x, batch, sid_softmax):
    return loss_sums(nnx.merge(graph, params), x, batch, sid_softmax, True)['loss']

  def plain(params, x, batch, _):
    logits = nnx.merge(graph, params).all_logits(x)
    picked = jnp.take_along_axis(logits, batch['targets'][..., None], axis=-1)[..., 0]
    return jnp.sum((jax.nn.logsumexp(logits, axis=-1) - picked) * batch['weights'])

  def temporary_bytes(loss, sid_softmax):
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=3)
    return (
      gradient.lower(params, x, batch, sid_softmax).compile().memory_analysis().temp_size_in_bytes
    )

  budget = temporary_bytes(plain, 'full') / 8
  assert temporary_bytes(ours, 'full') <= budget
  assert temporary_bytes(ours, 'level') <= budget


@pytest.mark.parametrize('rows', [512, 32_256, 256_000, 257_024, 509 * 512, 37])
def test_blocks_divide_the_rows_and_fit(rows):
  for positions in (64, 4096, 1 << 20, 1 << 30):
    block = wide_softmax.block_rows(rows, positions)
    assert rows % block == 0
    assert block == 1 or 4 * positions * block <= wide_softmax.BLOCK_BYTES


def test_coefficients_out_of_range_are_refused():
  with pytest.raises(ValueError, match=r'must not be negative; got -1.*--config.loss.z_loss'):
    Loss(z_loss=-1.0)
  with pytest.raises(ValueError, match=r'in \[0, 1\); got 1.0. Set --config.loss.label_smoothing'):
    Loss(label_smoothing=1.0)
