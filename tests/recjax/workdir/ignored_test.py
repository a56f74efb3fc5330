"""What a mode would ignore is refused by name; what repeats the training is not."""

import dataclasses
import json
import subprocess
import sys

import pytest

from recjax import config as config_lib
from recjax.schema.optim import Group, Stage
from recjax.workdir import ignored
from tests.folders import ROOT


@pytest.fixture(scope='module')
def config():
  made = config_lib.defaults(source='synthetic', name='world')
  made.update(batch_size=64, num_train_steps=900, compilation_cache='cache')
  return config_lib.from_config_dict(made)


def test_the_help_of_a_flag_names_the_modes_that_read_it():
  # In a process of its own, because flags of all programs have the same names.
  program = (
    'import json; from recjax.workdir import command; flags = command.flags.FLAGS; '
    'print(json.dumps([list(command.MODES), {name: flags[name].help for name in flags}]))'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True
  )
  all_modes, helps = json.loads(done.stdout)
  for name, modes in ignored.FLAGS.items():
    assert set(modes) <= set(all_modes)
    named = [mode for mode in all_modes if f'{mode}: ' in helps[name]]
    assert named == sorted(modes, key=all_modes.index)


@pytest.mark.parametrize(
  ('mode', 'given', 'message'),
  [
    ('train', ['histories'], '--histories must be used with --mode=recommend; got --mode=train'),
    ('train', ['out'], '--out must be used with --mode=recommend, export, describe or compare; got --mode=train'),
    ('evaluate', ['k', 'prune', 'skip_unknown'],
     '--k and --skip_unknown must be used with --mode=recommend, --prune with --mode=prepare; got --mode=evaluate'),
    ('prepare', ['from', 'raw_dir'], '--from and --raw_dir must be used with --mode=refresh; got --mode=prepare'),
    ('refresh', ['out', 'budget'], '--out must be used with --mode=recommend, export, describe or compare; got --mode=refresh'),
  ],
)  # fmt: skip
def test_a_flag_that_a_mode_ignores_is_refused(mode, given, message):
  with pytest.raises(ValueError) as caught:
    ignored.check_flags(mode, given)
  assert str(caught.value) == message


def test_flags_that_a_mode_reads_pass():
  ignored.check_flags('recommend', ['histories', 'out', 'k', 'skip_unknown'])
  ignored.check_flags('refresh', ['from', 'raw_dir', 'budget', 'workdir'])
  ignored.check_flags('export', ['out', 'config'])


def changed(config, **fields):
  made = {}
  for path, value in fields.items():
    section, _, name = path.partition('__')
    made[section] = (
      dataclasses.replace(getattr(config, section), **{name: value}) if name else value
    )
  return dataclasses.replace(config, **made)


@pytest.mark.parametrize(
  ('mode', 'path', 'value', 'modes'),
  [
    ('report', 'eval.beams', 50, 'evaluate, recommend, serve, export or train'),
    ('report', 'batch_size', 96, 'train'),
    ('evaluate', 'optim.learning_rate', 0.01, 'train'),
    ('recommend', 'num_train_steps', 1000, 'train'),
    ('export', 'eval.patience', 3, 'train'),
    ('export', 'eval.weights_dtype', 'int8', 'evaluate, recommend, serve or train'),
    ('evaluate', 'eval.choose_by', 'retrieval.mrr@5', 'train'),
    ('recommend', 'eval.baselines', ('popularity',), 'evaluate or train'),
  ],
)
def test_an_override_that_a_mode_ignores_is_refused(config, mode, path, value, modes):
  now = changed(config, **{path.replace('.', '__'): value})
  section, _, name = path.rpartition('.')
  was = getattr(getattr(config, section) if section else config, name)
  with pytest.raises(ValueError) as caught:
    ignored.check_overrides(mode, [path], now, config)
  assert str(caught.value) == (
    f'--config.{path} has no effect with --mode={mode}; got {value!r}, the workdir has {was!r}. Leave it out; it is '
    f'read by --mode={modes}'
  )
  ignored.check_overrides('train', [path], now, config)
  ignored.check_overrides(mode, [path], now, None)  # nothing to contradict
  ignored.check_overrides(mode, [path], config, config)  # the command of the training


def test_overrides_that_a_mode_reads_or_cannot_compare_pass(config):
  now = changed(
    config, eval__beams=50, data__prepared_dir='there', num_train_steps=None, num_epochs=2.0
  )
  paths = ['eval.beams', 'data.prepared_dir', 'num_train_steps']
  ignored.check_overrides('evaluate', paths, now, config)
  ignored.check_overrides('evaluate', [*paths, 'num_epochs'], now, config, is_program=True)
  with pytest.raises(ValueError, match=r'^--config\.num_epochs has no effect with --mode=evaluate'):
    ignored.check_overrides('evaluate', ['num_epochs'], now, config)


def test_the_length_of_a_run_of_stages_is_refused(config):
  ignored.check_length(['num_train_steps', 'batch_size'], config)
  staged = dataclasses.replace(
    config, stages={name: Stage(num_train_steps=200) for name in ('rows', 'all')}
  )
  ignored.check_length(['stages.all.num_train_steps'], staged)
  with pytest.raises(
    ValueError,
    match=r'config.num_epochs has no effect on a run of stages, .*; got None. Set '
    r'--config.stages.rows.num_epochs, --config.stages.all.num_epochs$',
  ):
    ignored.check_length(['seed', 'num_epochs'], staged)


def staged(config, **stages):
  return dataclasses.replace(
    config, stages={name: Stage(num_train_steps=200, **fields) for name, fields in stages.items()}
  )


@pytest.mark.parametrize(
  ('path', 'fields', 'own', 'value'),
  [
    ('optim.learning_rate', {'learning_rate': 0.1}, 'learning_rate', 0.001),
    ('optim.clip_norm', {'clip_norm': 0.0}, 'clip_norm', 1.0),
    ('eval.patience', {'patience': 0}, 'patience', 0),
    ('checkpoint_every_steps', {'checkpoint_every_steps': 5}, 'checkpoint_every_steps', 500),
    ('optim.groups.a.pattern', {'groups': {'a': Group(pattern='x')}}, 'groups.a.pattern', 'y'),
  ],
)
def test_a_field_that_every_stage_replaces_is_refused(config, path, fields, own, value):
  config = changed(config, optim__groups={'a': Group(pattern='y')})
  ignored.check_replaced([path], config)
  ignored.check_replaced([path], staged(config, rows=fields, all={}))
  ignored.check_replaced([f'stages.all.{own}', 'seed'], staged(config, rows=fields, all=fields))
  with pytest.raises(ValueError) as caught:
    ignored.check_replaced(['seed', path], staged(config, rows=fields, all=fields))
  assert str(caught.value) == (
    f'--config.{path} has no effect on a run of stages, each of which has its own; got {value!r}. Set '
    f'--config.stages.rows.{own}, --config.stages.all.{own}'
  )


def test_sizes_that_the_run_reads_too_pass(config):
  fields = {'batch_size': 64, 'row_length': 64, 'eval_every_steps': 5}
  given = ['batch_size', 'packing.row_length', 'eval_every_steps']
  ignored.check_replaced(given, staged(config, all=fields))


def test_a_component_of_no_stage_is_refused(config):
  mixture = {name: config_lib.TASKS[name]() for name in ('next_item', 'mim', 'mlm')}
  mixture['mlm'] = config_lib.TASKS['mlm'](weight=0.0)
  config = dataclasses.replace(config, mixture=mixture)
  rows, both = {'mixture': ('next_item',)}, {'mixture': ('next_item', 'mim')}
  for passes in (config, staged(config, a=rows, b={}), staged(config, a=rows, b=both)):
    ignored.check_components([], passes, is_saved=False)
  untrained = staged(config, a=rows, b=rows)
  ignored.check_components(['seed'], untrained, is_saved=True)  # a run of an earlier version
  with pytest.raises(ValueError, match=r'mixture\.mim must be in the mixture of a stage'):
    ignored.check_components(['mixture.mim.weight'], untrained, is_saved=True)
  with pytest.raises(ValueError) as caught:
    ignored.check_components([], untrained, is_saved=False)
  assert str(caught.value) == (
    'mixture.mim must be in the mixture of a stage, or have no weight: every stage has its own mixture, and none of '
    "them names it; got [('next_item',), ('next_item',)]. Set --config.stages.a.mixture, --config.stages.b.mixture or "
    '--config.mixture.mim.weight=0'
  )
