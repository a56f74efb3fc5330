"""The typed config: what is accepted, and what each error names."""

import dataclasses
import json

import ml_collections
import pytest

from recjax import config as config_lib
from tests.folders import ROOT
from tests.goldens import make_configs


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
    ('', 'batch_size', 6.4, r'batch_size must be of type int or None; got 6.4'),
    ('', 'seed', True, r'seed must be of type int; got True'),
    ('model', 'dropout', 1.5, r'model.dropout must be in \[0, 1\); got 1.5'),
    ('model', 'kv_heads', 3, r'model.heads \(4\) must be a multiple of model.kv_heads; got 3'),
    ('model', 'sid_softmax', 'none', r'must be one of level, full; got .none.'),
    ('eval', 'ks', (1, 5), r'hold 10: recall@10 and ndcg@10 are reported'),
    ('eval', 'beams', 5, r'eval.beams must be at least the largest of eval.ks \(20\); got 5'),
    ('eval', 'beam_cut', True, 'eval.beam_cut must be False without eval.beam_widths.*got True'),
    ('eval', 'choose_by', 'retrieval.ndgc@10', r'got .retrieval.ndgc@10.; did you mean retrieval.ndcg@10'),
    ('eval', 'choose_by', 'rating.rmse', r'eval.choose_by must be one of retrieval.recall@1, .*rating.rmse'),
    ('eval', 'baselines', ('trasitions',), r'eval.baselines must be one of .*did you mean transitions'),
    ('', 'evaluators', {}, r'evaluators must hold the evaluator retrieval of the type retrieval; got {}'),
    ('', 'evaluators', {'x': {'evaluator': 'retreival'}}, r'evaluators.x.evaluator must be one of .*retrieval'),
    ('', 'evaluators', {'retrieval': {'evaluator': 'retrieval'}, 'rows': {'evaluator': 'retrieval'}},
     r'the name of an evaluator must be .*got .rows.'),
    ('optim', 'warmup_steps', 5000, r'must not exceed num_train_steps \(1000\); got 5000'),
    ('mesh', 'fsdp', -1, r'at most one of them -1; got \(-1, -1, 1\)'),
    ('eval', 'blend', {'memory': 1e39}, r'eval.blend.memory must be in \[0, 1e\+06\]; got 1e\+39'),
    ('sids', 'rqvae', {'sinkhorn': 1e-40}, r'sids.rqvae.sinkhorn must be 0 or at least 1e-6; got 1e-40'),
    ('sids', 'rqvae', {'sinkhorn': 3.0}, r'sids.rqvae.sinkhorn must be in \[0, 1\]; got 3'),
    ('', 'stages', {'rl': {'num_train_steps': 1, 'grpo': {'rewards': {'exact': 1e30}}}},
     r'stages.rl.grpo.rewards.exact must be in \[0, 1e\+06\]; got 1e\+30'),
    ('sids', 'source', 'images', r'sids.source must be one of text, cooccurrence, both'),
    ('data', 'k_core', -1, r'data.k_core must not be negative; got -1'),
  ],
)  # fmt: skip
def test_a_broken_rule_names_the_field(section, name, value, message):
  values = config_dict().to_dict()
  (values[section] if section else values)[name] = value
  with pytest.raises(ValueError, match=message):
    config_lib.from_dict(values)


def test_unknown_and_missing_fields_are_named():
  values = config_dict().to_dict()
  values['model']['widht'] = 3
  message = r'^unknown config field model.widht; did you mean model.width\? --mode=config prints'
  with pytest.raises(ValueError, match=message):
    config_lib.from_dict(values)
  del values['model']
  with pytest.raises(ValueError, match=r'the config must set model; it is missing'):
    config_lib.from_dict(values)


def test_a_mixture_without_a_positive_weight_is_refused():
  d = config_dict()
  d.mixture.next_item.weight = 0.0
  with pytest.raises(ValueError, match=r'a component with a positive weight; got .*next_item'):
    config_lib.from_config_dict(d)
  d.mixture.next_item.weight = -1.0
  with pytest.raises(ValueError, match=r'mixture.next_item.weight must not be negative; got -1.0'):
    config_lib.from_config_dict(d)


def test_a_config_of_an_older_version_is_read():
  old = json.loads((ROOT / 'tests/goldens/old_config.json').read_text())
  config = config_lib.from_dict(old)
  assert list(config.optim.groups) == ['tables', 'rest']
  assert list(config.stages) == ['second', 'first']
  assert (config.mixture['bpr'].weight, config.mixture['mim'].weight) == (0.5, 0.0)
  assert (old['model']['family'], config.model.family) == ('gemma', 'qwen')
  saved = json.loads(json.dumps(config.to_dict()))
  for path, value in make_configs.flat(old):
    if make_configs.is_kept(path):
      assert dict(make_configs.flat(saved))[path] == value, path


def test_an_unknown_task_is_refused():
  with pytest.raises(ValueError, match=r'mixture.<name>.task must be one of next_item, .*nxt_item'):
    config_lib.component('nxt_item')
  values = config_dict().to_dict()
  values['mixture']['other'] = {'task': 'nxt_item'}
  with pytest.raises(ValueError, match=r'mixture.other.task must be one of next_item'):
    config_lib.from_dict(values)


@pytest.mark.parametrize(
  ('groups', 'stages', 'message'),
  [
    ({'sids': {'pattern': '('}}, {}, r'^optim.groups.sids.pattern must be a regular expression'),
    ({'sids': {'pattern': '.', 'learning_rate': 0.0}}, {}, r'^optim.groups.sids.learning_rate must'),
    ({}, {'one': {'num_train_steps': 0}}, r'^stages.one.num_train_steps must be positive; got 0'),
    ({}, {'one': {'num_train_steps': 1, 'groups': {'g': {'pattern': '('}}}}, r'^stages.one.groups.g.pattern must'),
    ({}, {'one': {'num_train_steps': 1, 'mixture': ['nobody']}}, r'^stages.one.mixture must be one of next_item'),
  ],
)  # fmt: skip
def test_errors_name_the_parameter_group_or_stage(groups, stages, message):
  values = config_dict().to_dict()
  values['optim']['groups'], values['stages'] = groups, stages
  with pytest.raises(ValueError, match=message):
    config_lib.from_dict(values)


def prompt_owner(*stages, **components):
  """The `max_items` of the component whose prompt the search continues."""
  config_dict = config_lib.defaults(source='synthetic', name='tiny')
  del config_dict.mixture['next_item']
  for name, fields in components.items():
    config_dict.mixture[name] = config_lib.component('next_item', **fields)
  config_dict.stages = config_lib.ordered(
    **{
      f's{n}': config_lib.stage(10, mixture=names, warmup_steps=0) for n, names in enumerate(stages)
    }
  )
  return config_lib.next_item_component(config_lib.from_config_dict(config_dict)).max_items


def test_the_search_continues_the_prompt_of_the_largest_active_component():
  assert prompt_owner(a={'weight': 0.0, 'max_items': 5}, b={'max_items': 6}) == 6
  assert prompt_owner(a={'weight': 1.0, 'max_items': 5}, b={'weight': 2.0, 'max_items': 6}) == 6
  fading = {'weight': 3.0, 'schedule': ((100.0, 0.5),), 'max_items': 5}
  assert prompt_owner(a=fading, b={'weight': 1.0, 'max_items': 6}) == 6
  assert prompt_owner(a={'loss_weight': 0.5}, b={}) == 20
  stages = ('a', 'b'), ('a',)
  assert prompt_owner(*stages, a={'max_items': 5}, b={'weight': 2.0, 'max_items': 6}) == 5
  with pytest.raises(
    ValueError, match=r'mixture.a and mixture.b both have weight 1 and differ in max'
  ):
    prompt_owner(a={'max_items': 5}, b={'max_items': 6})
  with pytest.raises(ValueError, match=r'next_item component with a positive weight'):
    prompt_owner(('b',), ('c',), a={}, b={}, c={'weight': 0.0})


def test_an_option_of_another_source_is_ignored_with_a_warning(caplog):
  d = config_lib.defaults(source='table', name='x')
  d.data.synthetic_items = 3
  with caplog.at_level('WARNING', 'recjax.schema.data'):
    assert not hasattr(config_lib.from_config_dict(d).data, 'synthetic_items')
  assert caplog.messages == [
    "data.synthetic_items=3 is ignored: it is an option of source synthetic, and data.source is 'table'"
  ]
  # An older config.json holds the options of all sources.
  fields = config_lib.from_config_dict(config_lib.defaults(source='table', name='x')).to_dict()
  fields['data']['synthetic_items'] = 3
  made = config_lib.from_dict(fields)
  assert not hasattr(made.data, 'synthetic_items')
  # A source given on the command line leaves the options of the first one at their defaults.
  d = config_lib.defaults(source='synthetic', name='x')
  d.data.source = 'table'
  assert config_lib.from_config_dict(d).data.source == 'table'


@pytest.mark.parametrize(('section', 'name'), [('optim', 'groups'), (None, 'stages')])
def test_a_written_order_that_a_config_dict_would_sort_is_refused(section, name):
  config = config_lib.defaults(source='synthetic', name='world')
  place = config[section] if section else config
  part = config_lib.group('x') if name == 'groups' else config_lib.stage(3)
  parts = {'b': part, 'a': part}
  place[name] = config_lib.ordered(**parts)
  assert list(getattr(config_lib.from_config_dict(config).optim, name, parts)) == ['b', 'a']
  place[name] = ml_collections.ConfigDict(parts)
  with pytest.raises(ValueError, match=name + r" must keep the order .*'b', 'a'.*config.ordered"):
    config_lib.from_config_dict(config)
