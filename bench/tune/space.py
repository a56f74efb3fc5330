"""The settings that a search varies, and their ranges."""

import ast
from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import ml_collections

from recjax.data.tasks import TASKS
from recjax.data.tasks.next_item import NextItem
from recjax.runtime import files
from recjax.schema.conversion import unknown_field

# Settings that follow another one in proportion, so that one width is searched.
FOLLOWERS = {'model.width': ('model.ff_width',)}


@dataclasses.dataclass(frozen=True)
class Range:
  """Values of a setting: choices, or an interval.

  Attributes:
    choices: the values; empty: an interval.
    low, high: the ends of the interval; its values are whole numbers if both are of type int.
    log: whether the logarithm is uniform.
  """

  choices: tuple[Any, ...] = ()
  low: float = 0.0
  high: float = 0.0
  log: bool = False

  def holds(self, value: Any) -> bool:
    """Returns whether a value is in the range."""
    return (
      value in self.choices
      if self.choices
      else value is not None and self.low <= value <= self.high
    )


def default(config: ml_collections.ConfigDict) -> dict[str, Range]:
  """Returns the ranges around a config: learning rate, weight decay, dropout, width, depth, augmentation.

  Width and depth are left out where a pretrained model or `model.size` gives them, the learning rate where every stage
  has its own.
  """
  rate, model, stages = config.optim.learning_rate, config.model, config.stages.values()
  found = {}
  if not stages or any(stage.learning_rate is None for stage in stages):
    found['optim.learning_rate'] = Range(low=rate / 5, high=rate * 5, log=True)
  found |= {
    'optim.weight_decay': Range(
      low=min(1e-3, config.optim.weight_decay or 1e-3), high=0.3, log=True
    ),
    'model.dropout': Range(low=0.0, high=0.6),
  }
  if not model.size and model.pretrained is None:
    width = model.width
    found['model.width'] = Range((width // 2, width, 2 * width))
    found['model.depth'] = Range(low=max(1, model.depth - 1), high=model.depth + 2)
  for name, part in config.mixture.items():
    if TASKS[part.task] is NextItem and part.weight > 0:
      found[f'mixture.{name}.crop'] = Range(low=0.0, high=1.0)
      found[f'mixture.{name}.item_dropout'] = Range(low=0.0, high=0.4)
      found[f'mixture.{name}.shuffle'] = Range(low=0.0, high=0.6)
  return found


def chosen(config: ml_collections.ConfigDict, fields: Sequence[str]) -> dict[str, Range]:
  """Returns the ranges of --fields: names of `default`, `FIELD=low:high`, `FIELD=low:high:log` or `FIELD=a|b|c`.

  Raises:
    ValueError: a field is not in the config or has no default range, or a range cannot be read.
  """
  known = default(config)
  if not fields:
    return known
  found = {}
  for text in fields:
    name, is_given, value = text.partition('=')
    if not is_given and name in known:
      found[name] = known[name]
      continue
    paths = list(files.flat(config.to_dict()))
    if name not in paths:
      raise ValueError(f'--fields: {unknown_field(name, paths)}')
    if not is_given:
      raise ValueError(
        f'--fields must give a range for {name}, as {name}=low:high, {name}=low:high:log or {name}=a|b|c; only '
        f'{", ".join(known)} have one of their own'
      )
    found[name] = _read(name, value, config)
  return found


def _read(name: str, text: str, config: ml_collections.ConfigDict) -> Range:
  if '|' in text:
    return Range(tuple(_value(part) for part in text.split('|')))
  low, _, rest = text.partition(':')
  high, _, kind = rest.partition(':')
  ends = _value(low), _value(high)
  if not all(isinstance(end, int | float) for end in ends) or kind not in ('', 'log'):
    raise ValueError(
      f'--fields: a range must be low:high, low:high:log or a|b|c; got {name}={text}'
    )
  if not ends[0] < ends[1] or (kind and ends[0] <= 0):
    positive = 'positive and ' if kind else ''
    raise ValueError(
      f'--fields: the lower end must be {positive}below the upper one; got {name}={text}'
    )
  *sections, field = name.split('.')
  section = functools.reduce(lambda section, part: section[part], sections, config)
  if section.get_type(field) is float:  # 0:1 of a share is not 0 and 1 alone
    ends = float(ends[0]), float(ends[1])
  return Range(low=ends[0], high=ends[1], log=bool(kind))


def _value(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def settings(config: ml_collections.ConfigDict, params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a trial: its values, and those of `FOLLOWERS` in proportion to the config's."""
  found, now = dict(params), files.flat(config.to_dict())
  for name, others in FOLLOWERS.items():
    for other in others if name in params else ():
      if other not in params:
        found[other] = round(now[other] * params[name] / now[name])
  return found


def of_config(config: ml_collections.ConfigDict, ranges: Mapping[str, Range]) -> dict[str, Any]:
  """Returns the config's own values, of the settings whose range holds them."""
  now = files.flat(config.to_dict())
  return {name: now[name] for name, each in ranges.items() if each.holds(now[name])}
