"""The loss under a softmax over a large vocabulary, at the learnt positions alone and in blocks of table rows.

Only positions with a weight need logits. Where prompts are long they are a tenth to a third of a batch. They are gathered,
and the products are compiled for several numbers of positions (`EIGHTHS`); a batch takes the smallest that holds its
learnt positions.

Logits `[N, V]` are never in memory at once. The forward pass iterates over blocks of rows. For each position
it keeps the log of the denominator (online log-sum-exp: Milakov and Gimelshein, arXiv 1805.02867) and the
target's logit. The backward pass recomputes each block's logits. Blocks divide V, not N: the gradient of a
block's rows is then complete after that block, and is written once instead of accumulated.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

BLOCK_BYTES = 1 << 27  # largest size of a block's float32 logits
EIGHTHS = (1, 2, 3, 4, 5, 6, 8)  # of the positions: the parts for which the products are compiled
LOGITS_FOR_PARTS = (
  1 << 23
)  # with fewer logits the further compilations would take longer than they save
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


def _scan_rows(wide: Wide, part: int, rows_VD, labels_N, body, carry):
  """Runs `body(carry, rows_CD, is_label_NC, real_1C)` over the blocks of one table.

  Args:
    wide: the softmax.
    part: index of the table in `wide.sizes`.
    rows_VD: rows of the table; inside `shard_map` those of this device.
    labels_N: classes, numbered through all tables.
    body: `real_1C` is False for padding rows.
    carry: initial carry.

  Returns:
    The last carry, and the body's outputs in the order of the rows.
  """
  V, D = rows_VD.shape
  block = block_rows(V, labels_N.size)
  first = V * jax.lax.axis_index(wide.axis) if wide.axis else 0
  labels_N = labels_N - sum(wide.sizes[:part])

  def step(carry, inputs):
    index, rows_CD = inputs
    at_1C = (first + index * block + jnp.arange(block, dtype=jnp.int32))[None]
    real_1C = at_1C < wide.sizes[part]
    return body(carry, rows_CD, (at_1C == labels_N[:, None]) & real_1C, real_1C)

  blocks = (jnp.arange(V // block, dtype=jnp.int32), rows_VD.reshape(V // block, block, D))
  carry, out = jax.lax.scan(step, carry, blocks)
  return carry, None if out is None else out.reshape(V, *out.shape[2:])


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


def _forward(wide: Wide, x_ND, tables, labels_N, weights_N):
  """Returns the weighted sum of losses, and the log of each denominator, float32 `[N]`: of learnt positions."""

  def body(seen: _Seen, rows_CD, is_label_NC, real_1C, x_ND):
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
    ), None

  def at_positions(x_KD, labels_K):
    zero = wide.zeros(labels_K.shape)
    seen = _Seen(zero + MASKED, zero, zero, zero)
    for part, rows_VD in enumerate(tables):
      seen, _ = _scan_rows(wide, part, rows_VD, labels_K, functools.partial(body, x_ND=x_KD), seen)
    return seen, ()

  (top, denominator, picked, total), _ = _at_learnt(wide, weights_N, at_positions, x_ND, labels_N)
  if wide.axis:
    own_top, top = top, jax.lax.pmax(top, wide.axis)
    denominator = denominator * jnp.exp(own_top - top)
    denominator, picked, total = jax.lax.psum((denominator, picked, total), wide.axis)
  lse_N = jnp.where(weights_N != 0, top + jnp.log(denominator), 0.0)
  share = wide.smoothing
  losses_N = lse_N - (1 - share) * picked - share / sum(wide.sizes) * total
  return jnp.sum((losses_N + wide.z_loss * lse_N**2) * weights_N), lse_N


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
  return _wide_forward(wide, x_BTD, tables, labels_BT, weights_BT)[0]


def _wide_forward(wide, x_BTD, tables, labels_BT, weights_BT):
  x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
  labels_N, weights_N = labels_BT.reshape(-1), weights_BT.reshape(-1)
  loss, lse_N = _forward(wide, x_ND, tables, labels_N, weights_N)
  return loss, (x_BTD, tables, labels_N, weights_N, lse_N)


def _wide_backward(wide, saved, gradient):
  x_BTD, tables, labels_N, weights_N, lse_N = saved
  x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
  share = wide.smoothing

  def body(dx_ND, rows_CD, is_label_NC, real_1C, x_ND, lse_N, factor_N):
    logits = wide.logits(x_ND, rows_CD)
    pull_N1 = (1 + 2 * wide.z_loss * lse_N)[:, None]
    d = pull_N1 * jnp.exp(logits - lse_N[:, None]) - jnp.where(is_label_NC, 1 - share, 0.0)
    d = jnp.where(real_1C, d - share / sum(wide.sizes), 0.0)
    d = d * factor_N[:, None] * wide.slope(logits)
    d = d.astype(x_ND.dtype)  # backward products use the dtype of the forward products
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    dx_ND = dx_ND + product('NC,CD->ND', d, rows_CD.astype(d.dtype))
    return dx_ND, product('NC,ND->CD', d, x_ND)

  def at_positions(x_KD, labels_K, lse_K, factor_K):
    at_K = functools.partial(body, x_ND=x_KD, lse_N=lse_K, factor_N=factor_K)
    dx_KD = wide.zeros(x_KD.shape)
    gradients = []
    for part, rows_VD in enumerate(tables):
      dx_KD, d_VD = _scan_rows(wide, part, rows_VD, labels_K, at_K, dx_KD)
      gradients.append(d_VD.astype(rows_VD.dtype))
    return dx_KD.astype(x_KD.dtype), tuple(gradients)

  factor_N = gradient * weights_N
  dx_ND, gradients = _at_learnt(wide, weights_N, at_positions, x_ND, labels_N, lse_N, factor_N)
  return dx_ND.reshape(x_BTD.shape), gradients, None, None


wide_loss.defvjp(_wide_forward, _wide_backward)
