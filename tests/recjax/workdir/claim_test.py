"""One training run a workdir, and paths that Orbax would take for a pattern."""

import os
import subprocess
import sys

from etils import epath
import jax
import jax.numpy as jnp
import pytest

from recjax.runtime import distributed, lock
from recjax.workdir import claim
from recjax.workdir.checkpoints import Checkpoints, Meta
from tests.folders import ROOT

HOLDER = """
import sys
from etils import epath
from recjax.workdir import claim
with claim.claimed(epath.Path(sys.argv[1])):
  print('held', flush=True)
  sys.stdin.read()
"""


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
  workdir = epath.Path(tmp_path) / 'run'
  with subprocess.Popen(
    [sys.executable, '-c', HOLDER, os.fspath(workdir)],
    cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
  ) as process:  # fmt: skip
    assert process.stdout.readline() == 'held\n'
    message = (
      rf'{workdir} must be used by one process.*process {process.pid} on .*training.*--workdir'
    )
    with pytest.raises(lock.Held, match=message), claim.claimed(workdir):
      pytest.fail('two runs hold one workdir')
    process.kill()
  with claim.claimed(workdir):
    assert workdir.exists()


def test_an_unused_workdir_is_removed(tmp_path):
  workdir = epath.Path(tmp_path) / 'run'
  with pytest.raises(ValueError, match='bad input'), claim.claimed(workdir):
    raise ValueError('bad input')
  assert not workdir.exists()
  with claim.claimed(workdir):
    (workdir / 'config.json').write_text('{}')
  assert [path.name for path in workdir.iterdir()] == ['config.json']


def test_every_process_raises_the_refusal_of_host_0(tmp_path, monkeypatch):
  monkeypatch.setattr(distributed, 'is_host0', lambda: False)
  monkeypatch.setattr(distributed, 'from_host0', lambda topic, value: 'held by process 7')
  with pytest.raises(lock.Held, match='held by process 7'), claim.claimed(epath.Path(tmp_path)):
    pytest.fail('the claim was refused')


def params(value):
  return {'a': jnp.full((64,), value), 'b': {'c': jnp.arange(12.0) * value}}


@pytest.mark.parametrize('name', ['lr=[0.1]', '[', 'a*b', 'a?b', 'a\\b'])
def test_a_path_that_is_a_pattern_is_refused(tmp_path, monkeypatch, name):
  workdir = epath.Path(tmp_path) / name / 'run'
  with pytest.raises(ValueError, match=r'must not contain any of .*pattern.*--workdir') as error:
    claim.check_path(workdir)
  assert str(workdir) in str(error.value)
  assert '\n' not in str(error.value)
  workdir.parent.mkdir()
  monkeypatch.chdir(workdir.parent)
  with pytest.raises(ValueError, match='must not contain any of'):
    claim.check_path(epath.Path('run'))


@pytest.mark.parametrize(
  'name', ['a b', 'ü 中文', '50%', '%20', 'a{b}', '~x', '$HOME', 'a:b', "it's #1"]
)
def test_other_paths_hold_checkpoints(tmp_path, name):
  workdir = epath.Path(tmp_path) / name / 'run'
  claim.check_path(workdir)
  meta = Meta(10, {'part': 'x'}, 'c', [], {})
  with Checkpoints(workdir) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, {'params': params(step)}, meta, None)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    restored = checkpoints.restore_params(2, jax.eval_shape(lambda: params(0.0)))
  assert float(restored['b']['c'][3]) == 6.0
