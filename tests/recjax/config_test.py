"""The typed config: what is accepted, and what each error names."""

import dataclasses

import pytest

from recjax import config as config_lib


def config_dict():
  return config_lib.defaults(source='synthetic', name='world')


def test_defaults_convert_and_round_trip():
  config = config_lib.from_config_dict(config_dict())
  assert config.data.source == 'synthetic'
  assert config.data.raw_dir is None
  assert config.mixture['next_item'].task == 'next_item'
  assert config.to_dict()['eval']['ks'] == (1, 5, 10, 20)
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.seed = 1


def test_optional_fields_can_be_set_from_the_command_line():
  d = config_dict()
  d.lock()
  d.data.raw_dir = '/raw'
  d.packing.examples = 100
  config = config_lib.from_config_dict(d)
  assert (config.data.raw_dir, config.packing.examples) == ('/raw', 100)


@pytest.mark.parametrize(
  ('section', 'name', 'value', 'message'),
  [
    ('', 'batch_size', -64, r'batch_size must be positive; got -64. Set --config.batch_size'),
    ('', 'batch_size', 50, r'multiple of packing.rows \(32\); got 50. Set --config.batch_size'),
    ('', 'batch_size', 6.4, r'batch_size must be of type int; got 6.4'),
    ('', 'seed', True, r'seed must be of type int; got True'),
    ('model', 'dropout', 1.5, r'model.dropout must be in \[0, 1\); got 1.5'),
    ('model', 'kv_heads', 3, r'model.heads \(4\) must be a multiple of model.kv_heads; got 3'),
    ('model', 'sid_softmax', 'none', r'must be one of level, full; got .none.'),
    ('eval', 'ks', (1, 5), r'hold 10, which chooses the best checkpoint'),
    ('eval', 'beams', 5, r'eval.beams must be at least the largest of eval.ks \(20\); got 5'),
    ('optim', 'warmup_steps', 5000, r'must not exceed num_train_steps \(1000\); got 5000'),
    ('mesh', 'fsdp', -1, r'at most one of them -1; got \(-1, -1, 1\)'),
    ('sids', 'source', 'images', r'sids.source must be one of text, cooccurrence, both'),
    ('data', 'k_core', -1, r'data.k_core must not be negative; got -1'),
  ],
)
def test_a_broken_rule_names_the_field(section, name, value, message):
  values = config_dict().to_dict()
  (values[section] if section else values)[name] = value
  with pytest.raises(ValueError, match=message):
    config_lib._convert(config_lib.Config, values, '')


def test_unknown_and_missing_fields_are_named():
  values = config_dict().to_dict()
  values['model']['widht'] = 3
  with pytest.raises(ValueError, match=r'unknown config field model.widht; the fields of model'):
    config_lib._convert(config_lib.Config, values, '')
  del values['model']
  with pytest.raises(ValueError, match=r'the config must set model; it is missing'):
    config_lib._convert(config_lib.Config, values, '')


def test_a_mixture_of_nothing_is_refused():
  d = config_dict()
  d.mixture.next_item.weight = 0.0
  with pytest.raises(ValueError, match=r'a component with a positive weight; got .*next_item'):
    config_lib.from_config_dict(d)
  d.mixture.next_item.weight = -1.0
  with pytest.raises(ValueError, match=r'mixture.next_item.weight must not be negative; got -1.0'):
    config_lib.from_config_dict(d)
