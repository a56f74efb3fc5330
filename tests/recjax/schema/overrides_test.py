"""Components, groups and stages that only the command line names."""

import pytest

from configs import demo
from recjax import config as config_lib
from recjax.config import group, ordered, stage
from recjax.schema.overrides import add_named


def added(*flags, config=None):
  config = demo.get_config('tiny') if config is None else config
  add_named(config, ['program', *(f'--config.{flag}' for flag in flags), '--workdir=x'])
  return config


def test_new_sections_have_every_field_and_the_order_of_the_command_line():
  config = added(
    'mixture.mim.weight=0.5',
    'mixture.late.weight=2', 'mixture.late.task=next_item',
    'optim.groups.z.pattern=tables/sid', 'optim.groups.a.pattern=norm', 'optim.groups.z.frozen=True',
    'stages.warm.num_train_steps=2', 'stages.main.num_train_steps=4',
    'stages.warm.groups.rest.pattern=.',
  )  # fmt: skip
  assert list(config.optim.groups) == ['z', 'a']
  assert list(config.stages) == ['warm', 'main']
  with config.unlocked():
    for name in ('z', 'a'):
      config.optim.groups[name].pattern = 'tables'
    config.stages.warm.num_train_steps = config.stages.main.num_train_steps = 3
    config.stages.warm.groups.rest.pattern = '.'
  made = config_lib.from_config_dict(config)
  assert {name: part.task for name, part in made.mixture.items()} == {
    'late': 'next_item', 'mim': 'mim', 'next_item': 'next_item',
  }  # fmt: skip
  assert list(made.stages['warm'].groups) == ['rest']


def test_sections_of_the_config_stay_as_they_are():
  config = demo.get_config('tiny')
  config.optim.groups = ordered(sid=group('tables/sid', learning_rate=3.0))
  config.stages = ordered(only=stage(7))
  before = config.to_dict()
  added(
    'mixture.next_item.weight=2', 'optim.groups.sid.frozen=True', 'stages.only.schedule=linear',
    'batch_size=8', config=config,
  )  # fmt: skip
  assert config.to_dict() == before


def test_a_section_follows_those_of_the_config():
  config = demo.get_config('tiny')
  config.optim.groups = ordered(sid=group('tables/sid'))
  added('optim.groups.first.pattern=x', config=config)
  assert list(config.optim.groups) == ['sid', 'first']


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('mixture.ratin.weight=1', r"'ratin' is no task; did you mean rating.* Tasks: next_item, .*mim"),
    ('mixture.nextitem.weight=1', r'mixture.nextitem is no component.*did you mean next_item\?'),
    ('mixture.x.task=mimm', r"'mimm' is no task; did you mean mim"),
    ('optim.groups.sids.learning_rate=2', r'a new group must set pattern; --config.optim.groups.sids'),
    ('stages.warm.learning_rate=1', r'a new stage must set num_train_steps or num_epochs; .*The config has no stage'),
    ('stages.warm.groups.x.frozen=1', r'a new stage must set num_train_steps'),
    ('stages.warm.grpo.group=8', r'a new stage must set num_train_steps'),
  ],
)  # fmt: skip
def test_what_is_missing_or_misspelt_is_named(flag, message):
  with pytest.raises(ValueError, match=message) as error:
    added(flag)
  assert '\n' not in str(error.value)


def test_a_misspelt_stage_is_recognised():
  config = demo.get_config('tiny')
  config.stages = ordered(warm=stage(7))
  with pytest.raises(ValueError, match=r'The config has warm; did you mean warm\?'):
    added('stages.wram.learning_rate=1', config=config)
  with pytest.raises(ValueError, match=r'did you mean warm\?'):
    added('stages.wram.groups.x.pattern=y', config=config)
  with pytest.raises(ValueError, match=r'a new group must set pattern'):
    added('stages.warm.groups.x.frozen=1', config=config)


def test_a_flag_of_a_section_of_a_stage_adds_the_stage():
  config = added(
    'stages.rl.grpo.group=8', 'stages.rl.grpo.rewards.exact=2', 'stages.rl.num_epochs=1',
  )  # fmt: skip
  config.stages.rl.grpo.group = 8  # as ml_collections does
  config.stages.rl.grpo.rewards.exact = 2.0
  assert config.stages.rl.kind == 'supervised'
  config.stages.rl.kind = 'grpo'
  config.stages.first = stage(3)
  config.stages = ordered(first=config.stages.first, rl=config.stages.rl)
  config.stages.rl.num_epochs = 1.0
  made = config_lib.from_config_dict(config).stages['rl'].grpo
  assert (made.group, made.rewards.exact) == (8, 2)


def test_an_evaluator_is_added_by_its_type_or_under_a_name_of_its_own():
  config = added('evaluators.wide.evaluator=retrieval', 'evaluators.wide.rows=5')
  config.evaluators.wide.rows = 5  # as ml_collections does
  made = config_lib.from_config_dict(config)
  assert {name: (part.evaluator, part.rows) for name, part in made.evaluators.items()} == {
    'retrieval': ('retrieval', None), 'wide': ('retrieval', 5),
  }  # fmt: skip
  with pytest.raises(ValueError, match=r"'retreival' is no .*did you mean retrieval.*Evaluators: "):
    added('evaluators.retreival.rows=5')
