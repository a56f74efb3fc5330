"""Broken rules of the config: every error says what must hold, what was got, which field to set."""

import re
from typing import Any


def check(condition: bool, must: str, got: Any, field: str) -> None:
  """Raises the ValueError of a broken rule: what must hold, what was got, which field to set."""
  if not condition:
    raise ValueError(f'{must}; got {got!r}. Set --config.{field}')


def check_positive(section: Any, prefix: str, *names: str) -> None:
  for name in names:
    value = getattr(section, name)
    check(value > 0, f'{prefix}{name} must be positive', value, prefix + name)


def check_choice(value: str, choices: tuple[str, ...], field: str) -> None:
  check(value in choices, f'{field} must be one of {", ".join(choices)}', value, field)


def check_pattern(pattern: str, field: str) -> None:
  try:
    re.compile(pattern)
  except re.error as error:
    raise ValueError(
      f'{field} must be a regular expression ({error}); got {pattern!r}. Set --config.{field}'
    ) from error
