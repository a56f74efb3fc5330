"""The layout: which room may import which, how many files there are and how long they are."""

import ast
import functools
import pathlib
import statistics
import subprocess
import sys

import pytest

from tests.folders import ROOT

PACKAGES = ('recjax', 'data_prep', 'launch')


@functools.cache
def sources() -> dict[str, pathlib.Path]:
  """Every module of the program by its dotted name."""
  found = {}
  for package in (*PACKAGES, 'configs', 'bench'):
    for path in (ROOT / package).rglob('*.py'):
      parts = path.relative_to(ROOT).with_suffix('').parts
      found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
  return found


@functools.cache
def imports(module: str) -> frozenset[str]:
  """The modules of the program that a module imports, also inside functions."""
  path = sources()[module]
  package = module if path.name == '__init__.py' else module.rpartition('.')[0]
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        base = '.'.join([*package.split('.')[: len(package.split('.')) - node.level + 1], base])
      names |= {base.rstrip('.')} | {f'{base}.{alias.name}' for alias in node.names}
  return frozenset(name for name in names if name in sources()) - {module}


def is_in(module: str, *places: str) -> bool:
  return any(module == place or module.startswith(f'{place}.') for place in places)


def room(module: str) -> str:
  """A folder of recjax or data_prep, or a file at their root."""
  return '.'.join(module.split('.')[:2])


def arrows(of: tuple[str, ...], to: tuple[str, ...], but: tuple[str, ...] = ()) -> list[str]:
  """Imports from a module in `of`, except those in `but`, to a module in `to`."""
  return sorted(
    f'{module} -> {other}'
    for module in sources()
    if is_in(module, *of) and not is_in(module, *but)
    for other in imports(module)
    if is_in(other, *to)
  )


SECTION_ROOMS = ('data', 'models', 'sids', 'sharding', 'runtime', 'training', 'decode', 'schema')


@pytest.mark.parametrize(
  ('of', 'to', 'but'),
  [
    (tuple(f'recjax.{name}' for name in SECTION_ROOMS), ('recjax.config',), ()),
    (('recjax.workdir.checkpoints', 'recjax.workdir.checkpoint_folder'),
     ('recjax.training', 'recjax.config'), ()),
    (('recjax.report',), ('recjax.evaluate', 'recjax.train', 'recjax.data.mixture',
                          'recjax.workdir.stages'), ()),
    (('recjax.workdir',), ('recjax.recommend', 'recjax.train', 'recjax.evaluate'), ()),
    (('recjax', 'data_prep', 'launch', 'configs', 'bench'), ('recjax.main',), ()),
    (('recjax',), ('data_prep',), ('recjax.main',)),
    (('recjax', 'data_prep'), ('launch', 'bench', 'configs'), ()),
  ],
)  # fmt: skip
def test_forbidden_imports_are_absent(of, to, but):
  found = arrows(of, to, but)
  assert not found, '\n'.join(found)


def test_the_schema_imports_nothing_else_of_the_program():
  assert not [a for a in arrows(('recjax.schema',), PACKAGES) if '-> recjax.schema.' not in a]


@pytest.mark.parametrize('package', ['recjax'])
def test_rooms_form_no_circle(package):
  edges = {}
  for module in sources():
    if is_in(module, package) and module != package:
      others = {room(o) for o in imports(module) if is_in(o, package) and o != package}
      edges.setdefault(room(module), set()).update(others - {room(module)})
  done, path = set(), []

  def visit(place):
    assert place not in path, ' -> '.join([*path[path.index(place) :], place])
    if place in done:
      return
    path.append(place)
    for other in sorted(edges.get(place, ())):
      visit(other)
    path.pop()
    done.add(place)

  for place in sorted(edges):
    visit(place)


def test_the_root_of_recjax_is_small():
  entries = [path for path in (ROOT / 'recjax').iterdir() if not path.name.startswith(('__', '.'))]
  files = [path.name for path in entries if path.is_file()]
  folders = [path.name for path in entries if path.is_dir()]
  assert len(files) <= 8, files
  assert len(folders) <= 13, folders


def test_files_are_short():
  lengths = {}
  for folder in (*PACKAGES, 'configs', 'bench'):
    for path in (ROOT / folder).rglob('*.py'):
      lengths[path.relative_to(ROOT)] = len(path.read_text().splitlines())
  assert statistics.median(length for length in lengths.values() if length > 20) <= 180
  tests = {path: len(path.read_text().splitlines()) for path in (ROOT / 'tests').rglob('*.py')}
  long = {str(path): length for path, length in (lengths | tests).items() if length > 500}
  assert not long


@pytest.mark.parametrize('module', ['recjax.sharding.mesh', 'recjax.sharding', 'recjax.schema.run'])
def test_low_rooms_load_no_data_libraries(module):
  program = f'import sys, {module}; print(*sorted(sys.modules))'
  done = subprocess.run(
    [sys.executable, '-c', program],
    cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
  )  # fmt: skip
  loaded = done.stdout.split()
  assert module in loaded
  heavy = ('sentencepiece', 'tokenizers', 'grain', 'recjax.data', 'recjax.models', 'recjax.config')
  assert not [name for name in loaded if is_in(name, *heavy)]
