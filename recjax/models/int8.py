"""Weights as 8-bit integers with float32 scales, as functions of the parameter tree.

A kernel W is stored as integers Q from -127 to 127 and a scale s for each output channel, the channel's largest absolute
weight / 127, so that W = Q s within s / 2 (absmax quantization, Dettmers et al., arXiv 2208.07339, section 2, of weights
alone). A layer computes (x Q) s: Q is converted to the type of x there, so no other copy of all weights exists. A table
has a scale for each row. Norms, biases and other small parameters stay as they are.

The scales are parameters beside the integers: `kernel_scale` beside `kernel`, `text_scale` beside `text`.
"""

import functools
from typing import Any

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp

from recjax.models import lora

SCALE = '_scale'  # the end of a scale's name
_MOST = 127


def is_stored(params: dict[str, Any]) -> bool:
  """Returns whether parameters are those of `stored`."""
  return any(x.dtype == jnp.int8 for x in jax.tree.leaves(params))


@functools.partial(jax.jit, static_argnames='alpha')
def stored(params: dict[str, Any], alpha: float) -> dict[str, Any]:
  """Returns parameters whose kernels and tables are integers with scales, adapters merged; see the module.

  Args:
    params: the parameter tree, in floats.
    alpha: of adapters, if there are any; see `lora.merge`.
  """
  found = {}
  for path, x in traverse_util.flatten_dict(lora.merge(params, alpha)).items():
    if path[-1] == 'kernel':
      axes = lora.input_axes(path, x.ndim)
    elif path[0] == 'tables':
      axes = (1,)
    else:
      found[path] = x
      continue
    found[path], found[*path[:-1], path[-1] + SCALE] = quantized(x, axes)
  return traverse_util.unflatten_dict(found)


def quantized(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """Returns int8 integers of the shape of x, and float32 scales without the axes that share a scale."""
  x = x.astype(jnp.float32)
  most = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
  scale = jnp.where(most > 0, most / _MOST, 1.0)
  return jnp.round(x / scale).astype(jnp.int8), jnp.squeeze(scale, axes)


def merge(graph: nnx.GraphDef, params: dict[str, Any]) -> nnx.Module:
  """Returns the model with its parameters, which may be those of `stored`.

  Args:
    graph: structure of the model in floats.
    params: the parameter tree without adapters.
  """
  flat = traverse_util.flatten_dict(params)
  scales = {
    path: x
    for path, x in flat.items()
    if path[-1].endswith(SCALE) and (*path[:-1], path[-1].removesuffix(SCALE)) in flat
  }
  floats = {path: x for path, x in flat.items() if path not in scales}
  model = nnx.merge(graph, traverse_util.unflatten_dict(floats))
  for path, scale in scales.items():
    setattr(functools.reduce(getattr, path[:-1], model), path[-1], nnx.Param(scale))
  return model
