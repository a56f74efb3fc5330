"""A stage of kind grpo within a run: it resumes bit for bit, without the folder that it started from."""

import dataclasses
import shutil
import types

from etils import epath
import jax
import numpy as np
import pytest

from recjax import train as train_lib
from recjax.evaluate import make_context
from recjax.metrics.evaluators.base import Result
from recjax.runtime import preemption
from recjax.schema.grpo import GRPO, Grpo
from recjax.schema.optim import Stage
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.training.grpo import stage as stage_lib
from recjax.workdir import starts
from recjax.workdir.checkpoints import Checkpoints
from recjax.workdir.metrics_file import read_metrics

STEPS = 4


@pytest.fixture
def run(tiny_world, monkeypatch):
  """Trains a supervised stage and one of kind grpo in a workdir, without evaluations."""
  config, dataset = tiny_world
  settings = Grpo(group=4, samples='sampled', kl=0.1)
  stages = {
    'sft': Stage(num_train_steps=1, warmup_steps=0),
    'rl': Stage(
      kind=GRPO, num_train_steps=STEPS, warmup_steps=0, batch_size=4, checkpoint_every_steps=2,
      learning_rate=1e-3, grpo=settings,
    ),
  }  # fmt: skip
  config = dataclasses.replace(config, stages=stages, eval_every_steps=100)
  names = [f'{metric}@{k}' for metric in ('recall', 'ndcg') for k in (5, 10)]
  results = {name + suffix: 0.0 for name in names for suffix in ('', '_stderr')}
  monkeypatch.setattr(train_lib, 'evaluated', lambda *_: Result(results, np.arange(1)))
  mesh = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  context = make_context(config, dataset, mesh, types.SimpleNamespace())

  def trained(folder, updates=1):
    rl = dataclasses.replace(stages['rl'], grpo=dataclasses.replace(settings, updates=updates))
    changed = dataclasses.replace(config, stages=stages | {'rl': rl})
    return train_lib.train_stages(changed, epath.Path(folder), context)

  return trained


@pytest.mark.soak
def test_a_preempted_stage_ends_like_an_uninterrupted_one(run, tmp_path, monkeypatch):
  straight, _ = run(tmp_path / 'straight')
  stopped = tmp_path / 'stopped'
  seen = []

  def reached(_):
    seen.append(None)
    return len(seen) == 1 + 3  # the third step of the second stage

  with monkeypatch.context() as patch, pytest.raises(preemption.Preempted):
    patch.setattr(preemption.Watch, 'reached', reached)
    run(stopped)
  with Checkpoints(stopped, read_only=True) as checkpoints:
    assert checkpoints.latest_step() == 3
  shutil.rmtree(stopped / 'stages')  # the reference is in the folder of the stage itself
  resumed, _ = run(stopped)
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)
  assert [start['step'] for start in starts.read(stopped)] == [0, 3]
  rows, expected = read_metrics(stopped), read_metrics(tmp_path / 'straight')
  for name in ('step', 'loss', 'reward', 'kl', 'unique', 'examples_seen', 'epoch'):
    assert [row[name] for row in rows] == [row[name] for row in expected]
  assert rows[0]['kl'] == 0 < rows[-1]['kl']  # the stage begins at its reference
  shutil.rmtree(stopped / stage_lib.REFERENCE)
  with pytest.raises(ValueError, match=r'reference must hold the parameters that the stage began'):
    run(stopped)


def test_a_stage_keeps_its_number_of_updates(run, tmp_path, monkeypatch):
  def train_steps(setup, loop, workdir, checkpoints, *_):
    """Saves the state of the first step as the stage would make it, without its compilation."""
    if loop.step:
      return
    updates = 1 if setup.grpo is None else setup.grpo.updates
    counted = jax.tree.map(
      lambda x: x + updates if x.shape == () and x.dtype == np.int32 else x, loop.state.opt_state
    )
    loop.step, loop.state = 1, loop.state._replace(step=loop.state.step + 1, opt_state=counted)
    checkpoints.save(1, loop.state.to_saved(), train_lib._meta(setup, loop), 0.5)

  monkeypatch.setattr(train_lib, '_train_steps', train_steps)
  monkeypatch.setattr(train_lib, '_jitted_step', lambda *_: None)
  run(tmp_path, updates=2)
  run(tmp_path, updates=2)
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(ValueError, match=r'must keep stages.rl.grpo.updates of .*: 2; got 4. Set'):
    run(tmp_path, updates=4)
  assert sorted(tmp_path.rglob('*')) == before
