"""Every experiment in configs/, with every variant, converts and is consistent."""

import importlib
import pathlib
import re

import pytest

from data_prep import sources
from recjax import config as config_lib

FILES = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parents[2] / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'common')
)


def variants(name):
  """The variants that the file's own error message lists."""
  with pytest.raises(ValueError, match='the variant of this config') as error:
    importlib.import_module(f'configs.{name}').get_config('no such variant')
  return re.findall(r"'([^']*)'", str(error.value).split(';')[0])


@pytest.mark.parametrize('name', FILES)
def test_every_variant_converts(name):
  module = importlib.import_module(f'configs.{name}')
  assert 'Command:' in module.__doc__
  for variant in variants(name):
    config = config_lib.from_config_dict(module.get_config(variant))
    sources.get(config.data.source)
    assert config.batch_size % config.packing.rows == 0


def test_names_of_data_folders_do_not_collide():
  names = [importlib.import_module(f'configs.{name}').get_config().data.name for name in FILES]
  assert len(set(names)) == len(names)
