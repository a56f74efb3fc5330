"""The loss: sums with denominators, so that packing, accumulation and device counts change nothing."""

import jax
import jax.numpy as jnp

TEXT_CHUNK = 128  # positions of a row whose text logits exist at one time


def row_capacity(row_length: int, num_levels: int) -> int:
  """The most targets of one SID level in a row: items are shown whole, so each takes L tokens."""
  return -(-row_length // num_levels)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Negative log-likelihood in float32, of labels `[...]` under logits `[..., C]`."""
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - picked


def _level_loss(tables, x_BTD, targets_BT, weights_BT, level: int):
  """Sums over one SID level; only that level's logits are computed, only where it is the target."""
  space = tables.space
  first = space.sid_start + space.level_starts[level]
  codes_BT = targets_BT - first
  here_BT = (codes_BT >= 0) & (codes_BT < space.level_sizes[level])
  # Gathers the level's positions to the front of each row: a stable sort of one bit a position.
  capacity = row_capacity(x_BTD.shape[1], space.num_levels)
  at_BP = jnp.argsort(~here_BT, axis=1, stable=True)[:, :capacity]
  x_BPD = jnp.take_along_axis(x_BTD, at_BP[..., None], axis=1)
  here_BP = jnp.take_along_axis(here_BT, at_BP, axis=1)
  codes_BP = jnp.where(here_BP, jnp.take_along_axis(codes_BT, at_BP, axis=1), 0)
  weights_BP = jnp.where(here_BP, jnp.take_along_axis(weights_BT, at_BP, axis=1), 0.0)
  losses_BP = _cross_entropy(tables.level_logits(x_BPD, level), codes_BP)
  return jnp.sum(losses_BP * weights_BP), jnp.sum(weights_BP)


def _chunked_loss(logits_of, x_BTD, labels_BT, weights_BT):
  """Sums over wide logits, a chunk of T at a time, recomputed in the backward pass."""
  B, T, _ = x_BTD.shape
  chunk = TEXT_CHUNK if T % TEXT_CHUNK == 0 else T

  @jax.checkpoint
  def body(total, inputs):
    x, labels, weights = inputs
    return total + jnp.sum(_cross_entropy(logits_of(x), labels) * weights), None

  def split(x):
    return jnp.moveaxis(x.reshape(B, T // chunk, chunk, *x.shape[2:]), 1, 0)

  inputs = (split(x_BTD), split(labels_BT), split(weights_BT))
  total, _ = jax.lax.scan(body, jnp.zeros(()), inputs)
  return total, jnp.sum(weights_BT)


def loss_sums(
  tables, x_BTD: jax.Array, batch: dict[str, jax.Array], sid_softmax: str, text_targets: bool
) -> dict[str, jax.Array]:
  """Weighted sums of the negative log-likelihood in nats, and their weights.

  Args:
    tables: the output tables of the model (`recjax.models.embedding.TokenTables`).
    x_BTD: states that predict `batch['targets']`.
    batch: int32 `targets` and float32 `weights` `[B, T]`; weight 0 for positions without a target.
    sid_softmax: 'level': a SID target is normalised over its level's codes and a text target over the
      text vocabulary; 'full': both over the whole vocabulary.
    text_targets: whether the stream holds text targets at all; without them no text logits exist.

  Returns:
    `loss` and `weight`, and under 'level' `loss_level_<l>` and `weight_level_<l>` (l from 1).
  """
  targets, weights = batch['targets'], batch['weights']
  if sid_softmax == 'full':
    loss, weight = _chunked_loss(tables.all_logits, x_BTD, targets, weights)
    return {'loss': loss, 'weight': weight}
  sums = {'loss': jnp.zeros(()), 'weight': jnp.zeros(())}
  for level in range(tables.space.num_levels):
    loss, weight = _level_loss(tables, x_BTD, targets, weights, level)
    sums |= {f'loss_level_{level + 1}': loss, f'weight_level_{level + 1}': weight}
    sums['loss'] += loss
    sums['weight'] += weight
  if text_targets:
    is_text = targets < tables.space.sid_start
    loss, weight = _chunked_loss(
      tables.text_logits,
      x_BTD,
      jnp.where(is_text, targets, 0),
      jnp.where(is_text, weights, 0.0),
    )
    sums |= {'loss_text': loss, 'weight_text': weight}
    sums['loss'] += loss
    sums['weight'] += weight
  return sums
