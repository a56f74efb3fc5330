"""The record of every start of a training."""

import dataclasses
import json

from etils import epath
import pytest

from configs import demo
from recjax import config as config_lib
from recjax.schema.optim import Group
from recjax.workdir import identity, starts


@pytest.fixture
def config():
  return config_lib.from_config_dict(demo.get_config('tiny'))


def test_every_start_is_recorded_with_the_fields_that_changed(config, tmp_path, caplog):
  folder = epath.Path(tmp_path) / 'run'
  caplog.set_level('INFO')
  assert starts.read(folder) == []
  starts.record(config, folder, 0, None)
  starts.record(config, folder, 3, None)
  assert not caplog.records
  optim = dataclasses.replace(config.optim, groups={'sid': Group(pattern='sid')})
  evaluation = dataclasses.replace(config.eval, ks=(10,))
  longer = dataclasses.replace(config, num_train_steps=999, eval=evaluation, optim=optim)
  rates = {'previous': 0.5, 'old': 0.25, 'new': 0.75}
  starts.record(longer, folder, 8, rates)
  lines = [record.getMessage() for record in caplog.records]
  assert f'  num_train_steps: {config.num_train_steps} → 999' in lines
  assert '  eval.ks: [1, 5, 10, 20] → [10]' in lines
  assert '  optim.groups.sid.pattern: null → "sid"' in lines
  assert lines[-1] == (
    'the schedule changed: the learning rate of step 9 is 0.75 (0.25 with the old settings); that of step 8 '
    'was 0.5'
  )
  first, second, third = starts.read(folder)
  assert first['config'] == json.loads(json.dumps(config.to_dict()))
  assert [start['step'] for start in (first, second, third)] == [0, 3, 8]
  assert first['changed'] == second['changed'] == {}
  assert third['changed']['num_train_steps'] == [config.num_train_steps, 999]
  assert third['learning_rate'] == {'step': 9, **rates}
  assert 'config' not in second and 'config' not in third
  assert identity.config_of(folder) == longer


def test_a_workdir_of_an_earlier_version_gets_a_record(config, tmp_path):
  folder = epath.Path(tmp_path)
  identity.write_config(dataclasses.replace(config, batch_size=128), folder)
  starts.record(config, folder, 5, None)
  [start] = starts.read(folder)
  assert start['changed'] == {'batch_size': [128, config.batch_size]}
  assert start['config']['batch_size'] == config.batch_size


def test_damaged_lines_are_left_out(config, tmp_path):
  folder = epath.Path(tmp_path)
  starts.record(config, folder, 0, None)
  with (tmp_path / 'starts.jsonl').open('ab') as file:
    file.write(b'\xff\n[1]\n{"time": "today"}\n{"time": "today", "step": 1, "changed": {"a": 3}}\n')
    file.write(b'[' * 100_000 + b'\n{"ste')
  starts.record(config, folder, 2, None)
  assert [start['step'] for start in starts.read(folder)] == [0, 2]
