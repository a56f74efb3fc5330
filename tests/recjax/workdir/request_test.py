"""A command is refused before anything happens if a flag or a path cannot be right."""

import dataclasses
import os

from etils import epath
import pytest

from recjax import config as config_lib
from recjax.workdir import trackers
from recjax.workdir.request import Request


def request(folder, mode, fields=None, **flags):
  config = config_lib.defaults(source='synthetic', name='world')
  config.data.prepared_dir = str(folder / 'prepared')
  for name, value in (fields or {}).items():
    config.update_from_flattened_dict({name: str(value)})
  config = config_lib.from_config_dict(config)
  flags = {'workdir': epath.Path(folder / 'run')} | flags
  return Request(config=config, mode=mode, **flags)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'file').write_text('{"history": ["x"]}')
  (tmp_path / 'here').mkdir()
  (tmp_path / 'full').mkdir()
  (tmp_path / 'lr=[1]').mkdir()
  (tmp_path / 'full/config.json').write_text('{}')
  return tmp_path


def test_existing_paths_pass(folder):
  request(folder, 'train').check()
  (folder / 'run/checkpoints').mkdir(parents=True)
  (folder / 'run/evaluation.json').write_text('{}')
  request(folder, 'evaluate').check()
  request(folder, 'report').check()
  (folder / 'histories').write_text('{"history": ["item"]}\n')
  request(folder, 'recommend', histories=folder / 'histories', out=folder / 'new/out.jsonl').check()
  here = {'model.pretrained': folder / 'here'}
  request(folder, 'export', here, out=folder / 'out').check()
  fields = here | {'model.sid_rows': 'sa_init', 'model.sid_keywords': folder / 'file'}
  request(folder, 'train', fields | {'checkpoint.init_from': folder / 'run'}).check()
  assert sorted(os.listdir(folder)) == ['file', 'full', 'here', 'histories', 'lr=[1]', 'run']


def test_a_read_only_prepared_folder_passes_unless_it_is_pruned(folder, monkeypatch):
  (folder / 'run/checkpoints').mkdir(parents=True)
  (folder / 'run/evaluation.json').write_text('{}')
  prepared = folder / 'prepared'
  prepared.mkdir()
  access = os.access
  monkeypatch.setattr(
    os, 'access', lambda path, mode: os.fspath(path) != str(prepared) and access(path, mode)
  )
  for mode in ('prepare', 'train', 'evaluate', 'report'):
    request(folder, mode).check()
  with pytest.raises(
    PermissionError, match=r'--config\.data\.prepared_dir must be a folder that can be'
  ):
    request(folder, 'prepare', prune=True).check()


@pytest.mark.parametrize(
  ('mode', 'fields', 'flags', 'message'),
  [
    ('recommend', {}, {'histories': 'file'}, '--mode=recommend needs --histories=FILE and --out=FILE'),
    ('recommend', {}, {'histories': 'file', 'out': 'out', 'within': 'red'}, '--within needs --masks=FOLDER of the sub-catalogues'),
    ('recommend', {}, {'histories': 'file', 'out': 'out', 'masks': 'none'}, r'^--masks must be a folder; .*none does not exist$'),
    ('recommend', {}, {'histories': 'none', 'out': 'out'}, r'^--histories must be a file; .*none does not exist$'),
    ('recommend', {}, {'histories': 'here', 'out': 'out'}, r'--histories must be a file; .*here is a folder'),
    ('recommend', {}, {'histories': 'file', 'out': 'here'}, r'--out must be a file; .*here is a folder'),
    ('recommend', {}, {'histories': 'file', 'out': 'file/x/y'}, r'the folder of --out must be a folder; .*file is a file'),
    ('recommend', {}, {'histories': 'file', 'out': 'out', 'k': 41}, r'--k must be from 1 to the 40 items'),
    ('export', {}, {}, '--mode=export needs --out=FOLDER'),
    ('export', {'model.pretrained': 'here'}, {'out': 'full'}, r'--out must be a new or an empty folder'),
    ('train', {}, {'workdir': 'file/run'}, r'--workdir must be a folder; .*file is a file'),
    ('prepare', {'data.prepared_dir': 'file/p'}, {}, r'--config.data.prepared_dir must be a folder; .*file is a'),
    ('train', {'compilation_cache': 'file'}, {}, r'--config.compilation_cache must be a folder'),
    ('prepare', {'model.pretrained': 'none'}, {}, r'--config.model.pretrained must be a folder; .*none does not'),
    ('train', {'model.sid_rows': 'sa_init', 'model.sid_keywords': 'none'}, {}, r'--config.model.sid_keywords must'),
    ('evaluate', {}, {}, r'run must hold the checkpoints of a run; it has none. Set --workdir$'),
    ('report', {}, {}, r'run must hold evaluation.json, which --mode=evaluate writes; it has none'),
    ('train', {'checkpoint.init_from': 'here'}, {}, r'init_from must be the workdir of a run, with checkpoints'),
    ('evaluate', {}, {'workdir': 'run[1]'}, r'must not contain any of .* Set --workdir to a path'),
    ('train', {'checkpoint.init_from': 'lr=[1]'}, {}, r'Set --config.checkpoint.init_from to a path without'),
    ('train', {'checkpoint.init_from': 'none'}, {}, r'--config.checkpoint.init_from must be a folder'),
  ],
)  # fmt: skip
def test_errors_name_the_flag(folder, mode, fields, flags, message):
  choices = ('sa_init', True, 41)
  fields, flags = (
    {name: v if v in choices else epath.Path(folder / v) for name, v in values.items()}
    for values in (fields, flags)
  )
  with pytest.raises((ValueError, OSError), match=message):
    request(folder, mode, fields, **flags).check()


def test_beams_of_an_export_are_those_of_a_bundle(folder):
  asked = {'mode': 'export', 'out': folder / 'out'}
  with pytest.raises(ValueError, match='--beams with --mode=export needs --format=bundle; got --format=transformers'):  # fmt: skip
    request(folder, beams=(20,), **asked).check()
  with pytest.raises(ValueError, match='--beams must be from 1 to 100,000; got 0'):
    request(folder, beams=(20, 0), format='bundle', **asked).check()


@pytest.mark.parametrize('mode', ['train', 'refresh'])
def test_a_training_needs_the_packages_of_its_trackers(folder, mode, monkeypatch):
  monkeypatch.setattr(trackers.importlib.util, 'find_spec', lambda name: None)
  asked = request(folder, mode)
  config = dataclasses.replace(asked.config, log_to=('wandb',))
  with pytest.raises(ValueError, match='wandb must be installed, because log_to names it'):
    dataclasses.replace(asked, config=config).check()


def test_a_resume_needs_no_initial_parameters(folder):
  asked = request(folder, 'train', {'checkpoint.init_from': folder / 'none'})
  with pytest.raises(FileNotFoundError, match='init_from'):
    asked.check()
  (folder / 'run/checkpoints').mkdir(parents=True)
  assert asked.check() is None
