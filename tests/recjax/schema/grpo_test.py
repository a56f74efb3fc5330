"""The settings of a stage of kind grpo: what is refused, and by which message."""

import pytest

from recjax import config as config_lib
from recjax.config import component, stage


def config_dict(grpo=None, first=True, **changes):
  config = config_lib.defaults(source='synthetic', name='x')
  config.mixture.title_to_sid = component('title_to_sid')
  config.mixture.sid_to_title = component('sid_to_title')
  rl = {'num_train_steps': 2, 'kind': 'grpo', 'warmup_steps': 0, 'grpo': grpo or {}} | changes
  sft = {'sft': stage(2, warmup_steps=0).to_dict()} if first else {}
  return config.to_dict() | {'stages': sft | {'rl': rl}}


@pytest.mark.parametrize(
  ('grpo', 'changes', 'message'),
  [
    ({}, {'first': False}, r'stages.rl.kind=grpo improves a trained model, so a supervised stage must come before'),
    ({}, {'mixture': ('title_to_sid',)}, r'stages.rl.kind=grpo must have an active next_item component'),
    ({'group': 1}, {}, r'stages.rl.grpo.group must be at least 2; got 1'),
    ({'group': 41}, {}, r'stages.rl.grpo.group must be at most eval.beams \(40\).*; got 41'),
    ({'group': 2.5}, {}, r'stages.rl.grpo.group must be of type int; got 2.5'),
    ({'kl': -1.0}, {}, r'stages.rl.grpo.kl must not be negative; got -1.0'),
    ({'kl': float('nan')}, {}, r'stages.rl.grpo.kl must .*; got nan'),
    ({'clip': 0.0}, {}, r'stages.rl.grpo.clip must be in \(0, 1\); got 0.0'),
    ({'clip_high': 0.0}, {}, r'stages.rl.grpo.clip_high must be positive; got 0.0'),
    ({'temperature': 0.0}, {}, r'stages.rl.grpo.temperature must be positive; got 0.0'),
    ({'updates': 0}, {}, r'stages.rl.grpo.updates must be positive; got 0'),
    ({'samples': 'beam'}, {}, r"samples must be one of beams, sampled; got 'beam'; did you mean beams"),
    ({'rewards': {'exact': 0.0, 'rank': 0.0}}, {}, r'stages.rl.grpo.rewards must have a positive weight'),
    ({'rewards': {'exact': -1.0}}, {}, r'stages.rl.grpo.rewards.exact must be in \[0, 1e\+06\]; got -1.0'),
    ({'rewards': {'exakt': 1.0}}, {}, r'unknown config field stages.rl.grpo.rewards.exakt; did you mean .*exact'),
    ({'rewards': {'teacher': 1.0}}, {}, r'stages.rl.grpo.teacher must be the workdir of a SASRec run if'),
    ({'teacher': 'runs/x'}, {}, r'stages.rl.grpo.teacher must be .* and None otherwise; got .runs/x.'),
    ({'prompts': ('titel',)}, {}, r"grpo.prompts must name active components .* next_item and title_to_sid.*'titel': None"),
    ({'prompts': ('sid_to_title',)}, {}, r'grpo.prompts must name .*one semantic ID; got .*sid_to_title'),
    ({'prompts': ('title_to_sid',), 'teacher': 'x', 'rewards': {'teacher': 1.0}}, {},
     r'stages.rl.grpo.prompts must be of the task next_item with a teacher'),
  ],
)  # fmt: skip
def test_a_broken_rule_is_one_line_that_names_the_field(grpo, changes, message):
  with pytest.raises(ValueError, match=message) as error:
    config_lib.from_dict(config_dict(grpo, **changes))
  assert '\n' not in str(error.value)


def test_settings_of_a_supervised_stage_are_refused_and_an_empty_section_has_the_defaults():
  assert config_lib.from_dict(config_dict({'rewards': {}})).stages['rl'].grpo.rewards.rank == 1.0
  with pytest.raises(ValueError, match=r'stages.rl.grpo'):
    config_lib.from_dict(config_dict({'group': 8}, kind='supervised'))
