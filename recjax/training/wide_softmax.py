"""The loss under a softmax over a large vocabulary, at the learnt positions alone and in blocks of table rows.

Only positions with a weight need logits. Where prompts are long they are a tenth to a third of a batch. They are gathered,
and the products are compiled for several numbers of positions (`EIGHTHS`); a batch takes the smallest that holds its
learnt positions.

Two passes iterate over blocks of rows. For each position the first keeps the log of the denominator (online
log-sum-exp: Milakov and Gimelshein, arXiv 1805.02867) and the target's logit. The second computes gradients. Blocks
divide V, not N: the gradient of a block's rows is then complete after that block, and is written once instead of
accumulated. The second pass computes each block's logits again, except for few float32 logits (`keeps_logits`), which
it finds in memory. Both passes run in the forward pass of the model, because the loss only scales the gradients; over
sharded rows the second runs in the backward pass.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

BLOCK_BYTES = 1 << 27  # largest size of a block's float32 logits
EIGHTHS = (1, 2, 3, 4, 5, 6, 8)  # of the positions: the parts for which the products are compiled
# With fewer logits the further compilations would take longer than they save.
LOGITS_FOR_PARTS = 1 << 23
KEPT_BYTES = 1 << 30  # largest size of logits that the second pass reads
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

  def logits(self, x_ND: jax.Array, rows_CD: jax.Array) -> jax.Array:
    """Returns float32 logits `[N, C]`."""
    rows_CD = rows_CD.astype(x_ND.dtype)
    logits = jnp.einsum('ND,CD->NC', x_ND, rows_CD, preferred_element_type=jnp.float32)
    logits = logits * self.scale if self.scale != 1.0 else logits
    return jnp.tanh(logits / self.softcap) * self.softcap if self.softcap else logits

  def slope(self, logits: jax.Array) -> jax.Array | float:
    """Returns the derivative of the logits with respect to the unscaled products."""
    return self.scale * (1 - (logits / self.softcap) ** 2) if self.softcap else self.scale


class _Seen(NamedTuple):
  """Running values of each position over the rows processed so far, float32 `[N]`."""

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


def keeps_logits(rows: int, positions: int, dtype: jax.typing.DTypeLike) -> bool:
  """Returns whether the logits of all rows stay in memory between the passes.

  Programs for accelerators compute in bfloat16. There, for widths up to about a thousand, it takes no longer to compute
  a float32 logit again than to write and read it. On CPUs it takes ten times as long.
  """
  return jnp.dtype(dtype) == jnp.float32 and 4 * rows * positions <= KEPT_BYTES


def _scan_rows(wide: Wide, part: int, rows_VD, labels_N, body, carry, kept=None):
  """Runs `body(carry, rows_CD, is_label_NC, real_1C, kept_NC)` over the n blocks of one table.

  Args:
    wide: the softmax.
    part: index of the table in `wide.sizes`.
    rows_VD: rows of the table; inside `shard_map` those of this device.
    labels_N: classes, numbered through all tables.
    body: `real_1C` is False for padding rows.
    carry: initial carry.
    kept: logits `[n, N, C]`, or None.

  Returns:
    The last carry, and the body's outputs `[n, ...]` in the order of the rows.
  """
  V, D = rows_VD.shape
  block = block_rows(V, labels_N.size)
  first = V * jax.lax.axis_index(wide.axis) if wide.axis else 0
  labels_N = labels_N - sum(wide.sizes[:part])

  def step(carry, inputs):
    index, rows_CD, kept_NC = inputs
    at_1C = (first + index * block + jnp.arange(block, dtype=jnp.int32))[None]
    real_1C = at_1C < wide.sizes[part]
    is_label_NC = (at_1C == labels_N[:, None]) & real_1C
    return body(carry, rows_CD, is_label_NC, real_1C, kept_NC)

  n = V // block
  blocks = (jnp.arange(n, dtype=jnp.int32), rows_VD.reshape(n, block, D), kept)
  return jax.lax.scan(step, carry, blocks)


def _at_learnt(wide: Wide, weights_N: jax.Array, body: Callable, *arrays_N: jax.Array):
  """Calls `body(*arrays_K)` at the K positions of the smallest part that holds all with a weight.

  Args:
    wide: the softmax.
    weights_N: the weights.
    body: returns arrays of the K positions, and further ones.
    arrays_N: arrays of the positions.

  Returns:
    The arrays of the positions, `[N, ...]` with zeros where nothing is learnt, and the further ones.
  """
  N = weights_N.size
  if N * sum(wide.sizes) < LOGITS_FOR_PARTS:
    return body(*arrays_N)
  is_learnt_N = weights_N != 0
  order_N = jnp.argsort(~is_learnt_N, stable=True)
  count_N = jnp.cumsum(is_learnt_N, dtype=jnp.int32)  # of learnt positions up to this one
  sizes = sorted({-(-N * part // 8) for part in EIGHTHS})

  def at_first(K: int):
    found, further = body(*(array_N[order_N[:K]] for array_N in arrays_N))
    # A gather, because a scatter of rows is slow on TPUs.
    place_N = jnp.clip(count_N - 1, 0, K - 1)

    def spread(some_K):
      is_learnt = is_learnt_N.reshape(N, *[1] * (some_K.ndim - 1))
      return jnp.where(is_learnt, some_K[place_N], jnp.zeros((), some_K.dtype))

    return jax.tree.map(spread, found), further

  chosen = jnp.sum(count_N[-1] > jnp.array(sizes[:-1], jnp.int32), dtype=jnp.int32)
  return jax.lax.switch(chosen, [functools.partial(at_first, K) for K in sizes])


def _seen(wide: Wide, x_ND, tables, labels_N, keep: bool = False):
  """The first pass: returns `_Seen`, and of each table the logits `[n, N, C]`, or None if they are not kept."""

  def body(seen: _Seen, rows_CD, is_label_NC, real_1C, _):
    logits = wide.logits(x_ND, rows_CD)
    masked = jnp.where(real_1C, logits, MASKED)
    top = jnp.maximum(seen.top, jnp.max(masked, axis=-1))
    total = seen.total
    if wide.smoothing:
      total = total + jnp.sum(jnp.where(real_1C, logits, 0.0), axis=-1)
    return _Seen(
      top,
      seen.denominator * jnp.exp(seen.top - top) + jnp.sum(jnp.exp(masked - top[:, None]), -1),
      seen.picked + jnp.sum(jnp.where(is_label_NC, logits, 0.0), axis=-1),
      total,
    ), logits if keep else None

  zero = wide.zeros(labels_N.shape)
  seen, kept = _Seen(zero + MASKED, zero, zero, zero), []
  for part, rows_VD in enumerate(tables):
    seen, logits = _scan_rows(wide, part, rows_VD, labels_N, body, seen)
    kept.append(logits)
  return seen, kept


def _losses(wide: Wide, seen: _Seen) -> tuple[jax.Array, jax.Array]:
  """Returns the loss of each position, and the log of its denominator."""
  lse_N = seen.top + jnp.log(seen.denominator)
  share = wide.smoothing
  losses_N = lse_N - (1 - share) * seen.picked - share / sum(wide.sizes) * seen.total
  return losses_N + wide.z_loss * lse_N**2, lse_N


def _gradients(wide: Wide, x_ND, tables, labels_N, lse_N, factor_N, kept):
  """The second pass: returns the gradients of the states, float32, and of the tables.

  Args:
    factor_N: derivative of the result with respect to each position's loss.
    kept: see `_seen`.
  """
  share = wide.smoothing

  def body(dx_ND, rows_CD, is_label_NC, real_1C, kept_NC):
    logits = wide.logits(x_ND, rows_CD) if kept_NC is None else kept_NC
    pull_N1 = (1 + 2 * wide.z_loss * lse_N)[:, None]
    d = pull_N1 * jnp.exp(logits - lse_N[:, None]) - jnp.where(is_label_NC, 1 - share, 0.0)
    d = jnp.where(real_1C, d - share / sum(wide.sizes), 0.0)
    # Where the factor is 0 the exponential may be infinite.
    d = jnp.where(factor_N[:, None] != 0, d * factor_N[:, None] * wide.slope(logits), 0.0)
    d = d.astype(x_ND.dtype)  # these products have the dtype of the first pass
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    dx_ND = dx_ND + product('NC,CD->ND', d, rows_CD.astype(d.dtype))
    return dx_ND, product('NC,ND->CD', d, x_ND)

  dx_ND = wide.zeros(x_ND.shape)
  gradients = []
  for part, rows_VD in enumerate(tables):
    dx_ND, d = _scan_rows(wide, part, rows_VD, labels_N, body, dx_ND, kept[part])
    gradients.append(d.reshape(rows_VD.shape).astype(rows_VD.dtype))
  return dx_ND, tuple(gradients)


def _loss_alone(wide: Wide, x_ND, tables, labels_N, weights_N):
  """Returns the weighted sum of losses, and the log of each denominator, float32 `[N]`: of learnt positions."""

  def at_positions(x_KD, labels_K):
    return _seen(wide, x_KD, tables, labels_K)[0], ()

  seen, _ = _at_learnt(wide, weights_N, at_positions, x_ND, labels_N)
  if wide.axis:
    top = jax.lax.pmax(seen.top, wide.axis)
    sums = (seen.denominator * jnp.exp(seen.top - top), seen.picked, seen.total)
    seen = _Seen(top, *jax.lax.psum(sums, wide.axis))
  is_learnt_N = weights_N != 0
  seen = seen._replace(denominator=jnp.where(is_learnt_N, seen.denominator, 1.0))
  losses_N, lse_N = _losses(wide, seen)
  return jnp.sum(losses_N * weights_N), jnp.where(is_learnt_N, lse_N, 0.0)


def _loss_and_gradients(wide: Wide, x_ND, tables, labels_N, weights_N):
  """Returns the weighted sum of losses, and its gradients for the states, float32, and for the tables."""

  def at_positions(x_KD, labels_K, weights_K):
    rows = sum(len(rows_VD) for rows_VD in tables)
    keep = keeps_logits(rows, labels_K.size, x_KD.dtype)
    seen, kept = _seen(wide, x_KD, tables, labels_K, keep)
    losses_K, lse_K = _losses(wide, seen)
    dx_KD, gradients = _gradients(wide, x_KD, tables, labels_K, lse_K, weights_K, kept)
    return dx_KD, (jnp.sum(losses_K * weights_K), gradients)

  dx_ND, (loss, gradients) = _at_learnt(wide, weights_N, at_positions, x_ND, labels_N, weights_N)
  return loss, dx_ND, gradients


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
    weights_BT: float32; constants, so they get no gradient.
  """
  x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
  return _loss_alone(wide, x_ND, tables, labels_BT.reshape(-1), weights_BT.reshape(-1))[0]


def _wide_forward(wide, x_BTD, tables, labels_BT, weights_BT):
  x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
  labels_N, weights_N = labels_BT.reshape(-1), weights_BT.reshape(-1)
  if wide.axis is None:
    loss, dx_ND, gradients = _loss_and_gradients(wide, x_ND, tables, labels_N, weights_N)
    return loss, (dx_ND.reshape(x_BTD.shape), gradients, jnp.zeros((), x_BTD.dtype))
  # Devices with other rows of the batch may take another part, and a conditional must not hold the sums over the axis.
  loss, lse_N = _loss_alone(wide, x_ND, tables, labels_N, weights_N)
  return loss, (x_BTD, tables, labels_N, weights_N, lse_N)


def _wide_backward(wide, saved, gradient):
  if wide.axis is None:
    dx_BTD, gradients, like = saved
    dx_BTD, gradients = jax.tree.map(lambda x: gradient * x, (dx_BTD, gradients))
    return dx_BTD.astype(like.dtype), gradients, None, None
  x_BTD, tables, labels_N, weights_N, lse_N = saved
  x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])

  def at_positions(x_KD, labels_K, lse_K, factor_K):
    none = [None] * len(tables)
    return _gradients(wide, x_KD, tables, labels_K, lse_K, factor_K, none)

  factor_N = gradient * weights_N
  dx_ND, gradients = _at_learnt(wide, weights_N, at_positions, x_ND, labels_N, lse_N, factor_N)
  return dx_ND.reshape(x_BTD.shape).astype(x_BTD.dtype), gradients, None, None


wide_loss.defvjp(_wide_forward, _wide_backward)
