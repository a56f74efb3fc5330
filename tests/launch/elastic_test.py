"""The number of hosts that a run can go on with."""

import pytest

from launch import elastic
from launch.options import usable_hosts
from recjax import config as config_lib
from recjax.workdir import identity
from tests.launch.compile.examples import config_of


def recorded(folder, **fields) -> config_lib.Config:
  config = config_of('flat', **{'batch_size': 48, 'packing.rows': 4} | fields)
  folder.mkdir(parents=True, exist_ok=True)
  identity.write_config(config, folder)
  return config


@pytest.mark.parametrize(
  ('fields', 'options', 'expected'),
  [
    ({}, {'at_most': 7}, 6),  # 12 groups of rows: 6, 4, 3, 2 or 1 hosts
    ({}, {'at_most': 5}, 4),
    ({}, {'at_most': 3, 'devices': 4}, 3),  # 12 shards divide 48 rows
    ({'grad_accumulation': 8}, {'at_most': 5}, 3),
    ({}, {'at_most': 3, 'processes': 2, 'devices': 3}, 2),
    ({'mesh.fsdp': 4}, {'at_most': 5, 'devices': 2}, 4),
    ({'mesh.fsdp': -1, 'mesh.data': 1}, {'at_most': 3, 'devices': 2}, 3),
    # Processes that share a group of `tensor` read the same rows.
    ({'mesh.tensor': 4, 'batch_size': 24}, {'at_most': 5, 'devices': 2}, 4),
    ({'mesh.dcn_data': 2}, {'at_most': 3}, 2),
  ],
)
def test_the_largest_number_that_divides_the_batch_is_found(tmp_path, fields, options, expected):
  recorded(tmp_path, **fields)
  assert elastic.largest(tmp_path, **options) == expected


def test_every_training_of_the_run_counts(tmp_path):
  assert elastic.largest(tmp_path, 5) == 5  # nothing is recorded yet
  recorded(tmp_path / 'stages/first', batch_size=20)
  assert elastic.largest(tmp_path, 5) == 5
  recorded(tmp_path, batch_size=48)
  assert elastic.largest(tmp_path, 5) == 1


def test_a_workdir_may_be_in_the_home_folder(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('HOME', str(tmp_path))
  recorded(tmp_path / 'run', batch_size=48)
  assert elastic.main(['--workdir=~/run', '--at_most=5']) == 0
  assert capsys.readouterr().out == '4\n'
  # The launchers pass the workdir of the program as it was given.
  assert usable_hosts(['--workdir=~/run'], 5) == (4, '')


def test_a_run_that_cannot_go_on_is_said_in_one_line(tmp_path, capsys):
  recorded(tmp_path, **{'mesh.data': 4})
  arguments = [f'--workdir={tmp_path}', '--at_most=3']
  assert elastic.main(arguments) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert 'cannot go on with 3 hosts or fewer: the mesh axes' in line and 'mesh.data=-1' in line
  assert elastic.main([f'--workdir={tmp_path}', '--at_most=4']) == 0
  assert capsys.readouterr().out == '4\n'
  with pytest.raises(ValueError, match='no host is left'):
    elastic.largest(tmp_path, 0)


@pytest.mark.parametrize('processes', [1, 2, 3, 4, 6])
def test_the_rules_are_those_of_a_training(tmp_path, processes):
  """A run that `check` accepts has whole packing groups on every host."""
  config = recorded(tmp_path)
  elastic.check(config, processes, 2)
  assert config.batch_size // config.packing.rows % processes == 0
