"""The source layout: forbidden imports, no import cycles, number and length of files."""

import ast
import functools
import pathlib
import re
import statistics
import subprocess
import sys

import pytest

from tests.folders import ROOT

PACKAGES = ('recjax', 'data_prep', 'launch')


@functools.cache
def sources() -> dict[str, pathlib.Path]:
  """Returns the path of every module of the program, by dotted name."""
  found = {}
  for package in (*PACKAGES, 'configs', 'bench'):
    for path in (ROOT / package).rglob('*.py'):
      parts = path.relative_to(ROOT).with_suffix('').parts
      found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
  return found


@functools.cache
def imports(module: str) -> frozenset[str]:
  """Returns the modules of the program that a module imports, also inside functions."""
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


def folder_of(module: str) -> str:
  """Returns the folder of a package that holds a module, or the module itself at the package's root."""
  return '.'.join(module.split('.')[:2])


def arrows(
  importers: tuple[str, ...], imported: tuple[str, ...], exempt: tuple[str, ...] = ()
) -> list[str]:
  """Returns the imports of a module in `imported` by a module in `importers` but not in `exempt`."""
  return sorted(
    f'{module} -> {other}'
    for module in sources()
    if is_in(module, *importers) and not is_in(module, *exempt)
    for other in imports(module)
    if is_in(other, *imported)
  )


SECTION_FOLDERS = ('data', 'models', 'sids', 'sharding', 'runtime', 'training', 'decode', 'schema')


@pytest.mark.parametrize(
  ('importers', 'imported', 'exempt'),
  [
    (tuple(f'recjax.{name}' for name in SECTION_FOLDERS), ('recjax.config',), ()),
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
def test_forbidden_imports_are_absent(importers, imported, exempt):
  found = arrows(importers, imported, exempt)
  assert not found, '\n'.join(found)


def test_the_schema_imports_no_other_package_of_the_program():
  assert not [a for a in arrows(('recjax.schema',), PACKAGES) if '-> recjax.schema.' not in a]


@pytest.mark.parametrize('package', ['recjax', 'data_prep', 'launch', 'bench'])
def test_folders_have_no_import_cycle(package):
  edges = {}
  for module in sources():
    if is_in(module, package) and module != package:
      others = {folder_of(o) for o in imports(module) if is_in(o, package) and o != package}
      edges.setdefault(folder_of(module), set()).update(others - {folder_of(module)})
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


def test_one_module_opens_tokenizers():
  opener = re.compile(r'SentencePieceProcessor\(|\bTokenizer\.from_')
  found = {module for module, path in sources().items() if opener.search(path.read_text())}
  assert found == {'recjax.data.text_tokenizer'}


def test_all_programs_with_a_config_parse_it_with_one_module():
  texts = {module: path.read_text() for module, path in sources().items()}
  assert {m for m, text in texts.items() if 'DEFINE_config_file' in text} == {'recjax.schema.flag'}
  programs = {module for module, text in texts.items() if 'config_flag.define(' in text}
  assert len(programs) == 8
  assert programs == {m for m, text in texts.items() if 'flags_parser=config_flag.parse' in text}


def test_the_root_of_recjax_has_few_files_and_folders():
  entries = [path for path in (ROOT / 'recjax').iterdir() if not path.name.startswith(('__', '.'))]
  files = [path.name for path in entries if path.suffix == '.py']
  folders = [path.name for path in entries if path.is_dir()]
  assert len(files) <= 8, files
  assert len(folders) <= 13, folders


def test_median_and_maximum_file_lengths_are_bounded():
  lengths = {}
  for folder in (*PACKAGES, 'configs', 'bench'):
    for path in (ROOT / folder).rglob('*.py'):
      lengths[path.relative_to(ROOT)] = len(path.read_text().splitlines())
  assert statistics.median(length for length in lengths.values() if length > 20) <= 180
  tests = {path: len(path.read_text().splitlines()) for path in (ROOT / 'tests').rglob('*.py')}
  long = {str(path): length for path, length in (lengths | tests).items() if length > 500}
  assert not long


@pytest.mark.parametrize('module', ['recjax.sharding.mesh', 'recjax.sharding', 'recjax.schema.run'])
def test_sharding_and_schema_import_no_data_libraries(module):
  program = f'import sys, {module}; print(*sorted(sys.modules))'
  done = subprocess.run(
    [sys.executable, '-c', program],
    cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
  )  # fmt: skip
  loaded = done.stdout.split()
  assert module in loaded
  heavy = ('sentencepiece', 'tokenizers', 'grain', 'recjax.data', 'recjax.models', 'recjax.config')
  assert not [name for name in loaded if is_in(name, *heavy)]
