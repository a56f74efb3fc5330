"""Builds ConfigDicts with every field of a section, which config files and the command line then change."""

import dataclasses
import types
import typing

import ml_collections

from recjax.schema.conversion import hints, item_type


def fields_of(kind: type) -> ml_collections.ConfigDict:
  """Returns a ConfigDict of a section's fields at their defaults; fields without a default are left out.

  Optional fields are references with a type, so that the command line can set them.
  """
  config = ml_collections.ConfigDict()
  field_types = hints(kind)
  for field in dataclasses.fields(kind):
    hint = field_types[field.name]
    if isinstance(hint, types.UnionType):
      default = None if field.default is dataclasses.MISSING else field.default
      config[field.name] = ml_collections.FieldReference(default, typing.get_args(hint)[0])
    elif item_type(hint) is not None:
      config[field.name] = ordered()
    elif dataclasses.is_dataclass(hint):
      config[field.name] = fields_of(hint)
    elif field.default is not dataclasses.MISSING:
      config[field.name] = field.default
  return config


def ordered(**sections: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns named groups or stages in the given order; a plain dict in a ConfigDict is sorted by name."""
  config = ml_collections.ConfigDict(sort_keys=False)
  for name, section in sections.items():
    config[name] = section
  return config
