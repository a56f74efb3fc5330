"""The optimizer: schedules, parameter groups, clipping, AdamW or Adafactor, averaged parameters.

`split` separates trained from frozen parameters before a step, so frozen ones have neither gradients nor
moments. `join` merges the two trees again.
"""

from collections.abc import Iterable, Sequence
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
from recjax.schema.run import Training

# Groups of parameters that no configured group matches.
_REST = Group(pattern='')
_FROZEN = Group(pattern='', frozen=True)


def schedule(optim: Optim, num_train_steps: int) -> optax.Schedule:
  """Returns the learning rate by step: a linear warm-up from 0, then `optim.schedule`.

  `cosine` and `linear` end at 0. `inverse_sqrt` is learning_rate · sqrt(warmup_steps / step), the schedule of
  T5 (arXiv 1910.10683, section 3.1.2).
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


def rate_change(old: Training, new: Training, step: int) -> dict[str, float] | None:
  """Compares the learning rate of the next step under two configs of a training.

  Args:
    old: config of the previous start.
    new: config of this start.
    step: number of completed steps, at least 1.

  Returns:
    `previous`: rate of the last step under the old config. `old`, `new`: rate of the next step under each
    config. None: both give the next step the same rate, or no step is left.
  """
  was, now = (schedule(config.optim, config.num_train_steps) for config in (old, new))
  rates = {'previous': float(was(step - 1)), 'old': float(was(step)), 'new': float(now(step))}
  return None if step >= new.num_train_steps or rates['old'] == rates['new'] else rates


def num_updates(opt_state: optax.OptState) -> int:
  """Returns the number of updates that a state of `optimizer` has made, the position in its schedule."""
  inner = opt_state.inner if isinstance(opt_state, Averaged) else opt_state
  return int(next(x.count for x in inner if isinstance(x, optax.ScaleByScheduleState)))


def _group(path: Iterable[Any], optim: Optim, rest: Group = _REST) -> Group:
  """Returns the first group whose pattern matches in the path."""
  name = '/'.join(map(str, path))
  return next((g for g in optim.groups.values() if re.search(g.pattern, name)), rest)


def is_sid_table(path: Sequence[Any]) -> bool:
  """Returns whether a path is that of a table of SID rows: `tables/sid`, or `tables/sid_out` if untied."""
  return path[0] == 'tables' and path[-1].startswith('sid')


def split(params: Any, optim: Optim) -> tuple[Any, Any]:
  """Splits nested dicts of parameters into (trained, frozen).

  With adapters (a subtree `lora`), parameters that no group matches are frozen, except the adapters and, unless
  `optim.train_sid_rows` is False, the SID rows. Text rows are another parameter, so they stay bit-identical.
  """
  parts = ({}, {})
  has_adapters = lora.NAME in params
  for path, x in traverse_util.flatten_dict(params).items():
    has_rows = is_sid_table(path) or path == ('tables', 'items')
    is_trained = path[0] == lora.NAME or (has_rows and optim.train_sid_rows is not False)
    rest = _FROZEN if has_adapters and not is_trained else _REST
    parts[_group(path, optim, rest).frozen][path] = x
  trained, frozen = map(traverse_util.unflatten_dict, parts)
  return trained, frozen


def join(trained: Any, frozen: Any) -> Any:
  """Merges the two trees of `split`."""
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(frozen)
  )


def _check_groups(params: Any, optim: Optim) -> None:
  paths = list(traverse_util.flatten_dict(params))
  named = [_group(path, optim) for path in paths]
  for name, group in optim.groups.items():
    check(
      any(group is other for other in named),
      f'optim.groups.{name}.pattern must match a parameter that no earlier group matches; the parameters '
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
  """Returns one line with the numbers of trained and frozen parameters."""
  sizes = [sum(math.prod(x.shape) for x in jax.tree.leaves(t)) for t in split(params, optim)]
  return f'{sizes[0]:,} parameters are trained, {sizes[1]:,} are frozen'


def _keys(path: tuple[jax.tree_util.DictKey, ...]) -> tuple[Any, ...]:
  return tuple(entry.key for entry in path)


def _decayed_weights(optim: Optim) -> optax.GradientTransformation:
  """Adds decay · parameter to the updates of matrices and tables; norms, biases and rates have no decay."""

  def decayed(path, update, x):
    keys = _keys(path)
    rate = optim.weight_decay * _group(keys, optim).weight_decay
    return update if keys[-1] in ('scale', 'bias', 'log_rate') or rate == 0 else update + rate * x

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(decayed, updates, params)
  )


def _scaled_by_group(optim: Optim) -> optax.GradientTransformation:
  """Multiplies updates by the learning-rate factors of their groups."""

  def scaled(path, update):
    factor = _group(_keys(path), optim).learning_rate
    return update if factor == 1 else factor * update

  return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates))


def _rms(path, x: jax.Array) -> jax.Array:
  """Returns the root mean square of a parameter, per layer if layers are stacked; axes are kept."""
  axes = tuple(range('layers' in _keys(path), x.ndim))
  return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))


def _clipped_by_rms() -> optax.GradientTransformation:
  """Scales updates down to an RMS of at most 1."""

  def clipped(path, update):
    return update / jnp.maximum(1.0, _rms(path, update))

  return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(clipped, updates))


def _scaled_by_parameter() -> optax.GradientTransformation:
  """Multiplies updates by the RMS of their parameters, at least 1e-3."""

  def scaled(path, update, x):
    return update * jnp.maximum(_rms(path, x), 1e-3)

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates, params)
  )


def _adafactor(optim: Optim) -> optax.GradientTransformation:
  """Shazeer & Stern (arXiv 1804.04235): factored second moments of matrices, updates of RMS at most 1.

  Dimensions of 64 or more are factored. With Optax's default of 128, two fifths of T5-XL would not be factored,
  because its heads are 64 wide.
  """
  scaled = _scaled_by_parameter() if optim.parameter_scale else optax.identity()
  return optax.chain(
    optax.scale_by_factored_rms(min_dim_size_to_factor=64), _clipped_by_rms(), scaled
  )


class Averaged(NamedTuple):
  """The optimizer state of a run with averaged parameters.

  Attributes:
    count: int32, number of averaged steps.
    average: average of the trained parameters.
    inner: state of the optimizer that computes the updates.
  """

  count: jax.Array
  average: Any
  inner: optax.OptState


def _averaging(inner: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
  """Keeps an exponential moving average of the updated parameters.

  After t steps, the parameters of step s (from 1 to t) have weights in proportion to decay^(t - s). The
  initial parameters have no weight.
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
  """Swaps the parameters with their average, if the optimizer keeps one.

  Calling it twice restores the original.
  """
  if not isinstance(opt_state, Averaged):
    return params, opt_state
  flat = traverse_util.flatten_dict(params)
  average = traverse_util.flatten_dict(opt_state.average)
  raw = traverse_util.unflatten_dict({path: flat[path] for path in average})
  return traverse_util.unflatten_dict(flat | average), opt_state._replace(average=raw)


def averaged_params(state) -> Any:
  """Returns the parameters of a `TrainState` for evaluation and export: their average, if one is kept."""
  return swap_average(state.params, state.opt_state)[0]


def optimizer(optim: Optim, num_train_steps: int) -> optax.GradientTransformation:
  """Builds the optimizer: clipping by the global norm (if clip_norm > 0), then AdamW or Adafactor.

  Source of AdamW: Loshchilov & Hutter, 2019 (arXiv 1711.05101). Weight decay is multiplied by the learning
  rate, also with Adafactor.

  Returns:
    A transformation. Its `init` takes all parameters and raises a ValueError if a group matches none. Its
    `update` takes and returns trees of the trained parameters alone; see `split`.
  """
  if optim.optimizer == 'adafactor':
    direction = _adafactor(optim)
  else:
    direction = optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.eps)
  # A disabled part is an identity, so that the structure of the optimizer state stays the same.
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
