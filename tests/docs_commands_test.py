"""The commands in fenced blocks of the README, WORKSPACE.md and docs/ run as they are written.

A shell runs every block, in the order of the page, in a folder of the page. Its programs are stand-ins: those of recjax
run for real, with settings that make an experiment small, on a made-up shop. Commands that install, or reach a
container or a cluster, are written down and checked by a function of `CHECKS`. Any other command is not found, and the
test fails. `docs_shell/rules.py` says how to document a new command.
"""

from collections.abc import Iterator
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
from typing import NamedTuple

import nbclient
import nbformat
import pytest

from recjax.serve import wire
from recjax.serve.app import Service
from recjax.serve.metrics import Metrics
from recjax.workdir.serving import Serving
from tests.docs_shell import rules, world
from tests.folders import ROOT

SHELL = ('', 'bash', 'sh')
SKIPPED = ('text', 'dockerfile')
TOOLS = ('bash', 'cat', 'cp', 'grep', 'head', 'id', 'ls', 'mkdir', 'tail', 'tr', 'wc')
TOUR = ROOT / 'docs/tour.ipynb'
PAGES = ('README.md', 'WORKSPACE.md', *sorted(f'docs/{p.name}' for p in ROOT.glob('docs/*.md')))
SLOW = (
  'docs/configuration.md',
  'docs/daily_refresh.md',
  'docs/goodput.md',
  'docs/pretrained.md',
)  # pages that compile large or many programs: in `make soak`
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
EXTRAS = set(PROJECT['tool']['setuptools']['dynamic']['optional-dependencies'])
PINS = ''.join(path.read_text() for path in ROOT.glob('requirements*.txt'))


class Block(NamedTuple):
  line: int  # of the page, from 1
  language: str
  text: str


def blocks(text: str) -> Iterator[Block]:
  """Yields the fenced blocks of a page; a block may be indented, as in a list."""
  lines = text.splitlines()
  start = None
  for n, line in enumerate(lines):
    if not (fence := re.fullmatch(r'(\s*)```(\w*)', line)):
      continue
    if start is None:
      start, indent, language = n, len(fence[1]), fence[2]
    else:
      inside = [row[indent:] for row in lines[start + 1 : n]]
      yield Block(start + 1, language, '\n'.join(inside) + '\n')
      start = None
  assert start is None, f'the block of line {start} is not closed'


def check_make(arguments):
  targets = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.M))
  assert {a for a in arguments if '=' not in a} <= targets


def check_pip(arguments):
  """`install` of this project with extras that exist, of its files, or of packages without another version."""
  assert arguments[0] == 'install', arguments
  for argument in arguments[1:]:
    if argument.startswith('-'):
      assert argument in ('-e', '--editable', '-r', '--no-deps', '--upgrade', '-U'), argument
    elif extras := re.fullmatch(r'(?:\.|recjax)(?:\[([\w,]+)\])?', argument):
      assert set((extras[1] or '').split(',')) <= EXTRAS | {''}, argument
    elif re.fullmatch(r'\S+\.(txt|whl|tar\.gz)', argument):
      assert (ROOT / argument).exists() or not argument.endswith('.txt'), argument
    else:
      name = re.match(r'[\w.-]+', argument)[0]
      assert '==' not in argument or argument in PINS + (ROOT / 'Makefile').read_text(), argument
      assert re.fullmatch(r'[\w.-]+(\[\w+\])?(==\S+)?', argument), name


def check_uv(arguments):
  assert arguments[0] in ('venv', 'pip')
  if arguments[0] == 'pip':
    check_pip(arguments[1:])


def check_docker(arguments):
  assert arguments[0] in ('build', 'push', 'run'), arguments
  for name, value in re.findall(r'--build-arg (\w+)=(\S+)', ' '.join(arguments)):
    assert f'ARG {name}=' in (ROOT / 'Dockerfile').read_text(), name
    assert name != 'EXTRAS' or set(value.split(',')) <= EXTRAS, value


def check_kubectl(arguments):
  assert arguments[0] in ('apply', 'delete', 'describe', 'get', 'logs'), arguments


def check_curl(arguments):
  """Checks a call of the service: its endpoint, and the fields of its body."""
  url = next(a for a in arguments if a.startswith('localhost:8080/'))
  path = url.removeprefix('localhost:8080').partition('?')[0]
  assert path in {route.path for route in Service(Serving(), Metrics()).app.routes}, url
  if '-d' in arguments:
    body = wire.parse(arguments[arguments.index('-d') + 1].encode())
    is_change = path == '/catalogue'
    wire.change(body) if is_change else wire.queries(body, wire.Limits((20,), 9, 9, 9, 120))


def check_any(arguments):
  assert arguments


CHECKS = {
  'conda': check_any,
  'curl': check_curl,
  'docker': check_docker,
  'gcloud': check_any,
  'git': check_any,
  'kubectl': check_kubectl,
  'make': check_make,
  'pip': check_pip,
  'uv': check_uv,
}


@pytest.fixture(scope='session')
def shell(tmp_path_factory):
  """Makes the world and the stand-ins, and starts the server; returns the environment of a shell."""
  folder = tmp_path_factory.mktemp('docs')
  (folder / 'bin').mkdir()
  shim = folder / 'shim'
  shim.write_text(f'#!{sys.executable} -SE\n' + (ROOT / 'tests/docs_shell/shim.py').read_text())
  shim.chmod(0o755)
  for name in ('python', 'recjax', *CHECKS):
    (folder / 'bin' / name).symlink_to(shim)
  for name in TOOLS:
    (folder / 'bin' / name).symlink_to(shutil.which(name))
  kept = ('HOME', 'JAX_COMPILATION_CACHE_DIR', 'JAX_PLATFORMS', 'LANG', 'TMPDIR')
  kept = {name: os.environ[name] for name in kept if name in os.environ}
  environment = kept | {
    'DOCS_LOG': str(folder / 'log'),
    'DOCS_SERVER': str(folder / 'server'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PATH': str(folder / 'bin'),
    'PYTHONDONTWRITEBYTECODE': '1',
    'RECJAX_DATA': str(folder / 'world/raw'),
    'WORLD': str(folder / 'world'),
  }
  command = [sys.executable, '-m', 'tests.docs_shell.server', environment['DOCS_SERVER']]
  with subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
  ) as server:
    world.write(folder / 'world')
    assert server.stdout.readline() == 'ready\n'
    yield environment
    server.kill()


def run(text, folder, environment):
  """Runs a block in a shell, then checks the commands that it only wrote down."""
  log = pathlib.Path(environment['DOCS_LOG'])
  log.write_text('')
  done = subprocess.run(
    ['/bin/bash', '-euo', 'pipefail', '-c', text],
    cwd=folder, env=environment, capture_output=True, text=True, timeout=900,
  )  # fmt: skip
  said = f'{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}'
  assert not done.returncode, said
  for line in log.read_text().splitlines():
    name, arguments, *_ = json.loads(line)
    CHECKS[name](arguments)


@pytest.mark.parametrize(
  'page', [pytest.param(p, marks=[pytest.mark.soak] if p in SLOW else []) for p in PAGES]
)
def test_the_commands_of_a_page_run(page, shell, tmp_path):
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  (tmp_path / '.venv/bin').mkdir(parents=True)
  (tmp_path / '.venv/bin/activate').touch()
  for command in rules.BEFORE.get(page, ()):
    run(rules.with_values(page, command, shell['WORLD']), tmp_path, shell)
  for block in blocks((ROOT / page).read_text()):
    text = rules.with_values(page, block.text, shell['WORLD'])
    if block.language in SHELL:
      run(text, tmp_path, shell)
    elif block.language == 'python':
      (tmp_path / 'block.py').write_text(rules.PYTHON.get(page, rules.PYTHON['']) + text)
      run('python block.py', tmp_path, shell)
    else:
      assert block.language in SKIPPED, f'{page}:{block.line}: no rule for ```{block.language}'


def outputs(notebook):
  """Returns the texts of the outputs of a notebook."""
  cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
  found = [output for cell in cells for output in cell.outputs]
  assert not [output for output in found if output.output_type == 'error']
  return [o.text if o.output_type == 'stream' else '\n'.join(o.data.values()) for o in found]


def test_the_notebook_runs_in_an_empty_folder(shell, tmp_path):
  notebook = nbformat.read(TOUR, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=300, kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}}
  )
  client.execute(env=shell | {'PYTHONPATH': str(ROOT)})
  texts = outputs(notebook)
  (compared,) = [text for text in texts if '<td' in text and 'optimum' in text]
  values = {name: float(x) for name, x in re.findall(r'>([a-z]+)</td><td[^>]*>([\d.]+)', compared)}
  assert values['popularity'] < values['transitions'] < values['model'] < values['optimum']
  assert (tmp_path / 'tour/report.html').exists()


def test_the_stored_outputs_of_the_notebook_are_small_and_name_no_path_of_a_machine():
  notebook = nbformat.read(TOUR, as_version=4)
  assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == 'code')
  texts = outputs(notebook)
  assert len(texts) >= 7 and max(map(len, texts)) < 8000
  assert not [text for text in texts if re.search(r'/(home|root|tmp|Users|work|usr|opt)/', text)]
