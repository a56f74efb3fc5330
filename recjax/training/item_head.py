"""The loss of the item head: a softmax over the catalogue, from the states that end items.

A complete semantic ID among the targets of a row is a target of the head, at the position that predicts its first
code. The logits of an item are the product of the state and of the item's vector, the sum of its code rows and its own row
(`TokenTables.item_vectors`). They are computed in blocks of items (`recjax.training.wide_softmax`).

From `loss.item_head_sampled_from` items on the denominator is estimated from items that are drawn uniformly, with
replacement, for the whole micro-batch: every sampled item other than the target stands for I / S items, so its logit is
corrected by log(I / S) (importance sampling: Bengio and Senécal, "Adaptive importance sampling to accelerate training of a
neural probabilistic language model", 2008). The expected denominator is that of the full softmax, up to the target's own draws.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from recjax.schema.optim import Loss
from recjax.sharding.mesh import table_sharding
from recjax.training.gathered import gathered
from recjax.training.wide_softmax import MASKED, Wide, wide_loss


def item_targets(tables, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Finds the complete semantic IDs among the targets of every row.

  Args:
    tables: `recjax.models.embedding.TokenTables`.
    batch: int32 `targets` and float32 `weights` `[B, T]`.

  Returns:
    index_BP, the positions that predict a first code; labels_BP, their items; and float32 weights_BP, 0 for
    positions without an item. P is the largest number of items of a row.
  """
  space, targets_BT = tables.space, batch['targets']
  start, levels = space.sid_start, space.num_levels
  is_first_BT = (targets_BT >= start) & (targets_BT < start + space.level_sizes[0])
  index_BP = jnp.argsort(~is_first_BT, axis=1, stable=True)
  index_BP = index_BP[:, : space.row_capacity(targets_BT.shape[1])]
  after_L = jnp.arange(levels, dtype=jnp.int32)[None, None]
  index_BPL = jnp.minimum(index_BP[..., None] + after_L, targets_BT.shape[1] - 1)
  tokens_BQ = jnp.take_along_axis(targets_BT, index_BPL.reshape(len(targets_BT), -1), axis=1)
  labels_BP = tables.find_items(tokens_BQ.reshape(index_BPL.shape))
  is_item_BP = jnp.take_along_axis(is_first_BT, index_BP, axis=1) & (labels_BP >= 0)
  weights_BP = jnp.take_along_axis(batch['weights'], index_BP, axis=1)
  return index_BP, jnp.maximum(labels_BP, 0), jnp.where(is_item_BP, weights_BP, 0.0)


def item_head_sums(
  tables, h_BTD: jax.Array, batch: dict[str, jax.Array], extras: Loss, key: jax.Array | None = None
) -> dict[str, jax.Array]:
  """Computes the weighted sum of the head's losses in nats, and the sum of the weights.

  Args:
    tables: the tables of the model, with rows of items.
    h_BTD: states that end items; position t predicts the item whose first code is `batch['targets'][:, t]`.
    batch: int32 `targets` and float32 `weights` `[B, T]`.
    extras: coefficients of z-loss and label smoothing; see `recjax.training.loss.loss_sums`.
    key: for the sample of items.

  Returns:
    `loss_item_head` and `weight_item_head`, without the factor `loss.item_head`.
  """
  index_BP, labels_BP, weights_BP = item_targets(tables, batch)
  h_BPD = jnp.take_along_axis(h_BTD, index_BP[..., None], axis=1)
  items = tables.space.catalogue.num_items
  if items >= extras.item_head_sampled_from:
    sample_S = jax.random.randint(key, (extras.item_head_samples,), 0, items, jnp.int32)
    losses_BP = sampled_losses(tables, h_BPD, labels_BP, sample_S, extras)
    return {
      'loss_item_head': jnp.sum(losses_BP * weights_BP),
      'weight_item_head': jnp.sum(weights_BP),
    }
  vectors_VD = tables.item_vectors()
  softmax = functools.partial(
    Wide,
    sizes=(items,),
    scale=tables.output_scale,
    softcap=tables.logit_softcap,
    z_loss=extras.z_loss,
    smoothing=extras.label_smoothing,
  )
  sharding = table_sharding((vectors_VD,), h_BTD.shape[0])
  if sharding is None:
    loss = wide_loss(softmax(), h_BPD, (vectors_VD,), labels_BP, weights_BP)
    return {'loss_item_head': loss, 'weight_item_head': jnp.sum(weights_BP)}

  def local(vectors_VD, h_BPD, labels_BP, weights_BP):
    rows_VD = gathered(vectors_VD, sharding.batch, sharding.width is not None)
    if sharding.rows:
      h_BPD = jax.lax.pcast(h_BPD, sharding.rows, to='varying')
    wide = softmax(axis=sharding.rows, batch_axes=sharding.batch)
    found = {
      'loss_item_head': wide_loss(wide, h_BPD, (rows_VD,), labels_BP, weights_BP),
      'weight_item_head': jnp.sum(weights_BP),
    }
    return jax.lax.psum(found, sharding.batch) if sharding.batch else found

  return jax.shard_map(
    local,
    in_specs=(sharding.table_spec, *(sharding.batch_spec,) * 3),
    out_specs=P(),
    axis_names=sharding.axes,
  )(vectors_VD, h_BPD, labels_BP, weights_BP)


def sampled_losses(
  tables, h_BPD: jax.Array, labels_BP: jax.Array, sample_S: jax.Array, extras: Loss
) -> jax.Array:
  """Returns the losses of labels with the denominator of a sample of items, float32 `[B, P]`; see the module."""
  picked_BPD = tables.item_vectors(labels_BP).astype(h_BPD.dtype)
  picked_BP1 = jnp.einsum('BPD,BPD->BP', h_BPD, picked_BPD, preferred_element_type=jnp.float32)[
    ..., None
  ]
  logits_BPS = tables.logits(h_BPD, tables.item_vectors(sample_S))
  if tables.output_scale != 1.0:
    picked_BP1 = picked_BP1 * tables.output_scale
  if tables.logit_softcap:
    picked_BP1 = jnp.tanh(picked_BP1 / tables.logit_softcap) * tables.logit_softcap
  is_label_BPS = sample_S[None, None] == labels_BP[..., None]
  each = math.log(tables.space.catalogue.num_items / len(sample_S))
  others_BPS = jnp.where(is_label_BPS, MASKED, logits_BPS + each)
  lse_BP = jax.nn.logsumexp(jnp.concatenate([picked_BP1, others_BPS], axis=-1), axis=-1)
  share = extras.label_smoothing
  expected_BP = (1 - share) * picked_BP1[..., 0]
  if share:
    expected_BP = expected_BP + share * jnp.mean(logits_BPS, axis=-1)
  return lse_BP - expected_BP + extras.z_loss * lse_BP**2
