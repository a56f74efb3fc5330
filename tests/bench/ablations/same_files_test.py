"""Finished runs are compared with the raw files that --data names."""

import dataclasses
import json
import shutil

from etils import epath
import pytest

from bench.ablations import same_files
from bench.ablations.runs import Run
from bench.ablations.tables import Row
from data_prep import prepare
from recjax.data.dataset import Log
from recjax.workdir import evaluation_file, paths
from tests.recjax.data import rated_world

NAME = 'shop'


@pytest.fixture
def finished(tmp_path):
  """A folder of runs with a finished one, which was trained on the files in `raw`."""
  rated_world.write_raw(tmp_path / 'raw', rated_world.rows())
  config, workdir = rated_world.make_config(tmp_path), tmp_path / 'w' / NAME / 'row-1f' / '0'
  folder = str(tmp_path / 'w' / NAME / 'prepared')
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, prepared_dir=folder))
  prepared = prepare.prepare_log(config)
  for split in ('validation', 'test'):
    place = workdir / 'predictions' / split / 'retrieval.parquet'
    place.parent.mkdir(parents=True)
    place.touch()
  (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
  results = {'step': 1, 'metrics': {}, 'baselines': {}, 'rows_per_sec': 1.0}
  results |= {'training': {'stopped': 'steps'}}
  results |= {'data': {'interactions': evaluation_file.log_digest(Log.load(prepared))}}
  evaluation_file.write(epath.Path(workdir), results)
  paths.write(epath.Path(workdir), prepared)
  return Run(NAME, Row(name='row'), 0, workdir, ())


def check(run, raw):
  same_files.check([run], {NAME: None if raw is None else str(raw)}, run.workdir.parents[2])


def test_runs_of_equal_files_are_used_and_of_others_refused(finished, tmp_path):
  check(finished, tmp_path / 'raw')
  check(finished, None)  # nothing is in the usual folder
  shutil.copytree(tmp_path / 'raw', tmp_path / 'moved')
  check(finished, tmp_path / 'moved')
  rated_world.write_raw(tmp_path / 'other', rated_world.rows(seed=1))
  message = r'--data=shop must name the raw files of the finished runs in .*; .*row-1f/0 was trained on those of .*raw, '
  with pytest.raises(ValueError, match=message + r'and .*other holds others'):
    check(finished, tmp_path / 'other')
  items = tmp_path / 'moved' / 'items.csv'
  items.write_text(items.read_text().replace('soap', 'wax'))  # the same interactions
  with pytest.raises(ValueError, match=message + r'and .*moved holds others'):
    check(finished, tmp_path / 'moved')
  items.unlink()
  with pytest.raises(FileNotFoundError, match=r'items.csv|--data=shop'):
    check(finished, tmp_path / 'moved')


def test_copied_runs_are_compared_by_their_sequences(finished, tmp_path):
  folder = tmp_path / 'copies'
  shutil.copytree(finished.workdir, folder / NAME / 'row-1f' / '0')
  copy = dataclasses.replace(finished, workdir=folder / NAME / 'row-1f' / '0')
  check(copy, tmp_path / 'raw')
  rated_world.write_raw(tmp_path / 'other', rated_world.rows(seed=1))
  with pytest.raises(ValueError, match='holds others'):
    check(copy, tmp_path / 'other')


def test_unfinished_runs_are_left_to_their_own_checks(finished, tmp_path):
  shutil.rmtree(finished.workdir / 'predictions')
  check(finished, tmp_path / 'none')
