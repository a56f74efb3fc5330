"""`recjax.load` as an application uses it: in a fresh process, in another folder, on other devices."""

import dataclasses
import json
import os
import subprocess
import sys

from etils import epath
import pytest

from recjax.evaluate import make_context
from recjax.recommend import Recommender
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.train import train
from tests.folders import ROOT

PROGRAM = """
import recjax
model = recjax.load({workdir!r})
start = time.perf_counter()
print(json.dumps(model.recommend(['item003', 'item004'], k=10)))
print(time.perf_counter() - start)
print(jax.device_count(), *sorted(sys.modules))
"""


@pytest.fixture(scope='module')
def workdir(tiny_world, tmp_path_factory):
  """The workdir of a short run on eight devices."""
  config, dataset = tiny_world
  config = dataclasses.replace(config, mesh=Mesh(data=2, fsdp=2, tensor=2), num_train_steps=3)
  workdir, mesh = (
    epath.Path(tmp_path_factory.mktemp('load') / 'run'),
    mesh_lib.make_mesh(config.mesh),
  )
  train(config, workdir, make_context(config, dataset, mesh))
  return workdir


def test_three_lines_of_another_program_recommend(workdir, tmp_path):
  program = 'import json, sys, time, jax' + PROGRAM.format(
    workdir=os.path.relpath(workdir, tmp_path)
  )
  env = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'PYTHONPATH')}
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', program],
    cwd=tmp_path, env=env | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stderr == ''
  ranked, seconds, rest = done.stdout.splitlines()
  assert float(seconds) < 1
  devices, *modules = rest.split()
  assert devices == '1'
  slow = ('data_prep', 'tensorboardX', 'grain', 'tensorflow', 'configs', 'optuna')
  assert not [m for m in modules if m.split('.')[0] in slow]
  assert os.listdir(tmp_path) == []  # nothing is written into the current folder
  here = Recommender.from_workdir(workdir)
  assert here.step == 3
  expected = here.recommend(['item003', 'item004'], k=10)
  ranked = json.loads(ranked)
  assert [item for item, *_ in ranked] == [each.item for each in expected]
  assert [title for _, title, _ in ranked] == [each.title for each in expected]
  assert [score for *_, score in ranked] == pytest.approx([e.score for e in expected], abs=1e-4)


def test_a_folder_that_cannot_be_loaded_is_named(workdir, tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r'^workdir must be .*nothing does not exist\. Set workdir to a run$'
  ):
    Recommender.from_workdir(tmp_path / 'nothing')
  with pytest.raises(ValueError, match=r'beams must be a positive number; got 0$'):
    Recommender.from_workdir(workdir, beams=0)
  with pytest.raises(ValueError, match=r'must hold data that were prepared with this config'):
    Recommender.from_workdir(workdir, prepared_dir=str(tmp_path))
