"""Stages are skipped if unchanged, written atomically, and byte-identical after a kill."""

import hashlib
import json
import os
import re
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


def run(root, stage):
  """Runs a stage in a new `Folder`, and returns the stage's folder."""
  folder = stage_lib.Folder(root)
  folder.run(stage)
  return folder.prepared / stage.name


def is_current(root, stage):
  return stage_lib.Folder(root).find(stage)


@pytest.fixture
def raw(tmp_path):
  path = tmp_path / 'raw'
  path.write_bytes(b'log')
  return path


def test_the_manifest_records_identity_files_and_summary(tmp_path, raw, capsys):
  folder = run(tmp_path / 'root', Copy(raw, {'levels': (1, 2)}).stage)
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


def test_an_unchanged_stage_is_skipped(tmp_path, raw, capsys):
  copy = Copy(raw, {'levels': (1, 2)})
  for _ in range(3):
    run(tmp_path / 'root', copy.stage)
  assert copy.runs == 1
  assert 'copy: skipped, unchanged: 6 size' in capsys.readouterr().out


@pytest.mark.parametrize('change', ['file lost', 'file cut'])
def test_an_incomplete_folder_is_replaced(tmp_path, raw, change):
  root = tmp_path / 'root'
  folder = run(root, Copy(raw).stage)
  again = Copy(raw)
  path = folder / 'sub' / 'twice'
  path.unlink() if change == 'file lost' else path.write_bytes(b'lo')
  assert not is_current(root, again.stage)
  assert run(root, again.stage) == folder
  assert again.runs == 1
  assert contents(folder)['sub/twice'] == b'loglog'
  assert is_current(root, again.stage)


@pytest.mark.parametrize('change', ['input', 'params', 'version'])
def test_another_identity_is_written_to_a_variant(tmp_path, raw, change):
  root = tmp_path / 'root'
  first = Copy(raw, {'k': 1})
  folder = run(root, first.stage)
  before = contents(folder)
  again = Copy(raw, {'k': 2} if change == 'params' else {'k': 1}, 2 if change == 'version' else 1)
  if change == 'input':
    raw.write_bytes(b'new')
  assert not is_current(root, again.stage)
  other = run(root, again.stage)
  assert re.fullmatch(r'copy-[0-9a-f]{8}', other.name)
  assert contents(other)['sub/twice'] == raw.read_bytes() * 2
  assert contents(folder) == before
  assert run(root, again.stage) == other
  raw.write_bytes(b'log')
  assert run(root, first.stage) == folder
  assert (first.runs, again.runs) == (1, 1)


def test_a_later_stage_reads_the_variant_of_its_own_config(tmp_path, raw):
  for text in (b'log', b'new'):
    raw.write_bytes(text)
    folder = stage_lib.Folder(tmp_path / 'root')
    folder.run(Copy(raw).stage)
    place = 'copy/sub/twice'
    second = Copy(folder.prepared / place)
    folder.run(stage_lib.Stage('second', second.run, stage_lib.outputs(folder.prepared, place)))
    assert contents(folder.prepared / 'second')['sub/twice'] == text * 4
  assert len(os.listdir(tmp_path / 'root')) == 4


def test_variants_that_only_absent_inputs_distinguish_are_rejected(tmp_path, raw):
  root = tmp_path / 'root'
  for text in (b'log', b'new'):
    raw.write_bytes(text)
    run(root, Copy(raw).stage)
  raw.unlink()
  with pytest.raises(
    ValueError, match=r'copy, .*copy-\w+ were built from .*raw must exist.*--prune'
  ):
    is_current(root, Copy(raw).stage)


def test_absent_raw_files_count_as_unchanged_but_absent_stage_outputs_do_not(tmp_path, raw):
  root = tmp_path / 'root'
  first = Copy(raw)
  run(root, first.stage)
  second = Copy(root / 'copy' / 'sub' / 'twice')
  second_stage = stage_lib.Stage('second', second.run, stage_lib.outputs(root, 'copy/sub/twice'))
  run(root, second_stage)
  raw.unlink()
  assert is_current(root, first.stage)
  assert is_current(root, second_stage)
  (root / 'copy' / 'sub' / 'twice').unlink()
  assert not is_current(root, second_stage)
  with pytest.raises(FileNotFoundError, match='must exist: stage copy reads it as raw'):
    run(root, first.stage)


def test_a_failed_stage_does_not_change_the_folder(tmp_path, raw):
  root = tmp_path / 'root'
  old = contents(run(root, Copy(raw).stage))

  def fail(out):
    (out / 'half').write_text('half')
    raise ValueError('bad line')

  with pytest.raises(ValueError, match='bad line'):
    run(root, stage_lib.Stage('copy', fail))
  assert contents(root / 'copy') == old
  assert os.listdir(root) == ['copy']


def test_a_manifest_that_is_not_json_is_rejected(tmp_path, raw):
  copy = Copy(raw)
  folder = run(tmp_path / 'root', copy.stage)
  (folder / 'manifest.json').write_text('{')
  with pytest.raises(ValueError, match=r'manifest\.json must be JSON'):
    is_current(tmp_path / 'root', copy.stage)


KILLED = """
import os, signal, sys
from etils import epath
from data_prep import stage as stage_lib

def die(*unused):
  os.kill(os.getpid(), signal.SIGKILL)

def run(out):
  (out / 'a').write_text(sys.argv[3])
  if sys.argv[2] == 'in the run':
    die()
  (out / 'b').write_text('b')
  return {'size': 2}

if sys.argv[2] == 'before the swap':
  stage_lib._replace = die
elif sys.argv[2] == 'in the swap':
  type(epath.Path(sys.argv[1])).rename = die
folder = stage_lib.Folder(sys.argv[1])
if folder.root.exists():
  folder.recover()
folder.run(stage_lib.Stage('s', run, params={'text': 'new'}))
"""


def run_killed(root, where, text):
  return subprocess.run(
    [sys.executable, '-c', KILLED, str(root), where, text], cwd=ROOT, check=False
  ).returncode


@pytest.mark.parametrize('where', ['in the run', 'before the swap', 'in the swap'])
@pytest.mark.parametrize('replaced', ['nothing', 'an incomplete folder'])
def test_a_killed_stage_gives_the_same_bytes_when_restarted(tmp_path, where, replaced):
  assert run_killed(tmp_path / 'whole', '', 'new') == 0
  if replaced != 'nothing':
    assert run_killed(tmp_path / 'root', '', 'older') == 0
    (tmp_path / 'root' / 's' / 'a').write_text('')
  assert run_killed(tmp_path / 'root', where, 'new') == -signal.SIGKILL
  assert any(name.endswith('.partial') for name in os.listdir(tmp_path / 'root'))
  assert run_killed(tmp_path / 'root', '', 'new') == 0
  assert contents(tmp_path / 'root') == contents(tmp_path / 'whole')


def test_recover_restores_a_folder_that_an_earlier_version_was_replacing(tmp_path, raw):
  folder = run(tmp_path, Copy(raw).stage)
  folder.rename(tmp_path / '.copy.old')
  (tmp_path / '.other.partial').mkdir()
  stage_lib.Folder(tmp_path).recover()
  assert sorted(os.listdir(tmp_path)) == ['copy', 'raw']
  assert is_current(tmp_path, Copy(raw).stage)
