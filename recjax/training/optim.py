"""The optimizer: schedules, parameter groups, clipping, AdamW or Adafactor, averaged parameters.

Frozen parameters are no part of what is optimized: `split` takes them out of the tree, so they have neither
gradients nor moments, and `join` puts them back as they were.
"""

from collections.abc import Iterable
import math
import re
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import optax

from recjax.models import lora
from recjax.schema.checks import check
from recjax.schema.optim import Group, Optim

_REST = Group(pattern='')
_FROZEN = Group(pattern='', frozen=True)


def schedule(optim: Optim, num_train_steps: int) -> optax.Schedule:
  """Learning rate by step: a linear warm-up from 0, then `optim.schedule`.

  `cosine` and `linear` end at 0; `inverse_sqrt` is learning_rate · sqrt(warmup_steps / step), as T5 was
  trained (arXiv 1910.10683, section 3.1.2).
  """
  decay_steps = max(num_train_steps - optim.warmup_steps, 1)
  begin = max(optim.warmup_steps, 1)
  tail = {
    'cosine': optax.cosine_decay_schedule(optim.learning_rate, decay_steps),
    'linear': optax.linear_schedule(optim.learning_rate, 0.0, decay_steps),
    'constant': optax.constant_schedule(optim.learning_rate),
    'inverse_sqrt': lambda after: optim.learning_rate * jnp.sqrt(begin / (begin + after)),
  }[optim.schedule]
  if optim.warmup_steps == 0:
    return tail
  warmup = optax.linear_schedule(0.0, optim.learning_rate, optim.warmup_steps)
  return optax.join_schedules([warmup, tail], [optim.warmup_steps])


def _group(path: Iterable[Any], optim: Optim, rest: Group = _REST) -> Group:
  """The first group whose pattern is found in the path."""
  name = '/'.join(map(str, path))
  return next((g for g in optim.groups.values() if re.search(g.pattern, name)), rest)


def split(params: Any, optim: Optim) -> tuple[Any, Any]:
  """(trained, frozen): two trees of nested dicts that together hold every leaf of `params`.

  With adapters (a subtree `lora`) everything else is frozen that no group names.
  """
  parts = ({}, {})
  for path, x in traverse_util.flatten_dict(params).items():
    rest = _FROZEN if lora.NAME in params and path[0] != lora.NAME else _REST
    parts[_group(path, optim, rest).frozen][path] = x
  trained, frozen = map(traverse_util.unflatten_dict, parts)
  return trained, frozen


def join(trained: Any, frozen: Any) -> Any:
  """The tree that was split."""
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(frozen)
  )


def _check_groups(params: Any, optim: Optim) -> None:
  paths = list(traverse_util.flatten_dict(params))
  named = [_group(path, optim) for path in paths]
  for name, group in optim.groups.items():
    check(
      any(group is other for other in named),
      f'optim.groups.{name}.pattern must be found in a parameter that no group before it names; there '
      f'are {", ".join("/".join(map(str, path)) for path in paths[:6])}, …',
      group.pattern,
      f'optim.groups.{name}.pattern',
    )
  check(
    bool(jax.tree.leaves(split(params, optim)[0])),
    'optim.groups must leave a parameter to train',
    {name: group.pattern for name, group in optim.groups.items() if group.frozen},
    'optim.groups.<name>.frozen',
  )


def describe(params: Any, optim: Optim) -> str:
  """How many of the parameters are trained."""
  sizes = [sum(math.prod(x.shape) for x in jax.tree.leaves(t)) for t in split(params, optim)]
  return f'{sizes[0]:,} parameters are trained, {sizes[1]:,} are frozen'


def _keys(path: tuple[jax.tree_util.DictKey, ...]) -> tuple[Any, ...]:
  return tuple(entry.key for entry in path)


def _decayed_weights(optim: Optim) -> optax.GradientTransformation:
  """Adds decay · parameter, where there is decay: to matrices and tables, not to norms and biases."""

  def decayed(path, update, x):
    keys = _keys(path)
    rate = optim.weight_decay * _group(keys, optim).weight_decay
    return update if keys[-1] in ('scale', 'bias') or rate == 0 else update + rate * x

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(decayed, updates, params)
  )


def _scaled_by_group(optim: Optim) -> optax.GradientTransformation:
  """The groups' factors on the learning rate."""

  def scaled(path, update):
    factor = _group(_keys(path), optim).learning_rate
    return update if factor == 1 else factor * update

  return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates))


def _rms(path, x: jax.Array) -> jax.Array:
  """Root mean square of a parameter, of each layer of a stack by itself; the axes are kept."""
  axes = tuple(range('layers' in _keys(path), x.ndim))
  return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))


def _clipped_by_rms() -> optax.GradientTransformation:
  def clipped(path, update):
    return update / jnp.maximum(1.0, _rms(path, update))

  return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(clipped, updates))


def _scaled_by_parameter() -> optax.GradientTransformation:
  def scaled(path, update, x):
    return update * jnp.maximum(_rms(path, x), 1e-3)

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates, params)
  )


def _adafactor(optim: Optim) -> optax.GradientTransformation:
  """Shazeer & Stern (arXiv 1804.04235): factored second moments of matrices, updates of RMS at most 1.

  Optax leaves sizes below 128 whole; with heads of 64 those would be two fifths of T5-XL.
  """
  scaled = _scaled_by_parameter() if optim.parameter_scale else optax.identity()
  return optax.chain(
    optax.scale_by_factored_rms(min_dim_size_to_factor=64), _clipped_by_rms(), scaled
  )


class Averaged(NamedTuple):
  """The optimizer's state where parameters are averaged.

  Attributes:
    count: int32, the steps averaged over.
    average: of the trained parameters.
    inner: the state of the optimizer itself.
  """

  count: jax.Array
  average: Any
  inner: optax.OptState


def _averaging(inner: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
  """Keeps an exponential moving average of what the updates make of the parameters.

  After t steps parameters p_s have weights in proportion to decay^(t - s), s from 1 to t: the values
  before the first step have none.
  """

  def init(params):
    return Averaged(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), inner.init(params))

  def update(updates, state, params):
    updates, inner_state = inner.update(updates, state.inner, params)
    count = state.count + 1
    # 1 - decay^count, precise for a decay close to 1
    weight = (1 - decay) / -jnp.expm1(count * math.log(decay))
    average = jax.tree.map(
      lambda old, new: old + weight * (new - old),
      state.average,
      optax.apply_updates(params, updates),
    )
    return updates, Averaged(count, average, inner_state)

  return optax.GradientTransformation(init, update)


def swap_average(params: Any, opt_state: optax.OptState) -> tuple[Any, optax.OptState]:
  """Exchanges the parameters and their average, where the optimizer keeps one; twice is not at all."""
  if not isinstance(opt_state, Averaged):
    return params, opt_state
  flat = traverse_util.flatten_dict(params)
  average = traverse_util.flatten_dict(opt_state.average)
  raw = traverse_util.unflatten_dict({path: flat[path] for path in average})
  return traverse_util.unflatten_dict(flat | average), opt_state._replace(average=raw)


def averaged_params(state) -> Any:
  """The parameters of a `TrainState` to evaluate and export: their average, where one is kept."""
  return swap_average(state.params, state.opt_state)[0]


def optimizer(optim: Optim, num_train_steps: int) -> optax.GradientTransformation:
  """Clipping by the global norm (where clip_norm > 0), then AdamW or Adafactor.

  AdamW: Loshchilov & Hutter, 2019 (arXiv 1711.05101). Weight decay is multiplied by the learning rate,
  under Adafactor too.

  Returns:
    A transformation whose `init` takes the whole tree of parameters, and whose `update` takes and returns
    the trained part (see `split`). `init` raises a ValueError where a group names no parameter.
  """
  if optim.optimizer == 'adafactor':
    direction = _adafactor(optim)
  else:
    direction = optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.eps)
  # What is switched off keeps its place, so that the tree of the state stays the same.
  inner = optax.chain(
    optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm > 0 else optax.identity(),
    direction,
    _decayed_weights(optim),
    optax.scale_by_learning_rate(schedule(optim, num_train_steps)),
    _scaled_by_group(optim),
  )
  if optim.ema_decay > 0:
    inner = _averaging(inner, optim.ema_decay)

  def init(params):
    _check_groups(params, optim)
    return inner.init(split(params, optim)[0])

  return optax.GradientTransformation(init, inner.update)
