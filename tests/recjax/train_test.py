"""Training: restarts, accumulation, meshes, and the reasons to stop."""

import dataclasses
import re
import signal

from etils import epath
import jax
import numpy as np
import pytest

from recjax import train as train_lib
from recjax.data import loader
from recjax.evaluate import make_context
from recjax.models import lora
from recjax.runtime import preemption
from recjax.schema.optim import Group
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.train import train
from recjax.workdir import mixture_file, starts
from recjax.workdir.metrics_file import read_metrics
from tests import saved


def run(config, dataset, workdir, mesh=None):
  mesh = mesh_lib.make_mesh(mesh or config.mesh)
  workdir = epath.Path(workdir)
  return train(config, workdir, make_context(config, dataset, mesh))


def with_(config, **changes):
  return dataclasses.replace(config, **changes)


def assert_trees(check, a, b):
  jax.tree.map(lambda x, y: check(np.asarray(x), np.asarray(y)), a, b)


AVERAGED_GROUPS = {
  'optimizer': 'adafactor',
  'ema_decay': 0.5,
  'groups': {
    'sid': Group(pattern='tables/sid', learning_rate=3.0),
    'text': Group(pattern='tables/text', frozen=True),
  },
}


@pytest.mark.parametrize('optim', [{}, AVERAGED_GROUPS], ids=['adamw', 'averaged_groups'])
def test_six_steps_equal_three_steps_a_restart_and_three_steps(
  tiny_world, tmp_path, monkeypatch, optim
):
  config, dataset = tiny_world
  config = with_(config, eval_every_steps=6, eval=with_(config.eval, eval_users=16))
  config = with_(config, optim=with_(config.optim, **optim))
  straight = run(config, dataset, tmp_path / 'straight')

  host_batch = loader.Stream.host_batch

  def stops_after_three(self, examples_seen, host, hosts):
    if examples_seen >= 3 * self.examples_per_batch:
      raise KeyboardInterrupt
    return host_batch(self, examples_seen, host, hosts)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(loader.Stream, 'host_batch', stops_after_three)
    run(config, dataset, tmp_path / 'stopped')
  resumed = run(config, dataset, tmp_path / 'stopped')
  assert resumed[1] == straight[1] == 6
  assert_trees(np.testing.assert_array_equal, straight[0], resumed[0])
  rows, again = read_metrics(tmp_path / 'straight'), read_metrics(tmp_path / 'stopped')
  assert [row['step'] for row in again] == [1, 2, 3, 4, 5, 6]
  assert [row['loss'] for row in again] == [row['loss'] for row in rows]
  assert rows[-1]['validation/recall@10'] == again[-1]['validation/recall@10']
  # The evaluation precedes the save, so the checkpoint has its score.
  assert saved.scores(tmp_path / 'stopped') == {3: None, 6: rows[-1]['validation/ndcg@10']}
  assert rows[-1]['loss'] < rows[0]['loss']
  other = with_(config, optim=with_(config.optim, ema_decay=0.25))
  with pytest.raises(ValueError, match=r'a resume must keep optim.ema_decay.*got 0.25. Set --conf'):
    run(other, dataset, tmp_path / 'stopped')


def test_accumulation_and_mesh_change_nothing_but_rounding(tiny_world, tmp_path):
  config, dataset = tiny_world
  model = with_(config.model, dropout=0.0)
  config = with_(
    config, model=model, eval_every_steps=6, num_train_steps=4, checkpoint_every_steps=6
  )
  config = with_(config, eval=with_(config.eval, eval_users=16))
  first = run(config, dataset, tmp_path / 'data')
  fsdp = Mesh(data=2, fsdp=2, tensor=2)
  second = run(with_(config, grad_accumulation=4), dataset, tmp_path / 'fsdp', fsdp)
  losses = [[row['loss'] for row in read_metrics(tmp_path / name)] for name in ('data', 'fsdp')]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
  # Adam divides by the gradient's own size, so rounding shows in gradients close to zero.
  assert_trees(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-3), first[0], second[0])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(tiny_world, tmp_path):
  config, dataset = tiny_world
  optim = with_(config.optim, learning_rate=1e30, warmup_steps=0, clip_norm=0.0)
  config = with_(config, optim=optim)
  with pytest.raises(FloatingPointError, match=r'at step 2, batch of examples \d+ to \d+') as error:
    run(config, dataset, tmp_path)
  first, last = map(int, re.search(r'examples (\d+) to (\d+)', str(error.value)).groups())
  assert first == last - first > 0
  assert list((tmp_path / 'checkpoints').glob('[0-9]*')) == []


def test_a_changed_stream_is_refused_by_name_unless_allowed(tiny_world, tmp_path):
  config, dataset = tiny_world
  config = with_(config, num_train_steps=3)
  run(config, dataset, tmp_path)
  component = with_(config.mixture['next_item'], max_items=6)
  other = with_(config, mixture={'next_item': component}, num_train_steps=4)
  with pytest.raises(ValueError, match=r'changed since: mixture.*allow_new_stream=True'):
    run(other, dataset, tmp_path)
  allowed = with_(other, checkpoint=with_(config.checkpoint, allow_new_stream=True))
  assert run(allowed, dataset, tmp_path)[1] in (3, 4)


def test_init_from_loads_the_parameters_of_another_run(tiny_world, tmp_path):
  config, dataset = tiny_world
  config = with_(config, num_train_steps=3)
  first = run(config, dataset, tmp_path / 'first')
  optim = with_(config.optim, learning_rate=1e-30, warmup_steps=0)
  checkpoint = with_(config.checkpoint, init_from=str(tmp_path / 'first'))
  second = run(with_(config, optim=optim, checkpoint=checkpoint), dataset, tmp_path / 'second')
  assert_trees(np.testing.assert_array_equal, first[0], second[0])
  with pytest.raises(ValueError, match=r'must be the workdir of a run.*checkpoint.init_from'):
    missing = with_(config.checkpoint, init_from=str(tmp_path / 'none'))
    run(with_(config, checkpoint=missing), dataset, tmp_path / 'third')


def test_init_from_adds_fresh_adapters_and_merges_old_ones(tiny_world, tmp_path):
  config, dataset = tiny_world
  config = with_(config, num_train_steps=2, eval=with_(config.eval, eval_users=16))
  base, _ = run(config, dataset, tmp_path / 'base')

  def after(source, steps, rate, **model):
    checkpoint = with_(config.checkpoint, init_from=str(tmp_path / source))
    optim = with_(
      config.optim, learning_rate=rate, warmup_steps=0, weight_decay=0.0, train_sid_rows=False
    )
    model = with_(config.model, **model)
    return with_(config, checkpoint=checkpoint, num_train_steps=steps, model=model, optim=optim)

  adapting = after('base', 2, 0.1, lora_rank=2, lora_alpha=6.0)
  adapted, _ = run(adapting, dataset, tmp_path / 'adapted')
  assert_trees(np.testing.assert_array_equal, lora.base(adapted), base)
  whole, _ = run(after('adapted', 1, 1e-30), dataset, tmp_path / 'whole')
  assert_trees(np.testing.assert_array_equal, whole, jax.jit(lora.merge)(adapted, 6.0))
  assert not np.array_equal(
    whole['layers']['ff']['up']['kernel'], base['layers']['ff']['up']['kernel']
  )
  metrics = [read_metrics(tmp_path / name)[-1] for name in ('adapted', 'whole')]
  assert metrics[0]['validation/recall@10'] == metrics[1]['validation/recall@10']


def test_bad_input_creates_no_workdir(tiny_world, tmp_path):
  config, dataset = tiny_world
  workdir = epath.Path(tmp_path)
  too_many_hosts = with_(config, batch_size=16, grad_accumulation=16)
  with pytest.raises(ValueError, match=r'multiple of the batch shards x grad_accumulation \(128\)'):
    run(too_many_hosts, dataset, workdir / 'new')
  missing = with_(config.checkpoint, init_from=str(tmp_path / 'nothing'))
  with pytest.raises(ValueError, match=r'checkpoint.init_from must be the workdir of a run'):
    run(with_(config, checkpoint=missing), dataset, workdir / 'new')
  assert not (workdir / 'new').exists()


def test_the_restart_repeats_an_evaluation_that_a_preemption_interrupted(
  tiny_world, tmp_path, monkeypatch
):
  config, dataset = tiny_world
  config = with_(config, eval_every_steps=3, eval=with_(config.eval, eval_users=16))
  straight = run(config, dataset, tmp_path / 'straight')
  evaluate = train_lib.evaluated

  def is_preempted(*_):
    signal.raise_signal(signal.SIGTERM)
    preemption.check()

  for _ in range(2):  # at step 3, and again after the restart
    monkeypatch.setattr(train_lib, 'evaluated', is_preempted)
    with pytest.raises(preemption.Preempted):
      run(config, dataset, tmp_path / 'preempted')
    assert saved.scores(tmp_path / 'preempted') == {3: None}
  monkeypatch.setattr(train_lib, 'evaluated', evaluate)
  got = run(config, dataset, tmp_path / 'preempted')
  assert_trees(np.testing.assert_array_equal, straight, got)
  assert saved.scores(tmp_path / 'preempted') == saved.scores(tmp_path / 'straight')
  rows = [read_metrics(tmp_path / name) for name in ('straight', 'preempted')]
  names = ('step', 'loss', 'validation/recall@10')
  one, other = ([{n: row.get(n) for n in names} for row in table] for table in rows)
  assert one == other


def test_a_resume_logs_changed_fields_and_refuses_reordered_groups(tiny_world, tmp_path, caplog):
  config, dataset = tiny_world
  groups = {'sid': Group(pattern='sid|norm', learning_rate=3.0), 'rest': Group(pattern='sid|ff')}
  optim = with_(config.optim, groups=groups, warmup_steps=1, learning_rate=0.01)
  evaluation = with_(config.eval, eval_users=16)
  config = with_(config, num_train_steps=2, eval=evaluation, optim=optim)
  run(config, dataset, tmp_path)
  assert not [r for r in caplog.records if 'changed' in r.getMessage()]
  reordered = with_(optim, groups=dict(reversed(groups.items())))
  with pytest.raises(ValueError, match=r"order of optim.groups.*'sid', 'rest'.*got .'rest', 'sid'"):
    run(with_(config, optim=reordered, num_train_steps=3), dataset, tmp_path)
  with caplog.at_level('INFO', 'recjax'):
    run(with_(config, num_train_steps=3), dataset, tmp_path)
  # Cosine after one step of warm-up: steps 2 and 3 are its steps 0 and 1, of 1 and then of 2.
  assert '  num_train_steps: 2 → 3' in caplog.text
  assert 'the learning rate of step 3 is 0.005 (0 with the old settings)' in caplog.text
  assert 'that of step 2 was 0.01' in caplog.text
  first, second = starts.read(tmp_path)
  assert (first['step'], second['step']) == (0, 2)
  assert second['changed'] == {'num_train_steps': [2, 3]}
  assert second['learning_rate']['new'] == read_metrics(tmp_path)[2]['learning_rate']
  [row] = mixture_file.read(epath.Path(tmp_path))
  assert (row['name'], row['share']) == ('next_item', 1.0)


def test_fewer_steps_than_completed_are_refused_and_change_no_file(tiny_world, tmp_path):
  config, dataset = tiny_world
  config = with_(config, eval=with_(config.eval, eval_users=16, ks=(10,)))
  run(with_(config, num_train_steps=4), dataset, tmp_path)
  before = (tmp_path / 'config.json').read_text()
  with pytest.raises(
    ValueError, match=r'not be less than the 4 steps that .*got 3.*num_train_steps'
  ):
    run(with_(config, num_train_steps=3), dataset, tmp_path)
  assert (tmp_path / 'config.json').read_text() == before


def test_patience_stops_a_run_that_does_not_improve(tiny_world, tmp_path, monkeypatch):
  config, dataset = tiny_world
  monkeypatch.chdir(tmp_path)  # a workdir may be relative, like the default one
  optim = with_(config.optim, learning_rate=1e-30, warmup_steps=0)
  evaluation = with_(config.eval, patience=1, eval_users=16)
  config = with_(config, optim=optim, eval=evaluation, eval_every_steps=1, num_train_steps=6)
  run(config, dataset, 'runs/one')
  assert [row['step'] for row in read_metrics('runs/one')] == [1, 2]
