"""The loss as weighted sums and their weights.

Sums make the loss independent of packing, gradient accumulation and the number of devices. Every device sums
over its own rows of the batch. A sharded table is gathered once before the logits are computed, and its
gradient is reduced once afterwards. In between, no array of the table's size is communicated.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from recjax.schema.optim import Loss
from recjax.sharding.mesh import table_sharding
from recjax.training.gathered import gathered
from recjax.training.wide_softmax import Wide, wide_loss

NO_EXTRAS = Loss()


def _cross_entropy(logits: jax.Array, labels: jax.Array, extras: Loss) -> jax.Array:
  """Returns the float32 losses of labels `[...]` under logits `[..., C]`."""
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  lse = jax.nn.logsumexp(logits, axis=-1)
  share = extras.label_smoothing
  expected = (1 - share) * picked + (share * jnp.mean(logits, axis=-1) if share else 0.0)
  return lse - expected + (extras.z_loss * lse**2 if extras.z_loss else 0.0)


def _level_loss(tables, sid_VD, x_BTD, targets_BT, weights_BT, level: int, extras: Loss):
  """Returns the weighted sum of losses, and the sum of weights, over the targets of one SID level.

  Computes only the logits of the level's codes, and only at the level's targets. The loss is NaN if a row has
  more targets of the level than `TokenSpace.row_capacity`; packing makes no such row.
  """
  space = tables.space
  start, size = space.level_starts[level], space.level_sizes[level]
  codes_BT = targets_BT - (space.sid_start + start)
  is_level_BT = (codes_BT >= 0) & (codes_BT < size)
  # Gathers the level's positions to the front of each row: a stable sort by one bit per position.
  capacity = space.row_capacity(x_BTD.shape[1])
  index_BP = jnp.argsort(~is_level_BT, axis=1, stable=True)[:, :capacity]
  x_BPD = jnp.take_along_axis(x_BTD, index_BP[..., None], axis=1)
  is_level_BP = jnp.take_along_axis(is_level_BT, index_BP, axis=1)
  codes_BP = jnp.where(is_level_BP, jnp.take_along_axis(codes_BT, index_BP, axis=1), 0)
  weights_BP = jnp.where(is_level_BP, jnp.take_along_axis(weights_BT, index_BP, axis=1), 0.0)
  logits_BPC = tables.logits(x_BPD, sid_VD[start : start + size])
  losses_BP = _cross_entropy(logits_BPC, codes_BP, extras)
  has_room = jnp.max(jnp.sum(is_level_BT, axis=1)) <= capacity
  return jnp.where(has_room, jnp.sum(losses_BP * weights_BP), jnp.nan), jnp.sum(weights_BP)


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
  """Computes `loss_sums` over this device's rows of the batch; `axis` is the mesh axis that shards V."""
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
  # A shard of V can end within a level. So every device along that axis computes the full level and
  # contributes an equal share of the sum.
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


def loss_sums(
  tables,
  x_BTD: jax.Array,
  batch: dict[str, jax.Array],
  sid_softmax: str,
  text_targets: bool,
  extras: Loss = NO_EXTRAS,
) -> dict[str, jax.Array]:
  """Computes weighted sums of the loss in nats, and the sums of the weights.

  The loss of a target is its negative log-likelihood. With label smoothing e it is the cross-entropy against
  a distribution with 1 - e on the target and e spread over the K classes of its softmax (Szegedy et al., arXiv
  1512.00567, section 7). A z-loss c adds c times the squared log of the softmax's denominator (PaLM, arXiv
  2204.02311, section 5).

  Args:
    tables: the output tables of the model (`recjax.models.embedding.TokenTables`).
    x_BTD: hidden states; position t predicts `batch['targets'][:, t]`.
    batch: int32 `targets` and float32 `weights` `[B, T]`; weight 0 for positions without a learnt target.
    sid_softmax: 'level': a SID target is normalised over its level's codes, a text target over the text
      vocabulary. 'full': both are normalised over the full vocabulary.
    text_targets: whether the stream has text targets. Without them no text logits are computed.
    extras: coefficients of z-loss and label smoothing.

  Returns:
    `loss` and `weight`. Under 'level' also `loss_level_<l>` and `weight_level_<l>` (l from 1), and with text
    targets `loss_text` and `weight_text`.
  """
  batch = {name: batch[name] for name in ('targets', 'weights')}
  text_VD, sid_VD = tables.output_tables()
  sums = functools.partial(
    _sums, tables, sid_softmax=sid_softmax, text_targets=text_targets, extras=extras
  )
  sharding = table_sharding((text_VD, sid_VD), x_BTD.shape[0])
  if sharding is None:
    return sums(text_VD, sid_VD, x_BTD, batch)

  def local_sums(text_VD, sid_VD, x_BTD, batch):
    text_VD, sid_VD = (
      gathered(t, sharding.batch, sharding.width is not None) for t in (text_VD, sid_VD)
    )
    if sharding.rows:
      x_BTD = jax.lax.pcast(x_BTD, sharding.rows, to='varying')
    local = sums(text_VD, sid_VD, x_BTD, batch, axis=sharding.rows, batch_axes=sharding.batch)
    return jax.lax.psum(local, sharding.batch) if sharding.batch else local

  return jax.shard_map(
    local_sums,
    in_specs=(sharding.table_spec, sharding.table_spec, sharding.batch_spec, sharding.batch_spec),
    out_specs=P(),
    axis_names=sharding.axes,
  )(text_VD, sid_VD, x_BTD, batch)
