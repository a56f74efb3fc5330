"""A workdir is used from another folder, and after the workdir, the data or the whole project were moved."""

import dataclasses
import os
import shutil

from etils import epath
import pytest

from configs import demo
from recjax import config as config_lib
from recjax.data.prepared import MANIFEST, Prepared
from recjax.workdir import identity, paths

STAGES = {'interactions': 'interactions', 'sids': 'sids-01234567'}


@pytest.fixture
def project(tmp_path, monkeypatch):
  """A project folder with a run; its config holds relative paths."""
  project = tmp_path / 'project'
  for name in (
    'raw',
    'flan',
    'runs/demo',
    *(f'data/demo-tiny-flan/{stage}' for stage in STAGES.values()),
  ):
    (project / name).mkdir(parents=True)
  for stage in STAGES.values():
    (project / 'data/demo-tiny-flan' / stage / MANIFEST).write_text('{}')
  monkeypatch.chdir(project)
  fields = demo.get_config('tiny')
  fields.data.raw_dir, fields.model.pretrained = 'raw', 'flan'
  fields.checkpoint.init_from = 'gs://bucket/run'
  config = config_lib.from_config_dict(fields)
  workdir = epath.Path('runs/demo')
  identity.write_config(config, workdir)
  paths.write(workdir, Prepared(config.prepared_folder, STAGES))
  return project


def used(folder, monkeypatch, workdir):
  """Returns the config of a workdir and its data, as used from a folder."""
  folder.mkdir(exist_ok=True)
  monkeypatch.chdir(folder)
  config = identity.required_config(epath.Path(workdir))
  return config, paths.trained_on(epath.Path(workdir), config.prepared_folder)


def test_in_the_folder_of_the_start_the_config_is_as_it_was_given(project, monkeypatch):
  config, prepared = used(project, monkeypatch, 'runs/demo')
  assert (config.data.raw_dir, config.data.prepared_dir) == ('raw', None)
  assert prepared.folders == STAGES
  assert os.fspath(prepared) == 'data/demo-tiny-flan'


def test_relative_paths_count_from_the_folder_of_the_start(project, tmp_path, monkeypatch):
  config, prepared = used(tmp_path / 'else', monkeypatch, project / 'runs/demo')
  assert config.data.raw_dir == str(project / 'raw')
  assert config.model.pretrained == str(project / 'flan')
  assert config.sids.encoder == 'tfidf'
  assert config.checkpoint.init_from == 'gs://bucket/run'
  assert config.prepared_folder == project / 'data/demo-tiny-flan'
  assert (prepared / 'sids').exists()
  identity.check_run(config, epath.Path(project / 'runs/demo'))
  identity.check_use(config, epath.Path(project / 'runs/demo'))


def test_a_moved_workdir_finds_its_data(project, tmp_path, monkeypatch):
  shutil.move(project / 'runs/demo', tmp_path / 'moved')
  _, prepared = used(tmp_path / 'else', monkeypatch, tmp_path / 'moved')
  assert prepared.folders == STAGES
  assert prepared.root == project / 'data/demo-tiny-flan'


def test_a_project_is_moved_as_a_whole(project, tmp_path, monkeypatch):
  project.rename(tmp_path / 'other')
  for folder, workdir in (
    ('other', 'runs/demo'),
    ('other/runs', 'demo'),
    ('else', '../other/runs/demo'),
  ):
    config, prepared = used(tmp_path / folder, monkeypatch, workdir)
    assert os.path.samefile(config.data.raw_dir, tmp_path / 'other/raw')
    assert os.path.samefile(prepared, tmp_path / 'other/data/demo-tiny-flan')
    assert prepared.folders == STAGES


def test_missing_data_are_named_with_their_old_place(project, tmp_path, monkeypatch):
  old = project / 'data/demo-tiny-flan'
  shutil.rmtree(old / 'sids-01234567')
  config, prepared = used(tmp_path / 'else', monkeypatch, project / 'runs/demo')
  assert prepared is None
  with pytest.raises(
    ValueError, match=rf'must be in {old}; it lacks sids-01234567\. Set --config\.data\.prep'
  ):
    paths.check_exists(config, epath.Path(project / 'runs/demo'))
  old.rename(tmp_path / 'here')
  config, prepared = used(tmp_path / 'else', monkeypatch, project / 'runs/demo')
  assert prepared is None
  with pytest.raises(
    ValueError, match=rf'the prepared data of .* must be in {old}; it does not exist'
  ):
    paths.prepared_data(config, epath.Path(project / 'runs/demo'))


def test_moved_data_are_used_from_their_new_folder(project, tmp_path, monkeypatch):
  (project / 'data/demo-tiny-flan').rename(tmp_path / 'here')
  config, _ = used(tmp_path / 'else', monkeypatch, project / 'runs/demo')
  here = dataclasses.replace(config.data, prepared_dir=str(tmp_path / 'here'))
  config = dataclasses.replace(config, data=here)
  assert paths.prepared_data(config, epath.Path(project / 'runs/demo')).folders == STAGES
  identity.check_use(config, epath.Path(project / 'runs/demo'))
  other = dataclasses.replace(config, data=dataclasses.replace(here, k_core=3))
  with pytest.raises(ValueError, match=r'data\.k_core \(\d in the workdir, 3 now\)'):
    identity.check_use(other, epath.Path(project / 'runs/demo'))


def test_the_data_of_another_day_are_not_taken_for_moved_ones(project, tmp_path):
  shutil.copytree(project / 'data/demo-tiny-flan', tmp_path / 'tuesday')
  assert paths.trained_on(epath.Path('runs/demo'), epath.Path(tmp_path / 'tuesday')) is None


def test_a_workdir_of_an_earlier_version_has_no_paths(project, tmp_path, monkeypatch):
  (project / 'runs/demo' / paths.FILE).unlink()
  config, prepared = used(tmp_path / 'else', monkeypatch, project / 'runs/demo')
  assert config.data.raw_dir == 'raw' and prepared is None


@pytest.mark.parametrize(
  'content',
  [
    '{',
    '[]',
    '{"a": 1}',
    '{"current_folder": 3, "workdir": "", "prepared_folder": "", "stages": {}}',
  ],
)
def test_a_damaged_file_is_refused(project, content):
  del project
  epath.Path('runs/demo', paths.FILE).write_text(content)
  with pytest.raises(ValueError, match=r'paths\.json must hold the paths of a run; it is damaged'):
    paths.read(epath.Path('runs/demo'))


def test_fields_of_a_later_version_are_ignored(project):
  del project
  file = epath.Path('runs/demo', paths.FILE)
  file.write_text(file.read_text().replace('{', '{"more": 1,', 1))
  assert paths.read(epath.Path('runs/demo')).stages == STAGES
