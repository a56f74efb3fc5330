"""Sums of gradients over micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def micro_batches(batch: Any, count: int) -> Any:
  """Splits arrays `[B, …]` into `[count, B / count, …]`: row b goes to micro-batch b mod count.

  So no row moves between devices. Arrays may be empty, such as the excluded items of a run that excludes none.
  """

  def split(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(split, batch)


def summed_gradients(
  sums: Callable[..., tuple[jax.Array, Any]],
  trained: Any,
  frozen: Any,
  micros: Any,
  key: jax.Array,
) -> tuple[tuple[jax.Array, Any], Any]:
  """Returns the loss, the other sums, and the gradient of the loss, each summed over micro-batches.

  Args:
    sums: (trained, frozen, micro-batch, key) → the loss and other sums.
    trained: parameters with a gradient.
    frozen: the other parameters.
    micros: arrays `[A, B / A, …]`.
    key: micro-batch n gets the key folded with n.
  """
  compute = jax.value_and_grad(sums, has_aux=True)
  first = jax.tree.map(lambda x: x[0], micros)
  count = len(jax.tree.leaves(micros)[0])
  if count == 1:
    return compute(trained, frozen, first, jax.random.fold_in(key, 0))

  def body(carry, inputs):
    micro, index = inputs
    found = compute(trained, frozen, micro, jax.random.fold_in(key, index))
    return jax.tree.map(jnp.add, carry, found), None

  shapes = (jax.eval_shape(sums, trained, frozen, first, key), trained)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.lax.scan(body, zeros, (micros, jnp.arange(count)))[0]
