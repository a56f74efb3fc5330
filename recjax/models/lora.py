"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) as a function of the parameter tree.

The parameters of a run with adapters are the model's own tree with one more subtree, `lora`, in which
every adapted kernel's path ends in two matrices: `lora/layers/attention/q/kernel/{a,b}`. In training they stand
beside the kernels (`adapted`), which then have no gradient; elsewhere they are merged into them (`merge`).
"""

import functools
import math
import re
from typing import Any

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp

NAME = 'lora'


def base(params: dict[str, Any]) -> dict[str, Any]:
  """The model's own parameters, without adapters."""
  return {name: subtree for name, subtree in params.items() if name != NAME}


def _sizes(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
  """The stacked axes `(depth,)` or `()` of a kernel, and its sizes as a matrix: inputs, outputs."""
  stacked = int('layers' in path)
  inputs = len(shape) - 1 if path[-2] == 'out' else stacked + 1  # out: N, H, D; the others: D, ...
  return shape[:stacked], math.prod(shape[stacked:inputs]), math.prod(shape[inputs:])


def init(key: jax.Array, params: dict[str, Any], rank: int, targets: str) -> dict[str, Any]:
  """Fresh adapters, which change nothing yet: `a` normal of std 1/sqrt(inputs), `b` zero.

  Args:
    key: of the initial values.
    params: the model's parameters, of which only shapes are read.
    rank: r.
    targets: a regular expression, searched in the paths of kernels.

  Returns:
    The subtree `lora`: for each adapted kernel of `[depth, in..., out...]` float32 `a`
    `[depth, inputs, r]` and `b` `[depth, r, outputs]`, the sizes multiplied out; without the depth for a
    kernel that is not stacked.

  Raises:
    ValueError: no kernel matches.
  """
  kernels = {
    path: x for path, x in traverse_util.flatten_dict(base(params)).items() if path[-1] == 'kernel'
  }
  adapted = {path: x for path, x in kernels.items() if re.search(targets, '/'.join(path))}
  if not adapted:
    raise ValueError(
      f'model.lora_targets must match a kernel; {targets!r} matches none of '
      f'{", ".join(sorted("/".join(path) for path in kernels)[:5])}, … '
      'Set --config.model.lora_targets'
    )
  adapters = {}
  for index, path in enumerate(sorted(adapted)):
    stack, inputs, outputs = _sizes(path, adapted[path].shape)
    normal = jax.random.normal(jax.random.fold_in(key, index), (*stack, inputs, rank))
    adapters[*path, 'a'] = normal * inputs**-0.5
    adapters[*path, 'b'] = jnp.zeros((*stack, rank, outputs))
  return traverse_util.unflatten_dict(adapters)


def merge(params: dict[str, Any], alpha: float) -> dict[str, Any]:
  """The model's parameters with every adapted kernel W replaced by W + alpha / r · a b.

  Args:
    params: the model's tree, with or without a subtree `lora`; without one it is returned as it is.
    alpha: of the run that trained the adapters.
  """
  if NAME not in params:
    return params
  merged = traverse_util.flatten_dict(base(params))
  adapters = traverse_util.flatten_dict(params[NAME])
  for path in {path[:-1] for path in adapters}:
    a, b = adapters[*path, 'a'], adapters[*path, 'b']
    change = jnp.matmul(a, b, precision='highest') * (alpha / a.shape[-1])
    merged[path] = merged[path] + change.reshape(merged[path].shape)
  return traverse_util.unflatten_dict(merged)


def adapted(graph: nnx.GraphDef, params: dict[str, Any], alpha: float) -> nnx.Module:
  """The model that computes with adapters beside its kernels: x W + alpha / r · (x a) b.

  Args:
    graph: the structure of the model without adapters.
    params: the model's tree, with or without a subtree `lora`.
    alpha: as in `merge`.
  """
  model = nnx.merge(graph, base(params))
  adapters = traverse_util.flatten_dict(params.get(NAME, {}))
  for path in {path[:-1] for path in adapters}:
    a, b = adapters[*path, 'a'], adapters[*path, 'b']
    linear = functools.reduce(getattr, path[:-1], model)
    linear.adapter = nnx.List([nnx.Param(a), nnx.Param(b * (alpha / a.shape[-1]))])
  return model
