"""The package, its extras, the image and the first commands of the Makefile are complete."""

import fnmatch
import json
import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests.folders import ROOT

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
SETUPTOOLS = PROJECT['tool']['setuptools']
BEAM = 'requirements-beam.txt'  # replaces pins of requirements.txt, so that it can be no extra
PACKAGES = ('recjax', 'data_prep', 'launch', 'configs')
EXTRAS = {
  name: part['file'] for name, part in SETUPTOOLS['dynamic']['optional-dependencies'].items()
}


def requirements(name):
  lines = (ROOT / name).read_text().splitlines()
  return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def package_files(package):
  return [
    path
    for path in (ROOT / package).rglob('*')
    if path.is_file() and '__pycache__' not in path.parts and not path.name.startswith('.')
  ]


def test_every_file_of_the_packages_is_installed():
  included = SETUPTOOLS['packages']['find']['include']
  data = SETUPTOOLS['package-data']
  for package in PACKAGES:
    assert f'{package}*' in included
    for path in package_files(package):
      module = '.'.join(path.relative_to(ROOT).parts[:-1])
      patterns = data.get(module, [])
      assert path.suffix == '.py' or any(fnmatch.fnmatch(path.name, p) for p in patterns), (
        f'{path} must be in [tool.setuptools.package-data] of pyproject.toml'
      )


def test_the_extras_are_those_of_the_documents_and_pins_stand_once():
  assert {'gpu', 'tpu', 'serve'} <= set(EXTRAS)
  named = {'requirements.txt'}.union(*EXTRAS.values())
  assert named | {BEAM} == {path.name for path in ROOT.glob('requirements*.txt')}
  pins = {}
  for file in sorted(named):
    for requirement in requirements(file):
      match = re.fullmatch(r'([\w.-]+)(\[[\w,]+\])?(==\S+)?', requirement)
      assert match, f'{file}: {requirement}'  # setuptools reads no `-r` and no markers here
      if match[3]:
        assert match[1].lower() not in pins, f'{requirement} in {file} and {pins}'
        pins[match[1].lower()] = file
      else:
        assert match[1] == 'jax' and match[2], f'{file}: {requirement} must be pinned'
  assert pins['jax'] == 'requirements.txt'


def test_beam_replaces_pins_by_older_versions_and_is_no_extra():
  pins = dict(line.split('==') for line in requirements('requirements.txt') if '==' in line)
  replaced = dict(line.split('==') for line in requirements(BEAM))
  assert replaced.pop('apache-beam').startswith('2.77.')
  for name, version in replaced.items():
    older, newer = (tuple(map(int, text.split('.'))) for text in (version, pins[name]))
    assert older < newer, f'{name} may be left out of {BEAM}'


def test_the_console_command_leads_to_a_function():
  assert PROJECT['project']['scripts'] == {'recjax': 'recjax.main:cli'}
  program = 'from recjax.main import cli; print(callable(cli))'
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert done.stdout == 'True\n'


def instructions():
  """Returns (instruction, arguments) of the Dockerfile, without comments."""
  lines = (ROOT / 'Dockerfile').read_text().splitlines()
  text = '\n'.join(line for line in lines if not line.startswith('#')).replace('\\\n', ' ')
  return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def context(folder):
  """Copies what .dockerignore sends to the builder."""
  lines = (ROOT / '.dockerignore').read_text().splitlines()
  rules = [line for line in lines if line and not line.startswith('#')]
  assert rules[0] == '*'  # then exceptions, which name the contents
  for rule in rules[1:]:
    if not rule.startswith('!'):
      assert rule.startswith('**/'), rule
      continue
    paths = list(ROOT.glob(rule[1:].rstrip('/')))
    assert paths, rule
    for path in paths:
      ignore = shutil.ignore_patterns('__pycache__', '*.pyc')
      target = folder / path.name
      shutil.copytree(path, target, ignore=ignore) if path.is_dir() else shutil.copy(path, target)
  return folder


def test_the_image_is_built_from_files_that_exist_and_runs_without_root(tmp_path):
  sent = context(tmp_path)
  steps = instructions()
  for name, arguments in steps:
    assert name in ('FROM', 'ARG', 'ENV', 'WORKDIR', 'COPY', 'RUN', 'USER', 'ENTRYPOINT', 'CMD')
    if name == 'COPY':
      for source in arguments.split()[:-1]:
        assert source == '.' or list(sent.glob(source)), source
  image = dict(steps)['FROM']
  version = tuple(map(int, re.fullmatch(r'python:(\d+)\.(\d+)-slim', image).groups()))
  assert version >= tuple(map(int, PROJECT['project']['requires-python'][2:].split('.')))
  assert re.fullmatch(r'[1-9]\d*', dict(steps)['USER'])
  assert json.loads(dict(steps)['ENTRYPOINT']) == list(PROJECT['project']['scripts'])
  read = [PROJECT['project']['readme'], *PROJECT['project']['license-files'], 'requirements.txt']
  for file in [*read, *(file for files in EXTRAS.values() for file in files), *PACKAGES]:
    assert (sent / file).exists(), f'.dockerignore must let {file} through'


@pytest.mark.parametrize(
  ('python', 'message'),
  [
    (None, r'needs Python 3\.11 or later; there is no .*missing.*make … PYTHON=python3\.11'),
    ('sys.version_info = (3, 10, 13)', r'needs Python 3\.11 or later; .*python is Python 3\.10\.'),
    ('sys.modules["ensurepip"] = None', r'module venv of .*: apt install python3\.\d+-venv'),
  ],
)  # fmt: skip
def test_make_names_what_a_new_machine_lacks(tmp_path, python, message):
  shutil.copy(ROOT / 'Makefile', tmp_path)
  for name in (
    'requirements.txt',
    'requirements-serve.txt',
    'requirements-dev.txt',
    'pyproject.toml',
  ):
    (tmp_path / name).touch()
  path = tmp_path / 'python' if python else tmp_path / 'missing'
  if python:
    program = f'import sys; {python}; exec(sys.argv[1])'
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c \'{program}\' "$2"\n')
    path.chmod(0o755)
  done = subprocess.run(
    ['make', 'demo', f'PYTHON={path}'], cwd=tmp_path, capture_output=True, text=True, timeout=60
  )
  assert done.returncode and re.search(message, done.stderr), done.stderr
  assert not (tmp_path / '.venv').exists()


@pytest.mark.soak
@pytest.mark.parametrize('kind', ['wheel', 'sdist'])
def test_an_installed_package_runs_in_another_folder(tmp_path, kind):
  """Builds the package from the context of the image, and runs the tiny demo in an empty folder."""
  source, work = tmp_path / 'source', tmp_path / 'work'
  source.mkdir()
  work.mkdir()
  context(source)
  venv = tmp_path / 'venv'
  subprocess.run([sys.executable, '-m', 'venv', venv], check=True, timeout=120)
  # The dependencies are those of this environment.
  packages = next((venv / 'lib').glob('python*/site-packages'))
  (packages / 'dependencies.pth').write_text('\n'.join(site.getsitepackages()))
  pip = [venv / 'bin/python', '-m', 'pip', '--disable-pip-version-check']
  if kind == 'sdist':
    subprocess.run([*pip, 'install', '-q', 'setuptools>=77.0.3'], check=True, timeout=600)
    build = 'import setuptools.build_meta as b; b.build_sdist(".")'
    subprocess.run([venv / 'bin/python', '-c', build], cwd=source, check=True, timeout=300)
    (built,) = source.glob('*.tar.gz')
  else:
    subprocess.run(
      [*pip, 'wheel', '-q', '--no-deps', '-w', tmp_path, source], check=True, timeout=600
    )
    (built,) = tmp_path.glob('*.whl')
    names = set(zipfile.ZipFile(built).namelist())
    files = {path.relative_to(ROOT).as_posix() for p in PACKAGES for path in package_files(p)}
    assert files <= names
  subprocess.run([*pip, 'install', '-q', '--no-deps', built], check=True, timeout=600)
  environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
  command = [venv / 'bin/recjax', '--config=recjax:demo:tiny']
  done = subprocess.run(
    command, cwd=work, env=environment, capture_output=True, text=True, timeout=600
  )
  assert not done.returncode, done.stderr
  assert (work / 'runs/demo-tiny/report.html').exists()
  origin = subprocess.run(
    [venv / 'bin/python', '-c', 'import recjax; print(recjax.__file__)'],
    cwd=work, env=environment, capture_output=True, text=True, check=True, timeout=60,
  )  # fmt: skip
  assert pathlib.Path(origin.stdout.strip()).is_relative_to(venv)
