"""Prints every field of a config with its value, allowed values and meaning (`--mode=config`)."""

from collections.abc import Iterator, Mapping
import dataclasses
import inspect
import types
import typing
from typing import Any

from recjax.schema.checks import Rules
from recjax.schema.conversion import hints, item_type

_WIDEST_VALUE = 28  # longer values are printed in full, but not aligned

Choices = Mapping[str, tuple[str, ...]]


def describe(config: Any, choices: Choices | None = None) -> str:
  """Returns the table, grouped by section.

  Args:
    config: the config, a section.
    choices: path → allowed values, for fields whose rules do not list them.
  """
  return '\n\n'.join(
    '\n'.join([title, *_aligned(rows)]) for title, rows in _sections(config, '', choices or {})
  )


def _sections(section: Any, path: str, choices: Choices) -> Iterator[tuple[str, list]]:
  """Yields title and rows of a section's own fields, then those of its nested sections.

  Args:
    section: a section, or a section type, whose fields then have no values.
    path: its place in the config.
    choices: see `describe`.
  """
  kind = section if isinstance(section, type) else type(section)
  rows, nested = [], []
  for field in dataclasses.fields(kind):
    hint, name = hints(kind)[field.name], f'{path}.{field.name}'.removeprefix('.')
    value = getattr(section, field.name, None)
    if (item := item_type(hint)) is not None:
      named = value if isinstance(value, dict) else {}
      nested += [(f'{name}.{key}', part) for key, part in named.items()]
      if not named:
        nested.append((f'{name}.<name>', item))
    elif dataclasses.is_dataclass(hint):
      nested.append((name, hint if isinstance(section, type) else value))
    else:
      shown = '' if isinstance(section, type) else repr(value)
      allowed = _allowed(hint, field, choices.get(name, ()))
      rows.append((name, shown, allowed, meaning(kind, field.name)))
  summary = inspect.cleandoc(kind.__doc__ or '').split('\n\n')[0].replace('\n', ' ')
  none = ' (none is set)' if isinstance(section, type) and path.endswith('.<name>') else ''
  yield f'{path or "the run"}{none}: {summary}', rows
  for name, part in nested:
    yield from _sections(part, name, choices)


def _allowed(hint: Any, field: dataclasses.Field, choices: tuple[str, ...]) -> str:
  """Returns the allowed values of a field: its choices, or its type and range."""
  rules = field.metadata.get('rules', Rules())
  kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
  optional = ' | None' if type(None) in kinds else ''
  if rules.one_of or choices:
    return ' | '.join(rules.one_of or choices) + optional
  kind, many = kinds[0], ''
  while typing.get_origin(kind) is tuple:
    kind, many = typing.get_args(kind)[0], f'tuple of {many}'
  if kind is bool:
    return 'True | False' + optional
  special = 'path' if rules.path else 'regular expression' if rules.pattern else ''
  limit = rules.range.replace('be ', '')
  return f'{many}{special or kind.__name__}{f", {limit}" if limit else ""}{optional}'


def meaning(kind: type, name: str) -> str:
  """Returns the meaning of a section's field; a subclass that only changes the default inherits it."""
  for base in kind.__mro__:
    field = getattr(base, '__dataclass_fields__', {}).get(name)
    if field is not None and 'meaning' in field.metadata:
      return field.metadata['meaning']
  return ''


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
  """Returns the rows as lines with aligned columns."""
  widths = [max((len(row[n]) for row in rows), default=0) for n in range(3)]
  widths[1] = max((len(v) for _, v, *_ in rows if len(v) <= _WIDEST_VALUE), default=0)
  return ['  ' + '  '.join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]
