"""The flag --config in a process of its own: what loads, and the one line of each error."""

import subprocess
import sys

import pytest

from recjax.schema import flag
from tests.folders import ROOT

PROGRAM = """
import json
from absl import app, flags
import ml_collections
from recjax.schema import flag

def read_saved(path):
  with open(path) as f:
    return ml_collections.ConfigDict(json.load(f))

config = flag.define(read_saved)
flags.DEFINE_string('workdir', None, '')
flags.DEFINE_enum('mode', 'train', ['train', 'report'], '')
app.run(lambda argv: print(config.value.model.depth), flags_parser=flag.parse_flags)
"""
SIZES = PROGRAM.replace('config.value.model.depth', 'dict(config.value.run)')
CONFIG = """
import ml_collections

def get_config(variant='none'):
  config = ml_collections.ConfigDict({'model': {'depth': 4, 'width': 8}, 'steps': 1, 'codes': (1, 2)})
  table = {'a': 1}
  if variant == 'key':
    config.steps = table['b']
  if variant == 'field':
    config.steps = config.model.widht
  if variant == 'value':
    raise ValueError('the variant must be none')
  if variant == 'deep':
    nested(table)
  if variant == 'nothing':
    return None
  return config

def nested(table):
  return 1 / 0
"""


def run(folder, *args, program=PROGRAM):
  done = subprocess.run(
    [sys.executable, '-c', program, *args],
    cwd=folder, env={'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
  )  # fmt: skip
  return done.returncode, done.stdout + done.stderr


RUN = """
import ml_collections

def get_config():
  config = ml_collections.ConfigDict()
  config.run = {'num_train_steps': 5, 'batch_size': 4, 'codes': (4, 4)}
  config.run.num_epochs = ml_collections.config_dict.placeholder(float)
  return config
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('flag')
  (path / 'mine.py').write_text(CONFIG)
  (path / 'run.py').write_text(RUN)
  (path / 'broken.py').write_text('def get_config():\n  return (\n')
  (path / 'empty.py').write_text('')
  (path / 'zeros.py').write_bytes(bytes(9))
  (path / 'endless.py').write_text('def f():\n  f()\nf()\n')
  return path


@pytest.mark.parametrize('args', [('--config=mine.py',), ('--config', 'mine.py:other')])
def test_a_field_can_be_overridden_before_and_after_the_config(folder, args):
  assert run(folder, *args, '--config.model.depth=7') == (0, '7\n')
  assert run(folder, '--config.model.depth=7', *args) == (0, '7\n')


def test_a_file_may_hold_flags(folder):
  (folder / 'flags.txt').write_text('--config.model.depth=7\n--config=mine.py\n')
  assert run(folder, '--flagfile=flags.txt') == (0, '7\n')


@pytest.mark.parametrize(
  ('args', 'changes'),
  [
    (('num_epochs=3',), {'num_train_steps': None, 'num_epochs': 3.0}),
    (('num_train_steps=7',), {'num_train_steps': 7}),
    (('num_train_steps=7', 'num_epochs=3'), {'num_train_steps': 7, 'num_epochs': 3.0}),
    (('batch_size=auto', 'codes=auto'), {'batch_size': None, 'codes': ()}),
    (('batch_size=auto', 'batch_size=8'), {'batch_size': 8}),
    (('num_train_steps=None',), {'num_train_steps': None}),
  ],
)
def test_sizes_are_left_to_the_data_and_one_length_unsets_the_other(folder, args, changes):
  values = {'num_train_steps': 5, 'batch_size': 4, 'codes': (4, 4), 'num_epochs': None} | changes
  flags = [f'--config.run.{arg}' for arg in args]
  code, text = run(folder, '--config=run.py', *flags, program=SIZES)
  assert code == 0, text
  assert eval(text) == values


def test_the_last_override_of_a_field_is_valid(folder):
  program = PROGRAM.replace('config.value.model.depth', 'config.value.codes, config.value.steps')
  args = [
    '--config=mine.py',
    '--config.codes=(3,)',
    '--config.steps=2',
    '-config.codes=4,5',
    '--config.steps=3',
  ]
  assert run(folder, *args, program=program) == (0, '(4, 5) 3\n')


@pytest.mark.parametrize(
  'args',
  [
    '--workdir=run',
    '--workdir run',
    '--config=run/config.json',
    '--workdir=x --config=run/config.json',
  ],
)
def test_the_config_of_a_workdir_is_read_unless_another_is_given(folder, args):
  (folder / 'run').mkdir(exist_ok=True)
  (folder / 'run/config.json').write_text('{"model": {"depth": 5}}')
  assert run(folder, *args.split()) == (0, '5\n')
  assert run(folder, *args.split(), '--config.model.depth=6') == (0, '6\n')
  assert run(folder, '--workdir=run', '--config=mine.py') == (0, '4\n')
  code, output = run(folder, '--config=run')
  assert code == 1 and 'Set --workdir=run, or --config=run/config.json' in output


def test_a_config_of_the_package_is_found_by_name_from_any_folder(folder):
  (folder / 'configs').mkdir(exist_ok=True)  # a package of the user's own
  (folder / 'configs/__init__.py').write_text('')
  program = 'import sys; sys.path.insert(0, ""); import configs\n' + PROGRAM
  assert run(folder, '--config=recjax:demo', program=program) == (0, '2\n')
  assert run(folder, '--config=recjax:demo:tiny', '--config.model.depth=3') == (0, '3\n')


def test_values_of_the_flag_are_taken_apart():
  assert flag.split('configs/demo.py:tiny') == ('configs/demo.py', 'tiny')
  assert flag.split('recjax:demo') == ('demo', None)
  assert flag.split('recjax:demo:tiny') == ('demo', 'tiny')
  assert flag.saved_in('runs/a:b/config.json') == 'runs/a:b'
  assert flag.saved_in('config.json') == '.'
  assert flag.saved_in('configs/demo.py') is None
  assert {'demo', 'table', 'beauty'} <= set(flag.names())
  assert not {'common', '__init__'} & set(flag.names())


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ('--config=nobody.py', "--config must name a file; got 'nobody.py', which does not exist"),
    ('--config=.', "--config must name a file; got '.', which is a folder"),
    ('--config=demo', "got 'demo', which does not exist. Did you mean recjax:demo?"),
    ('--config=configs/table.py', 'which does not exist. Did you mean recjax:table?'),
    ('--config=recjax:tabel:cpu', "must name a config of the package; got 'tabel'; did you mean table? Known: beauty, demo,"),
    ('--config=recjax:common', "got 'common'"),
    ('--config=recjax:demo:big', "the variant of this config must be one of '', 'tiny', 'grpo', 'tiny_grpo'; got 'big'"),
    ('--workdir=none', "none/config.json"),
    ('--config=configs/tabel.py', 'does not exist. Did you mean recjax:table?'),
    ('--config=mime.py', 'does not exist. Did you mean mine.py?'),
    ('--config.model.depth=3', '--config.model.depth changes a field of a config, and none is given; set --config='),
    ('--config=mine.py --config.model.depth=abc', "--config.model.depth must be of type int; got 'abc'"),
    ('--config=mine.py --config.model=5', '--config.model is a section; set its fields'),
    ('--config=mine.py --wokrdir=x', "Unknown command line flag 'wokrdir'. Did you mean: workdir ?"),
    ('--config=mine.py --flagfile=none', 'Unable to open flagfile'),
    ('--config=mine.py --config', 'Missing value for flag --config'),
    ('--config=mine.py --config.optim.group.sids.frozen=1', 'did you mean optim.groups.sids.frozen'),
    ('--config=mine.py --config.stage.warm.schedule=x', 'did you mean stages.warm.schedule'),
    ('--config=zeros.py', 'zeros.py: SyntaxError: source code string cannot contain null bytes'),
    ('--config=endless.py', 'endless.py:3 -> endless.py:2 -> endless.py:2 -> endless.py:2 -> endless.py:2 -> … -> endless.py:2: RecursionError'),
    ('--config=mine.py:key', "mine.py:8: KeyError: 'b' (config.steps = table['b'])"),
    ('--config=mine.py:field', "mine.py:10: AttributeError: 'widht' Did you mean"),
    ('--config=mine.py:value', 'mine.py:12: the variant must be none'),
    ('--config=mine.py:deep', 'mine.py:14 -> mine.py:20: ZeroDivisionError: division by zero'),
    ('--config=mine.py:nothing', 'mine.py: get_config must return a ConfigDict; it returned NoneType'),
    ('--config=broken.py', 'broken.py:2: SyntaxError'),
    ('--config=empty.py', 'empty.py: the file must define get_config(); it does not'),
    ('--config=mine.py --config.model.detph=3', 'unknown config field model.detph; did you mean model.depth'),
    ('--config=mine.py --config.widht=3', 'unknown config field widht; did you mean model.width?'),
    ('--config=mine.py --config.stages.warm.learning_rate=3', 'a new stage must set num_train_steps'),
    ('--config=mine.py --config.stages.a-b.num_train_steps=3', "--config.stages.a-b.num_train_steps: on the command line a name must be letters, digits and _, and begin with no digit; got 'a-b'"),
    ('--config=mine.py --mode=trian', "--mode must be one of train, report; got 'trian'; did you mean train?"),
    ('--config=mine.py --noconfig.stesp', 'unknown config field stesp; did you mean steps?'),
  ],
)  # fmt: skip
def test_an_error_is_one_line(folder, args, message):
  code, output = run(folder, *args.split())
  assert code == 1
  assert message in output
  assert len(output.splitlines()) == 1


def test_flags_add_stages_and_groups_in_their_order(folder):
  show = (
    'print([(name, s.num_train_steps, list(s.groups)) for name, s in config.value.stages.items()])'
  )
  program = PROGRAM.replace('print(config.value.model.depth)', show)
  flags = ('warm.num_train_steps=3', 'warm.groups.x.pattern=norm', 'main.num_train_steps=5')
  args = [f'--config.stages.{flag}' for flag in flags]
  code, output = run(folder, '--config=mine.py', *args, program=program)
  assert (code, output) == (0, "[('warm', 3, ['x']), ('main', 5, [])]\n")
