"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) as functions of the parameter tree.

With adapters, the parameter tree has a subtree `lora` with two matrices for each adapted kernel, such as
`lora/layers/attention/q/kernel/{a,b}`. In training, x a b is added to the kernel's output (`adapted`), and the
kernels have no gradients. For evaluation and export the matrices are merged into the kernels (`merge`).
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
  """Returns the model's own parameters, without adapters."""
  return {name: subtree for name, subtree in params.items() if name != NAME}


def input_axes(path: tuple[str, ...], axes: int) -> tuple[int, ...]:
  """Returns the axes of a kernel that are summed over; a stacked kernel has the depth as its first axis."""
  stacked = int('layers' in path)
  end = axes - 1 if path[-2] == 'out' else stacked + 1  # out: N, H, D; the others: D, ...
  return tuple(range(stacked, end))


def _sizes(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
  """Returns a kernel's stacked axes, `(depth,)` or `()`, and its sizes as a matrix: inputs, outputs."""
  first, end = (axes := input_axes(path, len(shape)))[0], axes[-1] + 1
  return shape[:first], math.prod(shape[first:end]), math.prod(shape[end:])


def init(key: jax.Array, params: dict[str, Any], rank: int, targets: str) -> dict[str, Any]:
  """Initialises adapters to a zero change: `a` normal with std 1/sqrt(inputs), `b` zero.

  Args:
    key: for the initial values.
    params: the model's parameters; only shapes are read.
    rank: rank of the adapters (r).
    targets: regular expression that is searched in the paths of kernels.

  Returns:
    The subtree `lora`: for each adapted kernel `[depth, in..., out...]` float32 `a` `[depth, inputs, r]` and
    `b` `[depth, r, outputs]`; without the depth for a kernel that is not stacked.

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
  """Merges adapters: replaces every adapted kernel W by W + alpha / r · a b.

  Args:
    params: the parameter tree; without a subtree `lora` it is returned unchanged.
    alpha: the value with which the adapters were trained.
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
  """Returns the model with adapters: its adapted layers compute x W + alpha / r · (x a) b.

  Args:
    graph: structure of the model without adapters.
    params: the parameter tree, with or without a subtree `lora`.
    alpha: as in `merge`.
  """
  model = nnx.merge(graph, base(params))
  adapters = traverse_util.flatten_dict(params.get(NAME, {}))
  for path in {path[:-1] for path in adapters}:
    a, b = adapters[*path, 'a'], adapters[*path, 'b']
    linear = functools.reduce(getattr, path[:-1], model)
    linear.adapter = nnx.List([nnx.Param(a), nnx.Param(b * (alpha / a.shape[-1]))])
  return model
