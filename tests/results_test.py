"""Result files name no local paths, and their commands can be run on another machine."""

import json
import re

import pytest

from launch.options import portable
from tests.folders import ROOT

# published.json holds figures of papers, which no command makes.
FILES = sorted(set((ROOT / 'results').glob('*.json')) - {ROOT / 'results' / 'published.json'})


def commands(value):
  """Yields all commands and argument lists in a JSON value."""
  if isinstance(value, dict):
    for name, part in value.items():
      if name == 'command':
        yield part.split()
      elif name == 'arguments':
        yield part
      else:
        yield from commands(part)
  elif isinstance(value, list):
    for part in value:
      yield from commands(part)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_commands_name_existing_programs_and_no_local_paths(path, monkeypatch):
  monkeypatch.chdir(ROOT)
  text = path.read_text()
  assert not re.search(r'"[^"]*(^|[=" ])(/|~|\.\./)', text)
  found = list(commands(json.loads(text)))
  assert found
  for command in found:
    assert portable(command) == command
    if command[0] == 'python':
      module = ROOT / command[2].replace('.', '/')
      assert module.with_suffix('.py').exists() or (module / '__main__.py').exists()
    for argument in command:
      if argument.startswith('--config='):
        assert (ROOT / argument.removeprefix('--config=').partition(':')[0]).exists()


def test_the_readme_names_every_result_file():
  page = (ROOT / 'results/README.md').read_text()
  assert [path.name for path in FILES if f'`{path.name}`' not in page] == []
