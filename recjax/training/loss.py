"""The loss: sums with denominators, so that packing, accumulation and device counts change nothing.

Every device sums over its own rows of the batch. A sharded table is gathered once before, and its gradient
reduced once after: nothing of its size moves between devices while the logits are formed.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from recjax.schema.optim import Loss
from recjax.sharding.mesh import table_sharding
from recjax.training.wide_softmax import Wide, wide_loss

NO_EXTRAS = Loss()


def row_capacity(row_length: int, num_levels: int) -> int:
  """The most targets of one SID level in a row: items are shown whole, so each takes L tokens."""
  return -(-row_length // num_levels)


def _cross_entropy(logits: jax.Array, labels: jax.Array, extras: Loss) -> jax.Array:
  """The loss in float32, of labels `[...]` under logits `[..., C]`."""
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  lse = jax.nn.logsumexp(logits, axis=-1)
  share = extras.label_smoothing
  expected = (1 - share) * picked + (share * jnp.mean(logits, axis=-1) if share else 0.0)
  return lse - expected + (extras.z_loss * lse**2 if extras.z_loss else 0.0)


def _level_loss(tables, sid_VD, x_BTD, targets_BT, weights_BT, level: int, extras: Loss):
  """Sums over one SID level; only that level's logits are computed, only where it is the target."""
  space = tables.space
  start, size = space.level_starts[level], space.level_sizes[level]
  codes_BT = targets_BT - (space.sid_start + start)
  here_BT = (codes_BT >= 0) & (codes_BT < size)
  # Gathers the level's positions to the front of each row: a stable sort of one bit a position.
  capacity = row_capacity(x_BTD.shape[1], space.num_levels)
  at_BP = jnp.argsort(~here_BT, axis=1, stable=True)[:, :capacity]
  x_BPD = jnp.take_along_axis(x_BTD, at_BP[..., None], axis=1)
  here_BP = jnp.take_along_axis(here_BT, at_BP, axis=1)
  codes_BP = jnp.where(here_BP, jnp.take_along_axis(codes_BT, at_BP, axis=1), 0)
  weights_BP = jnp.where(here_BP, jnp.take_along_axis(weights_BT, at_BP, axis=1), 0.0)
  logits_BPC = tables.logits(x_BPD, sid_VD[start : start + size])
  losses_BP = _cross_entropy(logits_BPC, codes_BP, extras)
  return jnp.sum(losses_BP * weights_BP), jnp.sum(weights_BP)


def _sums(
  tables,
  text_VD,
  sid_VD,
  x_BTD,
  batch,
  sid_softmax: str,
  text_targets: bool,
  extras: Loss,
  axis: str | None = None,
  batch_axes: tuple[str, ...] = (),
):
  """What `loss_sums` returns, over the rows at hand; `axis` names the mesh axis that cuts V."""
  targets, weights = batch['targets'], batch['weights']
  space = tables.space
  wide = Wide(
    sizes=(space.text_size, space.sid_size) if sid_softmax == 'full' else (space.text_size,),
    scale=tables.output_scale,
    softcap=tables.logit_softcap,
    z_loss=extras.z_loss,
    smoothing=extras.label_smoothing,
    axis=axis,
    batch_axes=batch_axes,
  )
  if sid_softmax == 'full':
    loss = wide_loss(wide, x_BTD, (text_VD, sid_VD), targets, weights)
    return {'loss': loss, 'weight': jnp.sum(weights)}
  # A level's codes end anywhere in the table, so that a mesh that cuts V computes a level together: the
  # devices along that axis do the same and each answers for its share of the sum.
  shares = 1 if axis is None else jax.lax.axis_size(axis)
  if axis is not None:
    sid_VD = jax.lax.all_gather(sid_VD, axis, axis=0, tiled=True)
  sums = {'loss': jnp.zeros(()), 'weight': jnp.zeros(())}
  for level in range(space.num_levels):
    loss, weight = _level_loss(tables, sid_VD, x_BTD, targets, weights, level, extras)
    if axis is not None:
      loss = jax.lax.psum(loss / shares, axis)
    sums |= {f'loss_level_{level + 1}': loss, f'weight_level_{level + 1}': weight}
    sums['loss'] += loss
    sums['weight'] += weight
  if text_targets:
    is_text = targets < space.sid_start
    text_weights = jnp.where(is_text, weights, 0.0)
    loss = wide_loss(wide, x_BTD, (text_VD,), jnp.where(is_text, targets, 0), text_weights)
    sums |= {'loss_text': loss, 'weight_text': jnp.sum(text_weights)}
    sums['loss'] += loss
    sums['weight'] += sums['weight_text']
  return sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(rows_VD: jax.Array, batch_axes: tuple[str, ...], width_is_cut: bool) -> jax.Array:
  """The whole width of a device's rows; the gradient is summed over the rows of the batch, once."""
  if width_is_cut:
    rows_VD = jax.lax.all_gather(rows_VD, 'fsdp', axis=1, tiled=True)
  alike = tuple(axis for axis in batch_axes if axis != 'fsdp' or not width_is_cut)
  return jax.lax.pcast(rows_VD, alike, to='varying') if alike else rows_VD


def _gathered_forward(rows_VD, batch_axes, width_is_cut):
  return _gathered(rows_VD, batch_axes, width_is_cut), None


def _gathered_backward(batch_axes, width_is_cut, _, gradient_VD):
  if width_is_cut:
    # The axis that is scattered comes first: along the last one the TPU reduces all of it to every device.
    V, n = gradient_VD.shape[0], jax.lax.axis_size('fsdp')
    parts_nVD = gradient_VD.reshape(V, n, -1).swapaxes(0, 1)
    gradient_VD = jax.lax.psum_scatter(parts_nVD, 'fsdp', scatter_dimension=0)
    batch_axes = tuple(axis for axis in batch_axes if axis != 'fsdp')
  return (jax.lax.psum(gradient_VD, batch_axes) if batch_axes else gradient_VD,)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def loss_sums(
  tables,
  x_BTD: jax.Array,
  batch: dict[str, jax.Array],
  sid_softmax: str,
  text_targets: bool,
  extras: Loss = NO_EXTRAS,
) -> dict[str, jax.Array]:
  """Weighted sums of the loss in nats, and their weights.

  The loss of a target is its negative log-likelihood; with label smoothing e, the cross-entropy against
  (1 - e) of the target and e spread over the K classes of its softmax (Szegedy et al., arXiv 1512.00567,
  section 7); with a z-loss c, plus c times the squared log of the softmax's denominator (PaLM, arXiv
  2204.02311, section 5).

  Args:
    tables: the output tables of the model (`recjax.models.embedding.TokenTables`).
    x_BTD: states that predict `batch['targets']`.
    batch: int32 `targets` and float32 `weights` `[B, T]`; weight 0 for positions without a target.
    sid_softmax: 'level': a SID target is normalised over its level's codes and a text target over the
      text vocabulary; 'full': both over the whole vocabulary.
    text_targets: whether the stream holds text targets at all; without them no text logits exist.
    extras: the coefficients of the z-loss and of label smoothing.

  Returns:
    `loss` and `weight`, and under 'level' `loss_level_<l>` and `weight_level_<l>` (l from 1).
  """
  batch = {name: batch[name] for name in ('targets', 'weights')}
  text_VD, sid_VD = tables.output_tables()
  sums = functools.partial(
    _sums, tables, sid_softmax=sid_softmax, text_targets=text_targets, extras=extras
  )
  cut = table_sharding((text_VD, sid_VD), x_BTD.shape[0])
  if cut is None:
    return sums(text_VD, sid_VD, x_BTD, batch)

  def local_sums(text_VD, sid_VD, x_BTD, batch):
    text_VD, sid_VD = (_gathered(t, cut.batch, cut.width is not None) for t in (text_VD, sid_VD))
    if cut.rows:
      x_BTD = jax.lax.pcast(x_BTD, cut.rows, to='varying')
    local = sums(text_VD, sid_VD, x_BTD, batch, axis=cut.rows, batch_axes=cut.batch)
    return jax.lax.psum(local, cut.batch) if cut.batch else local

  return jax.shard_map(
    local_sums,
    in_specs=(cut.table_spec, cut.table_spec, cut.batch_spec, cut.batch_spec),
    out_specs=P(),
    axis_names=cut.axes,
  )(text_VD, sid_VD, x_BTD, batch)
