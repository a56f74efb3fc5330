"""The loss under a softmax over a large vocabulary, computed in blocks of table rows.

Logits `[B, T, V]` are never in memory at once. The forward pass iterates over blocks of rows. For each position
it keeps the log of the denominator (online log-sum-exp: Milakov and Gimelshein, arXiv 1805.02867) and the
target's logit. The backward pass recomputes each block's logits. Blocks divide V, not T: the gradient of a
block's rows is then complete after that block, and is written once instead of accumulated.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

BLOCK_BYTES = 1 << 27  # largest size of a block's float32 logits
MASKED = -1e30  # finite, so that a block of only padding gives finite values


@dataclasses.dataclass(frozen=True)
class Wide:
  """A softmax over the rows of one or several tables, in this order.

  Attributes:
    sizes: the number of classes in each table. Rows after them are padding.
    scale: a factor on the logits.
    softcap: c of logits = c tanh(logits / c), applied after the scale. 0: no cap.
    z_loss, smoothing: see `recjax.training.loss.loss_sums`.
    axis: inside `shard_map`, the mesh axis that shards the rows of the tables, or None.
    batch_axes: inside `shard_map`, the mesh axes that shard the batch.
  """

  sizes: tuple[int, ...]
  scale: float = 1.0
  softcap: float = 0.0
  z_loss: float = 0.0
  smoothing: float = 0.0
  axis: str | None = None
  batch_axes: tuple[str, ...] = ()

  def zeros(self, shape: tuple[int, ...]) -> jax.Array:
    """Returns float32 zeros to start a scan with, marked as varying over the mesh axes."""
    zeros = jnp.zeros(shape, jnp.float32)
    axes = self.batch_axes if self.axis is None else (*self.batch_axes, self.axis)
    return jax.lax.pcast(zeros, axes, to='varying') if axes else zeros

  def logits(self, x_BTD: jax.Array, rows_CD: jax.Array) -> jax.Array:
    """Returns float32 logits `[B, T, C]`."""
    rows_CD = rows_CD.astype(x_BTD.dtype)
    logits = jnp.einsum('BTD,CD->BTC', x_BTD, rows_CD, preferred_element_type=jnp.float32)
    logits = logits * self.scale if self.scale != 1.0 else logits
    return jnp.tanh(logits / self.softcap) * self.softcap if self.softcap else logits

  def slope(self, logits: jax.Array) -> jax.Array | float:
    """Returns the derivative of the logits with respect to the unscaled products."""
    return self.scale * (1 - (logits / self.softcap) ** 2) if self.softcap else self.scale


class _Seen(NamedTuple):
  """Running values of each position over the rows processed so far, float32 `[B, T]`."""

  top: jax.Array  # the largest logit
  denominator: jax.Array  # sum of exp(logit - top)
  picked: jax.Array  # the target's logit; 0 until its row is processed
  total: jax.Array  # sum of the logits; 0 without label smoothing


def block_rows(rows: int, positions: int) -> int:
  """Returns the largest divisor of `rows` whose float32 logits fit BLOCK_BYTES, if possible a multiple of 64."""
  limit = max(BLOCK_BYTES // (4 * positions), 1)
  unit = 64 if rows % 64 == 0 and limit >= 64 else 1
  count = rows // unit
  return unit * max(n for n in range(1, min(limit // unit, count) + 1) if count % n == 0)


def _scan_rows(wide: Wide, part: int, rows_VD, labels_BT, body, carry):
  """Runs `body(carry, rows_CD, is_label_BTC, real_11C)` over the blocks of one table.

  Args:
    wide: the softmax.
    part: index of the table in `wide.sizes`.
    rows_VD: rows of the table; inside `shard_map` those of this device.
    labels_BT: classes, numbered through all tables.
    body: `real_11C` is False for padding rows.
    carry: initial carry.

  Returns:
    The last carry, and the body's outputs in the order of the rows.
  """
  V, D = rows_VD.shape
  block = block_rows(V, labels_BT.size)
  first = V * jax.lax.axis_index(wide.axis) if wide.axis else 0
  labels_BT = labels_BT - sum(wide.sizes[:part])

  def step(carry, inputs):
    index, rows_CD = inputs
    at_11C = (first + index * block + jnp.arange(block, dtype=jnp.int32))[None, None]
    real_11C = at_11C < wide.sizes[part]
    return body(carry, rows_CD, (at_11C == labels_BT[..., None]) & real_11C, real_11C)

  blocks = (jnp.arange(V // block, dtype=jnp.int32), rows_VD.reshape(V // block, block, D))
  carry, out = jax.lax.scan(step, carry, blocks)
  return carry, None if out is None else out.reshape(V, *out.shape[2:])


def _forward(wide: Wide, x_BTD, tables, labels_BT):
  """Returns the loss of each position and the log of its denominator, float32 `[B, T]`."""
  zero = wide.zeros(labels_BT.shape)
  seen = _Seen(zero + MASKED, zero, zero, zero)

  def body(seen: _Seen, rows_CD, is_label_BTC, real_11C):
    logits = wide.logits(x_BTD, rows_CD)
    masked = jnp.where(real_11C, logits, MASKED)
    top = jnp.maximum(seen.top, jnp.max(masked, axis=-1))
    total = seen.total
    if wide.smoothing:
      total = total + jnp.sum(jnp.where(real_11C, logits, 0.0), axis=-1)
    return _Seen(
      top,
      seen.denominator * jnp.exp(seen.top - top) + jnp.sum(jnp.exp(masked - top[..., None]), -1),
      seen.picked + jnp.sum(jnp.where(is_label_BTC, logits, 0.0), axis=-1),
      total,
    ), None

  for part, rows_VD in enumerate(tables):
    seen, _ = _scan_rows(wide, part, rows_VD, labels_BT, body, seen)
  top, denominator, picked, total = seen
  if wide.axis:
    top = jax.lax.pmax(seen.top, wide.axis)
    denominator = denominator * jnp.exp(seen.top - top)
    denominator, picked, total = jax.lax.psum((denominator, picked, total), wide.axis)
  lse = top + jnp.log(denominator)
  share = wide.smoothing
  return lse - (1 - share) * picked - share / sum(wide.sizes) * total + wide.z_loss * lse**2, lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def wide_loss(
  wide: Wide,
  x_BTD: jax.Array,
  tables: tuple[jax.Array, ...],
  labels_BT: jax.Array,
  weights_BT: jax.Array,
) -> jax.Array:
  """Returns the weighted sum of the positions' losses in nats, a float32 scalar.

  Args:
    wide: the softmax.
    x_BTD: states. Products are computed in their dtype and summed in float32.
    tables: float32 rows `[V, D]` of each table; inside `shard_map` with `wide.axis` this device's rows.
    labels_BT: int32 classes, numbered through all tables without their padding.
    weights_BT: float32.
  """
  return jnp.sum(_forward(wide, x_BTD, tables, labels_BT)[0] * weights_BT)


def _wide_forward(wide, x_BTD, tables, labels_BT, weights_BT):
  losses_BT, lse_BT = _forward(wide, x_BTD, tables, labels_BT)
  saved = (x_BTD, tables, labels_BT, weights_BT, losses_BT, lse_BT)
  return jnp.sum(losses_BT * weights_BT), saved


def _wide_backward(wide, saved, gradient):
  x_BTD, tables, labels_BT, weights_BT, losses_BT, lse_BT = saved
  factor_BT1 = (gradient * weights_BT)[..., None]
  share = wide.smoothing
  pull_BT1 = (1 + 2 * wide.z_loss * lse_BT)[..., None]

  def body(dx_BTD, rows_CD, is_label_BTC, real_11C):
    logits = wide.logits(x_BTD, rows_CD)
    d = pull_BT1 * jnp.exp(logits - lse_BT[..., None]) - jnp.where(is_label_BTC, 1 - share, 0.0)
    d = jnp.where(real_11C, d - share / sum(wide.sizes), 0.0) * factor_BT1 * wide.slope(logits)
    d = d.astype(x_BTD.dtype)  # backward products use the dtype of the forward products
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    dx_BTD = dx_BTD + product('BTC,CD->BTD', d, rows_CD.astype(d.dtype))
    return dx_BTD, product('BTC,BTD->CD', d, x_BTD)

  dx_BTD = wide.zeros(x_BTD.shape)
  gradients = []
  for part, rows_VD in enumerate(tables):
    dx_BTD, d_VD = _scan_rows(wide, part, rows_VD, labels_BT, body, dx_BTD)
    gradients.append(d_VD.astype(rows_VD.dtype))
  return dx_BTD.astype(x_BTD.dtype), tuple(gradients), None, gradient * losses_BT


wide_loss.defvjp(_wide_forward, _wide_backward)
