"""Parameter sharding rules: from a parameter's path to a PartitionSpec."""

from collections.abc import Mapping
import math
import re
from typing import Any

from jax.sharding import PartitionSpec as P
import numpy as np

Rules = tuple[tuple[str, tuple[P, ...]], ...]  # (regular expression, specs in order of preference)

# Rules of the layers that all backbones share. A family with other parameters puts its rules before them
# (`recjax.models.family.Family`). The first pattern found in a path applies. Of its specs, the first one whose
# axes divide the dimensions applies: if `tensor` does not divide the heads, D is sharded instead. Paths are
# joined with '/'. Stacked layers have the depth as their first dimension.
PARAMETER_RULES: Rules = (
  (r'tables/((text|sid)(_out)?|items)$', (P('tensor', 'fsdp'),)),  # V, D
  # depth, inputs, rank and depth, rank, outputs: sharded like the kernel
  (r'lora/.*(out|down)/kernel/a$', (P(None, 'tensor', None),)),
  (r'lora/.*(out|down)/kernel/b$', (P(None, None, 'fsdp'),)),
  (r'lora/.*/a$', (P(None, 'fsdp', None),)),
  (r'lora/.*/b$', (P(None, None, 'tensor'),)),
  (
    r'layers/.*attention/[qkv]/kernel$',  # depth, D, heads, H
    (P(None, 'fsdp', 'tensor', None), P(None, ('fsdp', 'tensor'), None, None)),
  ),
  (
    r'layers/.*attention/out/kernel$',  # depth, N, H, D
    (P(None, 'tensor', None, 'fsdp'), P(None, None, None, ('fsdp', 'tensor'))),
  ),
  (r'layers/.*ff/(gate|up)/kernel$', (P(None, 'fsdp', 'tensor'),)),  # depth, D, F
  (r'layers/.*ff/down/kernel$', (P(None, 'tensor', 'fsdp'),)),  # depth, F, D
  # Replicated: norms, biases, relative position buckets.
  (r'(norm/scale|/bias|relative_bias/table)$', (P(),)),
)


def name_of(path: tuple[Any, ...]) -> str:
  """Returns a path of `jax.tree_util` as names joined with '/'."""
  return '/'.join(str(getattr(p, 'key', getattr(p, 'name', getattr(p, 'idx', p)))) for p in path)


def num_shards(axes: str | tuple[str, ...] | None, sizes: Mapping[str, int]) -> int:
  """Returns the number of shards that one entry of a spec makes."""
  return math.prod(sizes[axis] for axis in (() if axes is None else np.atleast_1d(axes)))


def fitted(spec: P, shape: tuple[int, ...], sizes: Mapping[str, int]) -> P:
  """Returns the spec without the axes that do not divide their dimensions."""
  fits = (n % num_shards(axes, sizes) == 0 for axes, n in zip(spec, shape, strict=False))
  return P(*(axes if fit else None for axes, fit in zip(spec, fits, strict=True)))


def rule_of(path: str, rules: Rules = PARAMETER_RULES) -> tuple[P, ...]:
  """Returns the specs of the first rule that matches the path; empty if none does."""
  return next((specs for pattern, specs in rules if re.search(pattern, path)), ())


def spec_of(
  path: str, shape: tuple[int, ...], sizes: Mapping[str, int], rules: Rules = PARAMETER_RULES
) -> P:
  """Returns the first spec of the matching rule that fits; if none fits, `fitted` of the first spec."""
  rule = rule_of(path, rules)
  if not rule or len(rule[0]) > len(shape):  # such as counts and placeholders of the optimizer
    return P()
  fits = (spec for spec in rule if fitted(spec, shape, sizes) == spec)
  return next(fits, fitted(rule[0], shape, sizes))


def factored_spec(path: str, shape: tuple[int, ...], full: tuple[int, ...], spec: P) -> P:
  """Returns the spec of a factored moment (Adafactor): the parameter's without the averaged dimension.

  If two dimensions have equal sizes, `v_row` lacks the later one and `v_col` the earlier one, as in optax.

  Args:
    path: path of the moment.
    shape: shape of the moment.
    full: shape of the parameter.
    spec: spec of the parameter.
  """
  averaged = [i for i in range(len(full)) if full[:i] + full[i + 1 :] == shape]
  if not averaged or not spec:
    return P()
  i = averaged[-1] if '/v_row/' in path else averaged[0]
  return P(*spec[:i], *spec[i + 1 :])
