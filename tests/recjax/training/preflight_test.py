"""Equal rows, frozen parameters and rates that train nothing sensible."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from configs import demo
from recjax import config as config_lib
from recjax.schema.optim import Group, Optim
from recjax.sids.token_space import TokenSpace
from recjax.training import preflight

SPACE = TokenSpace(7, (3, 4))
CODES = np.array([[a, b] for a in range(3) for b in range(4)], np.int32)
FROZEN = Optim(groups={'rows': Group(pattern='tables', frozen=True)})
ALL = np.ones(7, bool)


def params(**tables):
  return {'tables': {name: jnp.asarray(rows, jnp.float32) for name, rows in tables.items()}}


def check(tables, optim=None, seen=ALL, codes=CODES):
  data = types.SimpleNamespace(
    vocabulary=types.SimpleNamespace(space=SPACE), sids=types.SimpleNamespace(codes_IL=codes)
  )
  preflight.check_rows(params(**tables), optim or Optim(), data, seen)


RANDOM = np.random.default_rng(0).normal(size=(16, 5))  # 9 rows of padding
EQUAL = np.broadcast_to(RANDOM[0], RANDOM.shape)


def test_distinct_rows_and_trained_rows_pass(caplog):
  check({'sid': RANDOM}, FROZEN)
  check({'sid': EQUAL, 'text': EQUAL})
  check({'sid': RANDOM, 'sid_out': EQUAL})
  assert not caplog.records


@pytest.mark.parametrize(
  ('tables', 'name', 'level'),
  [
    ({'sid': EQUAL}, 'sid', 1),
    ({'sid': np.where(np.arange(16)[:, None] < 3, RANDOM, EQUAL)}, 'sid', 2),
    ({'sid': RANDOM, 'sid_out': EQUAL}, 'sid_out', 1),
  ],
)
def test_equal_rows_that_are_frozen_are_refused(tables, name, level):
  with pytest.raises(
    ValueError, match=rf'codes of level {level} in tables/{name} are. Set --config'
  ):
    check(tables, FROZEN)


def test_items_whose_rows_stay_equal_are_counted(caplog):
  rows = RANDOM.copy()
  rows[1] = rows[0]  # codes 0 and 1 of level 1: four items each
  check({'sid': rows}, FROZEN)
  check({'sid': rows}, seen=ALL & (np.arange(7) > 1))  # neither occurs in training
  check({'sid': rows}, seen=ALL & (np.arange(7) > 0))
  messages = [record.getMessage() for record in caplog.records]
  assert len(messages) == 2
  assert all('4 of 12 items cannot be told apart' in message for message in messages)
  assert 'equal and frozen' in messages[0] and 'no training example' in messages[1]
  shared = np.concatenate([CODES, CODES])  # sids.collisions=keep
  check({'sid': RANDOM}, FROZEN, codes=shared)
  assert len(caplog.records) == 2


def config(**fields):
  made = config_lib.from_config_dict(demo.get_config('tiny'))
  sections = {}
  for path, value in fields.items():
    section, _, name = path.partition('__')
    sections.setdefault(section, {})[name] = value
  changed = {
    section: dataclasses.replace(getattr(made, section), **values)
    for section, values in sections.items()
  }
  return dataclasses.replace(made, **changed)


PRETRAINED = {'model__pretrained': 'no/such/folder', 'model__lora_rank': 2}
OLD = PRETRAINED | {'optim__train_sid_rows': False}


@pytest.mark.parametrize(
  ('fields', 'is_refused'),
  [
    (PRETRAINED, False),
    (OLD, True),
    (OLD | {'model__sid_rows': 'random'}, False),
    (OLD | {'checkpoint__init_from': 'runs/other'}, False),
    (OLD | {'optim__groups': {'sid': Group(pattern='tables/sid')}}, False),
    (PRETRAINED | {'optim__groups': FROZEN.groups}, True),
    ({'optim__groups': FROZEN.groups}, False),
  ],
)
def test_mean_rows_that_are_frozen_are_refused_before_anything_is_read(fields, is_refused):
  made = config(**fields)
  if is_refused:
    with pytest.raises(ValueError, match=r'model.sid_rows=mean makes all of them equal'):
      preflight.check_first_rows(made, made.checkpoint)
  else:
    preflight.check_first_rows(made, made.checkpoint)


@pytest.mark.parametrize('source', [{}, PRETRAINED, {'checkpoint__init_from': 'runs/other'}])
def test_rows_that_are_replaced_by_their_mean_and_frozen_are_refused(source):
  fields = source | {'optim__groups': FROZEN.groups}
  made = config(**fields | {'checkpoint__init_sid_rows': 'mean'})
  message = (
    r'checkpoint.init_sid_rows=mean makes .*\. Set --config.checkpoint.init_sid_rows=random, or'
  )
  with pytest.raises(ValueError, match=message):
    preflight.check_first_rows(made, made.checkpoint)
  made = config(**fields | {'checkpoint__init_sid_rows': 'random'})
  preflight.check_first_rows(made, made.checkpoint)


def test_an_output_table_that_is_frozen_is_refused_where_the_model_has_one():
  made = config(**PRETRAINED | {'optim__groups': {'out': Group(pattern='out', frozen=True)}})
  preflight.check_first_rows(made, made.checkpoint)
  preflight.check_first_rows(made, made.checkpoint, ('text', 'sid'))
  with pytest.raises(ValueError, match='tables/sid_out is frozen'):
    preflight.check_first_rows(made, made.checkpoint, ('text', 'sid', 'text_out', 'sid_out'))


def test_an_export_of_ours_has_rows_of_its_own(tmp_path):
  (tmp_path / 'recjax.json').write_text('{}')
  made = config(**OLD | {'model__pretrained': str(tmp_path)})
  preflight.check_first_rows(made, made.checkpoint)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({}, ''),
    ({'optim__weight_decay': 20.0}, 'is 0.08: a step removes that share'),
    ({'optim__learning_rate': 0.5, 'optim__weight_decay': 0.0}, 'a learning rate of 0.5'),
    ({'optim__learning_rate': 1e-10}, 'too small to change float32'),
    ({'optim__warmup_steps': 5}, 'more than half of num_train_steps=6'),
    ({'optim__clip_norm': 1e-7}, 'not much larger than optim.eps'),
    # The rate times the decay of a group counts, not the largest rate times the largest decay.
    (
      {
        'optim__weight_decay': 10.0,
        'optim__groups': {'a': Group(pattern='sid', learning_rate=9.0, weight_decay=0.0)},
      },
      '',
    ),
    ({'optim__groups': {'a': Group(pattern='sid', weight_decay=200.0)}}, 'is 0.08: a step'),
    ({'model__dropout': 0.9}, 'model.dropout=0.9'),
    ({'loss__label_smoothing': 0.9}, 'loss.label_smoothing=0.9'),
  ],
)
def test_doubtful_rates_are_warned_of(fields, message, caplog):
  made = config(**fields)
  preflight.check_rates(made)
  messages = [record.getMessage() for record in caplog.records]
  assert len(messages) == bool(message)
  assert message in ' '.join(messages)


def test_a_weight_decay_that_reverses_parameters_is_refused():
  made = config(optim__weight_decay=300.0)
  with pytest.raises(
    ValueError, match=r'must be less than 1; .*got 1.2. Set --config.optim.weight'
  ):
    preflight.check_rates(made)


def test_parameters_that_no_stage_trains_are_counted(caplog):
  made = config()
  tree = params(text=np.zeros((4, 5)), sid=np.zeros((3, 5))) | {'lora': {'a': jnp.zeros(2)}}
  freezes = [
    dataclasses.replace(
      made, optim=Optim(warmup_steps=0, groups={'x': Group(pattern=pattern, frozen=True)})
    )
    for pattern in ('sid', 'lora')
  ]
  preflight.warn_of_random(freezes[:1], tree)  # the text rows beside adapters, and the group's
  preflight.warn_of_random(freezes, tree)  # the second stage trains SID rows
  assert [record.getMessage()[:40] for record in caplog.records] == [
    '35 of 37 parameters keep their random in',
    '20 of 37 parameters keep their random in',
  ]
