"""Adds the components, evaluators, groups and stages that only the command line names.

  --config.mixture.rating.weight=0.1                              a component with the task of that name
  --config.mixture.late.task=next_item --config.mixture.late.weight=0.5
  --config.evaluators.ranking.rows=500                            an evaluator of that type
  --config.evaluators.hard.evaluator=ranking
  --config.optim.groups.sids.pattern=tables/sid --config.optim.groups.sids.learning_rate=3
  --config.stages.warm.num_train_steps=100
  --config.stages.rl.kind=grpo --config.stages.rl.num_epochs=2 --config.stages.rl.grpo.group=16

New groups and stages follow those of the config file, in the order of the command line.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import re

import ml_collections

from recjax.schema.building import fields_of, ordered
from recjax.schema.checks import Section
from recjax.schema.conversion import hints
from recjax.schema.names import question
from recjax.schema.optim import Group, Stage

# Task → the section of its component. `recjax.data.tasks` registers them.
TASKS: dict[str, type[Section]] = {}
# Type → the section of its evaluator. `recjax.metrics.evaluators` registers them.
EVALUATORS: dict[str, type[Section]] = {}

# Path of a named section, such as optim.groups.sids, and the field in it, which may be in a section such as grpo.
_NAMED = re.compile(
  r'(mixture|evaluators|stages|optim\.groups|stages\.[^.]+\.groups)\.([^.]+)\.((?!groups\.).+)'
)
# Place → the field that names the type of a section, what a type is called, and what the section is called.
_TYPED = {
  'mixture': ('task', 'task', 'component'),
  'evaluators': ('evaluator', 'type of evaluator', 'evaluator'),
}
# Kinds of sections, and the fields of which a flag must set one: otherwise the name may be misspelt.
_KINDS = {
  Group: ('group', ('pattern',)),
  Stage: ('stage', ('num_train_steps', 'num_epochs')),
}


def assignments(arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
  """Yields path and value of every --config.PATH=VALUE; the value is empty if it is an argument of its own."""
  for argument in arguments:
    if match := re.match(r'--?(?:no)?config\.([^=]+)=?(.*)', argument, re.DOTALL):
      yield match[1], match[2]


def add_named(config: ml_collections.ConfigDict, arguments: Iterable[str]) -> None:
  """Adds every named section that the arguments set and the config lacks, with its fields at their defaults.

  Args:
    config: the config before the overrides; it is changed.
    arguments: the command line.

  Raises:
    ValueError: a new component names no task, a new evaluator no type, or a new group or stage lacks a field that has no default.
  """
  given = dict(assignments(arguments))
  with config.unlocked():
    for path in given:
      if match := _NAMED.fullmatch(path):
        _add(config, match[1], match[2], given)


def possible(path: str) -> Iterator[str]:
  """Yields the fields that groups and stages of the name in a path would have, as suggestions for an unknown path."""
  *sections, name, _ = ['', '', *path.split('.')]
  if sections[-1]:
    for place, kind in (('optim.groups', Group), ('stages', Stage)):
      yield from (f'{place}.{name}.{field}' for field in hints(kind))


def _add(
  config: ml_collections.ConfigDict, place: str, name: str, given: Mapping[str, str]
) -> None:
  """Adds the section `name` at `place` unless it exists."""
  if place.startswith('stages.'):  # groups of a stage, which may be new too
    _add(config, 'stages', place.split('.')[1], given)
  parent = config
  for part in place.split('.'):
    if part not in parent or parent[part] is None:
      parent[part] = ordered()
    parent = parent[part]
  if name in parent:
    return
  path = f'{place}.{name}'
  kind = Stage if place == 'stages' else Group
  if place in _TYPED:
    kind = _typed(place, name, list(parent), given)
  section = fields_of(kind)
  for field in dataclasses.fields(kind):
    if field.name not in section:  # it has no default
      section[field.name] = ml_collections.config_dict.placeholder(hints(kind)[field.name])
  _check_intended(path, kind, parent, given)
  parent[name] = section


def _check_intended(
  path: str, kind: type[Section], present: Iterable[str], given: Mapping[str, str]
) -> None:
  """Raises a ValueError if no flag sets a field that makes a new group or stage meaningful."""
  what, fields = _KINDS.get(kind, ('', ()))
  fields = [field for field in fields if field in hints(kind)]
  if fields and not any(f'{path}.{field}' in given for field in fields):
    raise ValueError(
      f'a new {what} must set {" or ".join(fields)}; --config.{path}.{fields[0]} is not given. The config has '
      f'{", ".join(present) or "no " + what}{question(path.rpartition(".")[2], present)}'
    )


def _typed(place: str, name: str, present: list[str], given: Mapping[str, str]) -> type[Section]:
  """Returns the type of a new component or evaluator: that of its flag, or the type with its name."""
  field, what, section = _TYPED[place]
  registry = TASKS if place == 'mixture' else EVALUATORS
  kind = given.get(f'{place}.{name}.{field}') or name
  if kind not in registry:
    raise ValueError(
      f'{place}.{name} is no {section} of the config ({", ".join(present)}), and {kind!r} is no {what}'
      f'{question(kind, [*present, *registry]) or "."} {field.capitalize()}s: {", ".join(registry)}. A name of your own also '
      f'needs --config.{place}.{name}.{field}={field.upper()}'
    )
  return registry[kind]
