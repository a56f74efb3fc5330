"""Arguments of the tables of ablations."""

import pytest

from bench.ablations import arguments


def test_data_sets_with_and_without_folders(tmp_path):
  assert arguments.data([f'beauty={tmp_path}', 'demo']) == {'beauty': str(tmp_path), 'demo': None}
  for wrong in (['=x'], ['demo', 'demo'], [''], ['../demo'], ['a/b'], ['.']):
    with pytest.raises(
      ValueError, match=r'the names of --data must begin with .* as in beauty=FOLDER'
    ):
      arguments.data(wrong)
  with pytest.raises(FileNotFoundError, match=r'--data=toys must be a folder; .* does not exist'):
    arguments.data([f'toys={tmp_path / "none"}'])


def test_seeds_are_different_numbers():
  assert arguments.seeds(['0', '12']) == [0, 12]
  for wrong in ([], ['1', '1'], ['-1'], ['a'], ['1.5']):
    with pytest.raises(ValueError, match='--seeds must be different numbers, 0 or more'):
      arguments.seeds(wrong)


def test_fields_of_the_config_go_to_every_run():
  own, extra = arguments.parted(['--table=iirg', '--config.batch_size=8', '-config.depth=2', 'x'])
  assert own == ['--table=iirg', 'x']
  assert arguments.checked(extra) == ['--config.batch_size=8', '-config.depth=2']
  for wrong in ('x', '--config.seed=1', '--config.data.raw_dir=/x', '--config.batch_size'):
    with pytest.raises(ValueError, match=r'further arguments must be --config.FIELD=VALUE'):
      arguments.checked([wrong])
