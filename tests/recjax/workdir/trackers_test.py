"""Metrics also go to Weights & Biases and MLflow; small modules that record calls stand in for the packages."""

import json
import logging
import sys
import threading
import types

from etils import epath
import pytest

from configs import demo
from recjax import config as config_lib
from recjax.workdir import metrics_file, trackers


class FakeRun:
  def __init__(self, calls, fields):
    self.calls, self.fields = calls, fields

  def define_metric(self, name, step_metric):
    self.calls.append(('define', name, step_metric))

  def log(self, row):
    if row['step'] in self.calls.failing:
      raise RuntimeError('the server\nis down')
    self.calls.append(('log', row))

  def finish(self, exit_code):
    self.calls.append(('finish', exit_code))


class Calls(list):
  failing = ()


class FakeClient:
  """What the trackers call of mlflow.MlflowClient."""

  calls = None

  def get_experiment_by_name(self, name):
    return None

  def create_experiment(self, name):
    self.calls.append(('experiment', name))
    return '7'

  def create_run(self, experiment, run_name, tags):
    self.calls.append(('run', experiment, run_name, tags))
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id='abc'))

  def update_run(self, run_id, status):
    self.calls.append(('update', run_id, status))

  def log_batch(self, run_id, metrics=(), params=()):
    assert len(params) <= 100  # the limit of MLflow
    self.calls.append(('batch', run_id, [*metrics, *params]))

  def set_terminated(self, run_id, status):
    self.calls.append(('end', run_id, status))


@pytest.fixture
def calls(monkeypatch):
  """Puts recording modules in place of the packages; returns the calls."""
  calls = Calls()

  def init(**fields):
    calls.append(('init', fields))
    return FakeRun(calls, fields)

  wandb = types.ModuleType('wandb')
  wandb.init = init
  mlflow = types.ModuleType('mlflow')
  mlflow.MlflowClient = type('Client', (FakeClient,), {'calls': calls})
  mlflow.entities = types.SimpleNamespace(
    Metric=lambda key, value, time, step: ('metric', key, value, step),
    Param=lambda key, value: ('param', key, value),
  )
  for name, module in {'wandb': wandb, 'mlflow': mlflow}.items():
    module.__spec__ = types.SimpleNamespace(name=name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv('WANDB_PROJECT', raising=False)
    monkeypatch.delenv('MLFLOW_EXPERIMENT_NAME', raising=False)
  return calls


def config_with(*names):
  config = demo.get_config('tiny')
  config.log_to = names
  return config_lib.from_config_dict(config)


def train(folder, names, steps, is_enabled=True):
  """Writes metrics as a training does."""
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with (
    trackers.opened(config_with(*names), folder, is_enabled) as tracked,
    metrics_file.Writer(folder, steps[0] - 1, is_enabled, tracked.log) as writer,
  ):
    for step in steps:
      writer.write(step, {'loss': 1 / step, 'odd': float('nan')})
    writer.write_evaluation(steps[-1], {'recall@10': 0.5})


def test_wandb_gets_every_step_and_evaluation_and_a_resume_continues_the_run(tmp_path, calls):
  train(tmp_path / 'run', ['wandb'], (1, 2))
  (_, first), define, *rest = calls
  assert (first['project'], first['name'], first['tags']) == (
    'recjax',
    'run',
    ['demo-tiny', 'gemma'],
  )
  assert first['config']['optim.learning_rate'] == 4e-3
  assert define == ('define', '*', 'step')
  assert rest == [
    ('log', {'step': 1, 'loss': 1.0}),
    ('log', {'step': 2, 'loss': 0.5}),
    ('log', {'step': 2, 'validation/recall@10': 0.5}),
    ('finish', 0),
  ]
  calls.clear()
  train(tmp_path / 'run', ['wandb'], (3,))
  assert calls[0][1]['id'] == first['id'] and calls[0][1]['resume'] == 'allow'
  assert json.loads((tmp_path / 'run/trackers.json').read_text()) == {'wandb': first['id']}


def test_mlflow_gets_parameters_once_and_names_without_at(tmp_path, calls):
  train(tmp_path / 'run', ['mlflow'], (1,))
  assert calls[:2] == [
    ('experiment', 'recjax'),
    ('run', '7', 'run', {'tags': 'demo-tiny, gemma'}),
  ]
  params = [entry for kind, _, batch in calls[2:-1] for entry in batch if entry[0] == 'param']
  assert ('param', 'model.width', '16') in params
  metrics = [entry for _, _, batch in calls[2:-1] for entry in batch if entry[0] == 'metric']
  assert metrics == [('metric', 'loss', 1.0, 1), ('metric', 'validation/recall_10', 0.5, 1)]
  assert calls[-1] == ('end', 'abc', 'FINISHED')
  calls.clear()
  train(tmp_path / 'run', ['mlflow'], (2,))
  assert calls[0] == ('update', 'abc', 'RUNNING')
  assert not [c for c in calls if c[0] in ('run', 'experiment')]


def test_a_failing_tracker_warns_once_and_stops_nothing(tmp_path, calls, caplog):
  calls.failing = (2,)
  with caplog.at_level(logging.WARNING, trackers.log.name):
    train(tmp_path / 'run', ['wandb', 'mlflow'], (1, 2, 3, 4))
  (record,) = caplog.records
  assert record.getMessage() == (
    'wandb gets no more metrics of this start (RuntimeError: the server); the training goes on'
  )
  assert ('end', 'abc', 'FINISHED') in calls  # the other one goes on
  assert len(metrics_file.read_metrics(tmp_path / 'run')) == 4


def test_a_package_that_ends_its_thread_is_switched_off(tmp_path, calls, caplog, monkeypatch):
  monkeypatch.setattr(sys.modules['wandb'], 'init', lambda **_: sys.exit('no key'))
  train(tmp_path / 'run', ['wandb'], (1, 2))
  assert 'wandb gets no more metrics of this start (SystemExit: no key)' in caplog.text


def test_a_tracker_that_hangs_is_left_alone(tmp_path, calls, caplog, monkeypatch):
  monkeypatch.setattr(trackers, '_CLOSE_S', 0.1)
  release = threading.Event()
  monkeypatch.setattr(sys.modules['wandb'], 'init', lambda **_: release.wait(30))
  train(tmp_path / 'run', ['wandb'], (1, 2))
  assert 'it did not finish within 0 s' in caplog.text
  release.set()


def test_a_preempted_training_closes_its_trackers(tmp_path, calls):
  folder = epath.Path(tmp_path)
  with pytest.raises(SystemExit), trackers.opened(config_with('wandb', 'mlflow'), folder, True):
    raise SystemExit(42)
  assert ('finish', 1) in calls and ('end', 'abc', 'KILLED') in calls


def test_the_metrics_of_the_test_split_go_to_the_same_run(tmp_path, calls):
  train(tmp_path / 'run', ['wandb'], (1,))
  id_ = calls[0][1]['id']
  calls.clear()
  folder = epath.Path(tmp_path / 'run')
  trackers.log_test(config_with('wandb'), folder, 1, {'recall@10': 0.25})
  assert calls[0][1]['id'] == id_
  assert calls[2:] == [('log', {'step': 1, 'test/recall@10': 0.25}), ('finish', 0)]
  trackers.log_test(config_with(), folder, 1, {'recall@10': 0.25})
  assert len(calls) == 4


def test_other_processes_and_runs_without_trackers_call_nothing(tmp_path, calls):
  train(tmp_path / 'a', ['wandb', 'mlflow'], (1,), is_enabled=False)
  train(tmp_path / 'b', [], (1,))
  assert not calls and not (tmp_path / 'b/trackers.json').exists()


def test_a_folder_of_the_name_is_no_package(tmp_path, monkeypatch):
  (tmp_path / 'wandb/latest-run').mkdir(parents=True)  # wandb writes it into the current folder
  monkeypatch.setattr(sys, 'path', [str(tmp_path)])
  monkeypatch.delitem(sys.modules, 'wandb', raising=False)
  with pytest.raises(ValueError, match='the package wandb must be installed'):
    trackers.check(('wandb',))


def test_an_absent_package_and_an_unknown_name_are_refused(monkeypatch):
  monkeypatch.setattr(trackers.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'the package wandb must be installed.*pip install wandb'):
    trackers.check(('wandb',))
  trackers.check(())
  with pytest.raises(ValueError, match=r'every value of log_to must be one of wandb, mlflow; got'):
    config_with('comet')
