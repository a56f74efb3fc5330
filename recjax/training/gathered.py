"""A table that is gathered for a loss inside `jax.shard_map`: gathered once, its gradient reduced once."""

import functools

import jax


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(rows_VD: jax.Array, batch_axes: tuple[str, ...], is_width_sharded: bool) -> jax.Array:
  """Gathers a table along its width; the backward pass reduces the gradient over the batch axes once."""
  if is_width_sharded:
    rows_VD = jax.lax.all_gather(rows_VD, 'fsdp', axis=1, tiled=True)
  replicated_axes = tuple(axis for axis in batch_axes if axis != 'fsdp' or not is_width_sharded)
  return jax.lax.pcast(rows_VD, replicated_axes, to='varying') if replicated_axes else rows_VD


def _forward(rows_VD, batch_axes, is_width_sharded):
  return gathered(rows_VD, batch_axes, is_width_sharded), None


def _backward(batch_axes, is_width_sharded, _, gradient_VD):
  if is_width_sharded:
    # The scattered axis must come first: along the last axis, a TPU runs a full all-reduce instead.
    V, n = gradient_VD.shape[0], jax.lax.axis_size('fsdp')
    parts_nVD = gradient_VD.reshape(V, n, -1).swapaxes(0, 1)
    gradient_VD = jax.lax.psum_scatter(parts_nVD, 'fsdp', scatter_dimension=0)
    batch_axes = tuple(axis for axis in batch_axes if axis != 'fsdp')
  return (jax.lax.psum(gradient_VD, batch_axes) if batch_axes else gradient_VD,)


gathered.defvjp(_forward, _backward)
