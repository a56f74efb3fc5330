"""Which run a workdir belongs to, and how its model may be used."""

import dataclasses
import json

from etils import epath
import pytest

from configs import demo
from recjax import config as config_lib
from recjax.schema.optim import Group, Stage
from recjax.workdir import identity


@pytest.fixture
def config():
  return config_lib.from_config_dict(demo.get_config('tiny'))


def with_(config, **changes):
  """Changes of fields named section_field."""
  for name, value in changes.items():
    section, _, field = name.partition('_')
    changed = dataclasses.replace(getattr(config, section), **{field: value})
    config = dataclasses.replace(config, **{section: changed})
  return config


def with_prompt(config, **fields):
  component = dataclasses.replace(config.mixture['next_item'], **fields)
  return dataclasses.replace(config, mixture=config.mixture | {'next_item': component})


def test_a_config_is_read_back_unchanged(config, tmp_path):
  workdir = epath.Path(tmp_path)
  assert identity.config_of(workdir) is None
  config = with_prompt(config, schedule=((5.0, 0.5),), prompts=('Then: {history}',))
  identity.write_config(config, workdir)
  assert identity.config_of(workdir) == config
  (workdir / 'config.json').write_text('{"sizes": 3}')
  with pytest.raises(ValueError, match=r'must be a config of this version: unknown config field'):
    identity.config_of(workdir)
  for content in (b'{"sizes"', b'', b'[1]', b'null', b'\xff', b'[' * 100_000):
    (workdir / 'config.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'config\.json must be a JSON object.*--workdir'):
      identity.config_of(workdir)


def test_a_field_that_an_old_config_lacks_has_its_default(config, tmp_path):
  workdir = epath.Path(tmp_path)
  fields = json.loads(json.dumps(config.to_dict()))
  del fields['model']['remat'], fields['eval']['exclude_seen'], fields['optim']['clip_norm']
  (workdir / 'config.json').write_text(json.dumps(fields))
  assert identity.config_of(workdir) == config
  identity.check_run(config, workdir)


def test_a_run_belongs_to_its_data_sids_and_model(config, tmp_path):
  workdir = epath.Path(tmp_path)
  identity.check_run(config, workdir)  # a new workdir
  identity.write_config(config, workdir)
  other = dataclasses.replace(config, batch_size=32)
  identity.check_run(with_(other, data_raw_dir='/else', model_attention='xla'), workdir)
  with pytest.raises(
    ValueError, match=r'belongs to another config.*model.width \(16 in the workdir, 32 now'
  ):
    identity.check_run(with_(config, model_width=32), workdir)


def test_folders_may_change_but_not_be_set_or_unset(config, tmp_path):
  workdir = epath.Path(tmp_path)
  identity.write_config(with_(config, model_pretrained='/a'), workdir)
  identity.check_run(with_(config, model_pretrained='/b'), workdir)
  with pytest.raises(ValueError, match=r"model.pretrained \('/a' in the workdir, None now"):
    identity.check_run(config, workdir)


def test_a_model_is_used_as_it_was_trained(config, tmp_path):
  workdir = epath.Path(tmp_path)
  identity.check_use(config, workdir)
  identity.write_config(config, workdir)
  same = with_(config, eval_beams=30, mesh_fsdp=2, optim_learning_rate=1.0)
  identity.check_use(with_prompt(same, max_items=3, weight=0.1), workdir)
  with pytest.raises(ValueError, match=r"sid_softmax \('level' in the workdir, 'full' now"):
    identity.check_use(with_(config, model_sid_softmax='full'), workdir)
  with pytest.raises(
    ValueError, match=r"next_item component.show \('sid' in the workdir, 'both' now"
  ):
    identity.check_use(with_prompt(config, show='both'), workdir)
  with pytest.raises(ValueError, match=r'data.k_core .*--workdir'):
    identity.check_use(with_(config, data_k_core=3), workdir)
  # Data of another folder are checked by their hashes instead.
  identity.check_use(with_(config, data_k_core=3, data_prepared_dir='tuesday'), workdir)


@pytest.mark.parametrize(
  ('kind', 'message'),
  [
    ('none', r'must be the workdir of a run; .*none does not exist\. Set --workdir to a run, or start one with'),
    ('empty', r'empty is empty\. Set --workdir'),
    ('other', r'other has no config\.json\. Set --workdir'),
    ('file', r'the workdir of a run must be a folder; .*file is a file'),
    ('export', r'its config\.json is that of a transformers folder, such as an export\. Set --workdir'),
    ('newer', r'config\.json must be a config of this version: unknown config field model\.sparkle;'),
    ('damaged', r'config\.json must be a JSON object'),
  ],
)  # fmt: skip
def test_a_folder_that_is_no_workdir_is_refused(config, tmp_path, kind, message):
  folder = epath.Path(tmp_path / kind)
  if kind == 'file':
    folder.write_text('x')
  elif kind != 'none':
    folder.mkdir()
  if kind == 'other':
    (folder / 'sids').mkdir()
  if kind == 'export':
    (folder / 'config.json').write_text('{"model_type": "t5", "vocab_size": 3}')
  if kind == 'newer':
    fields = json.loads(json.dumps(config.to_dict()))
    fields['model']['sparkle'] = 1
    (folder / 'config.json').write_text(json.dumps(fields))
  if kind == 'damaged':
    identity.write_config(config, folder)
    whole = (folder / 'config.json').read_text()
    (folder / 'config.json').write_text(whole[: len(whole) // 2])
  with pytest.raises((ValueError, OSError), match=message) as error:
    identity.read_config_dict(str(folder / 'config.json'))
  assert len(str(error.value).splitlines()) == 1


def test_only_config_json_is_read_as_a_saved_config(tmp_path):
  with pytest.raises(
    ValueError, match=r'must be FILE\.py, recjax:NAME or the config\.json of a workdir; got'
  ):
    identity.read_config_dict(str(tmp_path / 'evaluation.json'))


def test_the_command_line_changes_a_saved_config(config, tmp_path):
  workdir = epath.Path(tmp_path)
  stages = {'one': Stage(num_train_steps=3, mixture=('next_item',)), 'a': Stage(num_train_steps=4)}
  groups = {'z': Group(pattern='x'), 'b': Group(pattern='y', learning_rate=0.5)}
  config = dataclasses.replace(
    config, stages=stages, optim=dataclasses.replace(config.optim, groups=groups)
  )
  identity.write_config(config, workdir)
  fields = identity.read_config_dict(str(workdir / 'config.json'))
  assert config_lib.from_config_dict(fields) == config
  assert list(config_lib.from_config_dict(fields).stages) == ['one', 'a']
  fields.lock()
  fields.eval.beams = 33
  fields.data.raw_dir = '/raw'  # None so far
  fields.stages.one.learning_rate = 0.25
  changed = config_lib.from_config_dict(fields)
  assert (changed.eval.beams, changed.data.raw_dir) == (33, '/raw')
  assert changed.stages['one'].learning_rate == 0.25
  with pytest.raises(AttributeError):
    fields.eval.baems = 3


def test_the_folder_of_a_stage_is_no_run(config, tmp_path):
  run = epath.Path(tmp_path)
  stages = {'one': Stage(num_train_steps=3), 'two': Stage(num_train_steps=4)}
  identity.write_config(dataclasses.replace(config, stages=stages), run)
  with pytest.raises(ValueError, match=r'it is its stage one\. Set --workdir='):
    identity.check_is_run(run / 'stages/one')
  identity.check_is_run(run)
  identity.check_is_run(run / 'stages/three')
  identity.check_is_run(run / 'one')
