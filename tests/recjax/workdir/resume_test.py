"""What a resume must keep of the optimizer and of the stream."""

import dataclasses
import json

from etils import epath
import pytest

from configs import demo
from recjax import config as config_lib
from recjax.schema.optim import Group, Optim
from recjax.workdir import identity, resume
from recjax.workdir.checkpoints import Meta

FOLDER = epath.Path('/runs/one')
TABLES, SIDS = Group(pattern='tables'), Group(pattern='tables/sid', learning_rate=3.0)


def test_a_changed_optimizer_group_or_order_is_refused():
  old = Optim(groups={'tables': TABLES, 'sids': SIDS}, ema_decay=0.5)
  resume.check_optimizer(old, dataclasses.replace(old, learning_rate=0.5, weight_decay=0.0), FOLDER)
  changes = {
    r'optim.optimizer of the training in /runs/one: .adamw.; got .adafactor.': {
      'optimizer': 'adafactor'
    },
    r'optim.ema_decay .*: 0.5; got 0.25. Set --config.optim.ema_decay': {'ema_decay': 0.25},
    r'optim.groups.tables.frozen of .*: False; got True. Set --config.optim.groups.tables.frozen': {
      'groups': {'tables': dataclasses.replace(TABLES, frozen=True), 'sids': SIDS}
    },
    r"optim.groups.new.pattern of .*: None; got 'x'": {
      'groups': {**old.groups, 'new': Group(pattern='x')}
    },
    r"the order of optim.groups of .*: \['tables', 'sids'\]; got \['sids', 'tables'\]. Set .*groups": {
      'groups': {'sids': SIDS, 'tables': TABLES}
    },
  }
  for message, change in changes.items():
    with pytest.raises(ValueError, match=message):
      resume.check_optimizer(old, dataclasses.replace(old, **change), FOLDER)


def test_another_number_of_updates_a_step_is_refused():
  resume.check_updates(6, 3, 2, 'rl', FOLDER)
  with pytest.raises(ValueError) as caught:
    resume.check_updates(3, 3, 4, 'rl', FOLDER)
  assert str(caught.value) == (
    'a resume must keep stages.rl.grpo.updates of the training in /runs/one: 1; got 4. Set '
    '--config.stages.rl.grpo.updates=1, or give a new --workdir with --config.checkpoint.init_from'
  )


def test_a_changed_stream_is_refused_by_name_unless_allowed():
  meta = Meta(10, {'sids': 'a', 'texts': 'b'}, 'c', [], {})
  assert resume.check_stream(meta, {'sids': 'a', 'texts': 'b'}, FOLDER, False)
  changed = {'sids': 'a', 'texts': 'x', 'relations': 'y'}
  with pytest.raises(ValueError, match=r'changed since: relations, texts\. Undo'):
    resume.check_stream(meta, changed, FOLDER, False)
  assert not resume.check_stream(meta, changed, FOLDER, True)


def test_a_run_of_an_earlier_version_keeps_its_frozen_sid_rows(tmp_path, caplog):
  config = config_lib.from_config_dict(demo.get_config('tiny'))
  adapted = dataclasses.replace(config, model=dataclasses.replace(config.model, lora_rank=2))
  workdir = epath.Path(tmp_path)

  def trains(config):
    return resume.with_sid_rows(config, workdir).optim.train_sid_rows

  assert trains(config) is None
  assert trains(adapted) is True
  fields = adapted.to_dict()
  del fields['optim']['train_sid_rows']
  (workdir / 'config.json').write_text(json.dumps(fields))
  assert trains(adapted) is False
  assert 'began with an earlier version' in caplog.text
  now = resume.with_sid_rows(adapted, workdir)
  resume.check_optimizer(identity.config_of(workdir).optim, now.optim, workdir)
  explicit = dataclasses.replace(now.optim, train_sid_rows=True)
  with pytest.raises(ValueError, match=r'must keep optim.train_sid_rows .*: False; got True'):
    resume.check_optimizer(identity.config_of(workdir).optim, explicit, workdir)
  identity.write_config(resume.with_sid_rows(adapted, workdir / 'new'), workdir)
  assert trains(adapted) is True
