"""Nested config sections as one dict of dotted field names."""

from collections.abc import Mapping
from typing import Any


def flat(sections: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns the values of nested mappings by dotted name: {'a': {'b': 1}} gives {'a.b': 1}.

  An empty section has no entry.
  """
  fields = {}
  for name, value in sections.items():
    is_section = isinstance(value, Mapping)
    fields |= flat(value, f'{prefix}{name}.') if is_section else {prefix + name: value}
  return fields
