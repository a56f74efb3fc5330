"""The commit of a checkpoint of the hub: recorded by a run, used by its resumes, part of its identity."""

import pytest

from configs import demo
from recjax import config as config_lib
from recjax.models import pretrained
from recjax.workdir import checkpoint_name, identity

ONE, TWO = 'hf:org/tiny@' + '1' * 40, 'hf:org/tiny@' + '2' * 40


def config_with(name, prepared_dir=None):
  config = demo.get_config('tiny')
  config.model.pretrained, config.data.prepared_dir = name, prepared_dir
  return config_lib.from_config_dict(config)


def test_a_resume_uses_the_commit_of_the_workdir(tmp_path, monkeypatch):
  asked = []

  def resolve(name, known):
    asked.append((name, known))
    return known or ONE

  monkeypatch.setattr(pretrained, 'resolve', resolve)
  monkeypatch.setattr(pretrained, 'fetch', lambda name, asked: name)
  config = config_with('hf:org/tiny')
  first = checkpoint_name.resolved(config, tmp_path)
  assert first.model.pretrained == ONE
  identity.write_config(config_with(TWO), tmp_path)
  assert checkpoint_name.resolved(config, tmp_path).model.pretrained == TWO
  assert asked == [('hf:org/tiny', None), ('hf:org/tiny', TWO)]
  local = config_with('/models/tiny')
  assert checkpoint_name.resolved(local, tmp_path) is local


def test_another_commit_is_another_run_and_a_folder_may_replace_a_name(tmp_path):
  identity.write_config(config_with(ONE), tmp_path)
  with pytest.raises(
    ValueError, match=r"model.pretrained \('hf:org/tiny@111.* in the workdir, 'hf"
  ):
    identity.check_run(config_with(TWO), tmp_path)
  identity.check_run(config_with('/models/tiny'), tmp_path)
  with pytest.raises(ValueError, match=r'model\.pretrained'):
    identity.check_run(config_with(None), tmp_path)


def test_the_prepared_folder_has_the_name_of_the_model_without_the_commit():
  for name in ('hf:org/tiny', ONE, TWO, 'hf:org/tiny@main', '/models/tiny'):
    assert str(config_with(name).prepared_folder) == 'data/demo-tiny-tiny'


def test_a_refusal_is_raised(tmp_path):
  with pytest.raises(ValueError, match='must be named as hf:organisation/name'):
    checkpoint_name.resolved(config_with('hf:a/b/c'), tmp_path)
