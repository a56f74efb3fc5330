"""Stages: skipped, atomic, and byte-identical after a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys

from etils import epath
import pytest

from data_prep import stage as stage_lib
from tests.folders import ROOT, contents


class Copy:
  """A stage that doubles its input, and counts its runs."""

  def __init__(self, source, params=None, version=1):
    self.runs = 0
    self.source = epath.Path(source)
    self.stage = stage_lib.Stage('copy', self.run, {'raw': self.source}, params or {}, version)

  def run(self, out):
    self.runs += 1
    (out / 'sub').mkdir()
    (out / 'sub' / 'twice').write_bytes(self.source.read_bytes() * 2)
    return {'size': 2 * self.source.stat().length}


@pytest.fixture
def raw(tmp_path):
  path = tmp_path / 'raw'
  path.write_bytes(b'log')
  return path


def test_writes_the_manifest_that_it_promises(tmp_path, raw, capsys):
  folder = stage_lib.run_stage(tmp_path / 'root', Copy(raw, {'levels': (1, 2)}).stage)
  assert json.loads((folder / 'manifest.json').read_text()) == {
    'stage': 'copy',
    'version': 1,
    'params': {'levels': [1, 2]},
    'inputs': {'raw': hashlib.sha256(b'log').hexdigest()},
    'files': {'sub/twice': {'bytes': 6, 'sha256': hashlib.sha256(b'loglog').hexdigest()}},
    'summary': {'size': 6},
  }
  assert sorted(os.listdir(tmp_path / 'root')) == ['copy']
  assert 'copy: done in' in capsys.readouterr().out


def test_skips_while_nothing_changed(tmp_path, raw, capsys):
  copy = Copy(raw, {'levels': (1, 2)})
  for _ in range(3):
    stage_lib.run_stage(tmp_path / 'root', copy.stage)
  assert copy.runs == 1
  assert 'copy: skipped, unchanged: 6 size' in capsys.readouterr().out


@pytest.mark.parametrize('change', ['input', 'params', 'version', 'file lost', 'file cut'])
def test_runs_again_when_something_changed(tmp_path, raw, change):
  root = tmp_path / 'root'
  folder = stage_lib.run_stage(root, Copy(raw, {'k': 1}).stage)
  again = Copy(raw, {'k': 2} if change == 'params' else {'k': 1}, 2 if change == 'version' else 1)
  if change == 'input':
    raw.write_bytes(b'new')
  elif change == 'file lost':
    (folder / 'sub' / 'twice').unlink()
  elif change == 'file cut':
    (folder / 'sub' / 'twice').write_bytes(b'lo')
  assert not stage_lib.is_current(root, again.stage)
  stage_lib.run_stage(root, again.stage)
  assert again.runs == 1
  assert contents(folder)['sub/twice'] == raw.read_bytes() * 2
  assert stage_lib.is_current(root, again.stage)


def test_raw_files_may_go_but_other_stages_may_not(tmp_path, raw):
  root = tmp_path / 'root'
  first = Copy(raw)
  stage_lib.run_stage(root, first.stage)
  second = Copy(root / 'copy' / 'sub' / 'twice')
  second_stage = stage_lib.Stage('second', second.run, stage_lib.outputs(root, 'copy/sub/twice'))
  stage_lib.run_stage(root, second_stage)
  raw.unlink()
  assert stage_lib.is_current(root, first.stage)
  assert stage_lib.is_current(root, second_stage)
  (root / 'copy' / 'sub' / 'twice').unlink()
  assert not stage_lib.is_current(root, second_stage)
  with pytest.raises(FileNotFoundError, match='stage copy reads raw, which is missing'):
    stage_lib.run_stage(root, first.stage)


def test_a_failure_leaves_the_old_folder_and_nothing_new(tmp_path, raw):
  root = tmp_path / 'root'
  old = contents(stage_lib.run_stage(root, Copy(raw).stage))

  def fail(out):
    (out / 'half').write_text('half')
    raise ValueError('bad line')

  with pytest.raises(ValueError, match='bad line'):
    stage_lib.run_stage(root, stage_lib.Stage('copy', fail))
  assert contents(root / 'copy') == old
  assert os.listdir(root) == ['copy']
  with pytest.raises(ValueError, match='bad line'):
    stage_lib.run_stage(tmp_path / 'fresh', stage_lib.Stage('copy', fail))
  assert not (tmp_path / 'fresh').exists()


def test_a_manifest_that_is_not_json_is_named(tmp_path, raw):
  copy = Copy(raw)
  folder = stage_lib.run_stage(tmp_path / 'root', copy.stage)
  (folder / 'manifest.json').write_text('{')
  with pytest.raises(ValueError, match=r'manifest\.json must be JSON'):
    stage_lib.is_current(tmp_path / 'root', copy.stage)


KILLED = """
import os, signal, sys
from etils import epath
from data_prep import stages

def die(*unused):
  os.kill(os.getpid(), signal.SIGKILL)

def run(out):
  (out / 'a').write_text(sys.argv[3])
  if sys.argv[2] == 'in the run':
    die()
  (out / 'b').write_text('b')
  return {'size': 2}

if sys.argv[2] == 'before the swap':
  stages._replace = die
elif sys.argv[2] == 'in the swap':
  rename = epath.Path.rename
  partial = epath.Path(sys.argv[1]) / '.s.partial'
  type(partial).rename = lambda self, target: die() if self == partial else rename(self, target)
elif sys.argv[2] == 'after the swap':
  type(epath.Path(sys.argv[1])).rmtree = lambda self, missing_ok=False: self.exists() and die()
stages.run_stage(sys.argv[1], stages.Stage('s', run, params={'text': sys.argv[3]}))
"""


def run_killed(root, where, text):
  return subprocess.run(
    [sys.executable, '-c', KILLED, str(root), where, text], cwd=ROOT, check=False
  ).returncode


@pytest.mark.parametrize(
  'where', ['in the run', 'before the swap', 'in the swap', 'after the swap']
)
def test_sigkill_and_again_gives_the_same_bytes(tmp_path, where):
  assert run_killed(tmp_path / 'whole', '', 'new') == 0
  assert run_killed(tmp_path / 'root', '', 'old') == 0
  assert run_killed(tmp_path / 'root', where, 'new') == -signal.SIGKILL
  assert run_killed(tmp_path / 'root', '', 'new') == 0
  assert contents(tmp_path / 'root') == contents(tmp_path / 'whole')
