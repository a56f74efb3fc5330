"""What a resume must keep of the optimizer and of the stream."""

import dataclasses

from etils import epath
import pytest

from recjax.schema.optim import Group, Optim
from recjax.workdir import resume
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
    r"optim.groups of .*'frozen': True": {
      'groups': {'tables': dataclasses.replace(TABLES, frozen=True), 'sids': SIDS}
    },
    r"the order of optim.groups of .*: \['tables', 'sids'\]; got \['sids', 'tables'\]. Set .*groups": {
      'groups': {'sids': SIDS, 'tables': TABLES}
    },
  }
  for message, change in changes.items():
    with pytest.raises(ValueError, match=message):
      resume.check_optimizer(old, dataclasses.replace(old, **change), FOLDER)


def test_a_changed_stream_is_refused_by_name_unless_allowed():
  meta = Meta(10, {'sids': 'a', 'texts': 'b'}, 'c', [], {})
  assert resume.check_stream(meta, {'sids': 'a', 'texts': 'b'}, FOLDER, False)
  changed = {'sids': 'a', 'texts': 'x', 'relations': 'y'}
  with pytest.raises(ValueError, match=r'changed since: relations, texts\. Undo'):
    resume.check_stream(meta, changed, FOLDER, False)
  assert not resume.check_stream(meta, changed, FOLDER, True)
