"""Converts nested dicts to checked config sections. Errors name fields by their paths in the config."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import difflib
import math
import os
import types
import typing
from typing import Any

from recjax.schema.checks import check

# (section type, its values, its path) -> the type to build, which may be a subclass, and its values.
Choose = Callable[[type, Mapping[str, Any], str], tuple[type, Mapping[str, Any]]]


def keep_type(kind: type, values: Mapping[str, Any], path: str) -> tuple[type, Mapping[str, Any]]:
  """Returns the arguments unchanged; the default `Choose`."""
  del path
  return kind, values


def hints(kind: type) -> dict[str, Any]:
  """Returns the type of every field of a section, by name."""
  known = typing.get_type_hints(kind)
  return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def item_type(hint: Any) -> type | None:
  """Returns the section type of `dict[str, Section]`; None for any other type."""
  return typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None


def convert(kind: type, values: Mapping[str, Any], choose: Choose = keep_type) -> Any:
  """Builds a section from nested dicts. Inverts `dataclasses.asdict`, also after a round trip through JSON.

  Integers become floats and lists become tuples if the field has that type. A leading ~ of a path is
  expanded.

  Args:
    kind: type of the section.
    values: values of its fields.
    choose: chooses the type of a nested section by its values.

  Raises:
    ValueError: a field is unknown, missing, of the wrong type or breaks a rule.
  """
  known = list(known_paths(kind, values, choose))
  return _section(kind, values, '', choose, known)


def known_paths(
  kind: type, values: Mapping[str, Any], choose: Choose = keep_type, prefix: str = ''
) -> Iterator[str]:
  """Yields the paths of all sections and fields; `values` gives the names in dict fields."""
  for name, hint in hints(kind).items():
    path, value = prefix + name, values.get(name, {})
    parts = {path: (hint, value)}
    yield path
    if (item := item_type(hint)) is not None:
      parts = {f'{path}.{key}': (item, part) for key, part in _dict(value).items()}
      yield from parts
    for place, (section, part) in parts.items():
      if dataclasses.is_dataclass(section):
        try:
          section, part = choose(section, _dict(part), place)
        except ValueError:  # reported by the conversion, with the path
          continue
        yield from known_paths(section, part, choose, f'{place}.')


def unknown_field(path: str, known: list[str]) -> str:
  """Returns the error message for an unknown field, with the nearest known paths."""

  def likeness(other: str) -> float:
    names = path.rpartition('.')[2], other.rpartition('.')[2]
    path_ratio, name_ratio = (
      difflib.SequenceMatcher(None, *pair).ratio() for pair in ((path, other), names)
    )
    return max(path_ratio, 0.7 * name_ratio + 0.3 * path_ratio)

  near = sorted(known, key=likeness, reverse=True)[:3]
  near = [other for other in near if likeness(other) > max(0.6, likeness(near[0]) - 0.1)]
  question = f'did you mean {" or ".join(near)}? ' if near else ''
  return f'unknown config field {path}; {question}--mode=config prints all fields'


def _dict(value: Any) -> Mapping[str, Any]:
  return value if isinstance(value, Mapping) else {}


def _section(
  kind: type, values: Mapping[str, Any], prefix: str, choose: Choose, known: list[str]
) -> Any:
  field_types = hints(kind)
  for name in values:
    if name not in field_types:
      raise ValueError(unknown_field(prefix + name, known))
  for field in dataclasses.fields(kind):
    required = field.default is field.default_factory is dataclasses.MISSING
    if required and field.name not in values:
      raise ValueError(f'the config must set {prefix}{field.name}; it is missing')
  converted = {}
  for field in dataclasses.fields(kind):
    if field.name in values:
      value = _value(
        field_types[field.name], values[field.name], prefix + field.name, choose, known
      )
      rules = field.metadata.get('rules')
      if rules is not None and rules.path and value is not None:
        value = os.path.expanduser(value)
      converted[field.name] = value
  return kind(**converted)


def _value(hint: Any, value: Any, path: str, choose: Choose, known: list[str]) -> Any:
  if dataclasses.is_dataclass(hint):
    check(isinstance(value, Mapping), f'{path} must be a section of fields', value, path)
    kind, value = choose(hint, value, path)
    with kind.called(path):
      return _section(kind, value, f'{path}.', choose, known)
  if (item := item_type(hint)) is not None:
    check(isinstance(value, Mapping), f'{path} must be a section of named fields', value, path)
    return {
      name: _value(item, part, f'{path}.{name}', choose, known) for name, part in value.items()
    }
  if typing.get_origin(hint) is tuple:
    check(isinstance(value, tuple | list), f'{path} must be a tuple', value, path)
    item_hint = typing.get_args(hint)[0]
    return tuple(_value(item_hint, part, path, choose, known) for part in value)
  kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  if float in kinds and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
  is_finite = not isinstance(value, float) or math.isfinite(value)
  check(is_finite, f'{path} must be a finite number', value, path)
  names = ['None' if k is types.NoneType else k.__name__ for k in kinds]
  check(fits, f'{path} must be of type {" or ".join(names)}', value, path)
  return value
