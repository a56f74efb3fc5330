"""The ranges of a search: around the config, or given on the command line."""

import pytest

from bench.tune import space
from bench.tune.space import Range
from configs import demo


@pytest.fixture
def config():
  return demo.get_config('tiny')


def test_the_default_ranges_hold_the_values_of_the_config(config):
  ranges = space.default(config)
  assert {
    'optim.learning_rate',
    'optim.weight_decay',
    'model.dropout',
    'model.width',
    'model.depth',
  } <= ranges.keys()
  assert {
    f'mixture.next_item.{name}' for name in ('crop', 'item_dropout', 'shuffle')
  } <= ranges.keys()
  assert space.of_config(config, ranges).keys() == ranges.keys()
  config.model.size = 'gemma3_270m'
  assert not {'model.width', 'model.depth'} & space.default(config).keys()


def test_a_learning_rate_that_every_stage_replaces_is_left_out():
  config = demo.get_config('tiny_grpo')
  assert 'optim.learning_rate' in space.default(config)
  config.stages.sft.learning_rate = 1e-3
  assert 'optim.learning_rate' not in space.default(config)


def test_ranges_are_read_from_the_command_line(config):
  found = space.chosen(
    config,
    [
      'model.dropout',
      'optim.learning_rate=1e-4:1e-2:log',
      'model.depth=1:3',
      'model.heads=2|4',
      'model.sid_softmax=level|full',
    ],
  )
  assert found == {
    'model.dropout': Range(low=0.0, high=0.6),
    'optim.learning_rate': Range(low=1e-4, high=1e-2, log=True),
    'model.depth': Range(low=1, high=3),
    'model.heads': Range((2, 4)),
    'model.sid_softmax': Range(('level', 'full')),
  }
  assert space.chosen(config, []) == space.default(config)


def test_the_type_of_a_range_is_that_of_its_field(config):
  floats = ('mixture.next_item.crop', 'model.dropout', 'eval.blend.text', 'optim.learning_rate')
  found = space.chosen(config, [*(f'{name}=1:2' for name in floats), 'model.depth=1:2'])
  assert {name: (type(r.low), type(r.high)) for name, r in found.items()} == {
    **dict.fromkeys(floats, (float, float)),
    'model.depth': (int, int),
  }


@pytest.mark.parametrize(
  ('field', 'message'),
  [
    (
      'model.dropuot',
      r'--fields: unknown config field model.dropuot; did you mean model.dropout\?',
    ),
    ('model.heads', r'--fields must give a range for model.heads, as model.heads=low:high'),
    ('model.depth=3:1', r'the lower end must be below the upper one; got model.depth=3:1'),
    ('model.dropout=0:0.5:log', r'the lower end must be positive and below the upper one'),
    (
      'model.dropout=some',
      r'a range must be low:high, low:high:log or a\|b\|c; got model.dropout=some',
    ),
  ],
)
def test_wrong_fields_are_named(config, field, message):
  with pytest.raises(ValueError, match=message):
    space.chosen(config, [field])


def test_the_feed_forward_width_follows_the_width(config):
  config.model.width, config.model.ff_width = 32, 128
  assert space.settings(config, {'model.width': 48, 'model.dropout': 0.1}) == {
    'model.width': 48,
    'model.dropout': 0.1,
    'model.ff_width': 192,
  }
  assert 'model.ff_width' not in space.settings(config, {'model.dropout': 0.1})
