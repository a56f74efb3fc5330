"""Writes configs.json: a digest of the field values of every config and variant in configs/.

Command: python -m tests.goldens.make_configs > tests/goldens/configs.json

The digest covers only the fields of the time of writing, so later fields do not change it.
"""

from collections.abc import Iterator
import functools
import hashlib
import importlib
import json
import pathlib
import re
import sys
from typing import Any

from recjax import config as config_lib

FOLDER = pathlib.Path(__file__).parents[2] / 'configs'
FILES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem not in ('__init__', 'common'))
# Fields that changed on purpose: Qwen became a separate family; item texts of Sports are called original; options of
# a source are no fields of other sources.
_CHANGED = re.compile(r'model\.family|data\.(item_text|synthetic_\w+|\w+_column)')


def variants(name: str) -> list[str]:
  """Returns the variants that the config file's error message lists."""
  try:
    importlib.import_module(f'configs.{name}').get_config('no such variant')
  except ValueError as error:
    return re.findall(r"'([^']*)'", str(error).split(';')[0])
  raise AssertionError(name)


@functools.cache
def config(name: str, variant: str) -> config_lib.Config:
  """Returns a config, checked."""
  return config_lib.from_config_dict(importlib.import_module(f'configs.{name}').get_config(variant))


def values(name: str, variant: str) -> dict[str, Any]:
  """Returns the values of all fields, by path."""
  return dict(flat(json.loads(json.dumps(config(name, variant).to_dict()))))


def is_kept(path: str) -> bool:
  """Returns whether the digest covers a field."""
  return not _CHANGED.fullmatch(path)


def flat(fields: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yields path and value of all fields in a nested dict."""
  for name, value in fields.items():
    if isinstance(value, dict):
      yield from flat(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def digest(fields: dict[str, Any], names: list[str]) -> str:
  """Returns a hash of the named fields that exist."""
  found = {name: fields[name] for name in names if name in fields}
  return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
  found = {(name, variant): values(name, variant) for name in FILES for variant in variants(name)}
  names = sorted(filter(is_kept, {path for fields in found.values() for path in fields}))
  digests = {
    f'{name}:{variant}': digest(fields, names) for (name, variant), fields in found.items()
  }
  json.dump({'fields': names, 'digests': digests}, sys.stdout, indent=1)


if __name__ == '__main__':
  main()
