"""Runs of several stages: the trained parameters of each, and a kill between two stages."""

import dataclasses

from etils import epath
import jax
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import train as train_lib
from recjax.evaluate import make_context
from recjax.recommend import make_ranker
from recjax.schema.optim import Group, Stage
from recjax.sharding import mesh as mesh_lib
from recjax.training import optim, state
from recjax.workdir import mixture_file, starts
from recjax.workdir import stages as stages_lib
from recjax.workdir.checkpoints import Checkpoints
from recjax.workdir.metrics_file import read_metrics


def staged(tiny_world):
  """Returns a config that trains the SID rows for two steps, then everything for three."""
  config, dataset = tiny_world
  rows = Stage(
    num_train_steps=2,
    learning_rate=1e-2,
    schedule='constant',
    warmup_steps=0,
    groups={'sid': Group(pattern='tables/sid'), 'rest': Group(pattern='', frozen=True)},
  )
  everything = Stage(num_train_steps=3, mixture=('next_item',))
  evaluation = dataclasses.replace(config.eval, eval_users=16)
  config = dataclasses.replace(
    config,
    stages={'sid_rows': rows, 'all': everything},
    eval=evaluation,
    eval_every_steps=10,
    checkpoint_every_steps=10,
  )
  return config, dataset


def run(config, dataset, workdir, recommender):
  mesh = mesh_lib.make_mesh(config.mesh)
  context = make_context(config, dataset, mesh, recommender)
  return train_lib.train_stages(config, epath.Path(workdir), context)


def params_of(folder, config, dataset):
  mesh = mesh_lib.make_mesh(config.mesh)
  abstract = state.abstract_params(config.model, dataset.vocabulary.space, mesh)
  with Checkpoints(folder, read_only=True) as checkpoints:
    return checkpoints.restore_params(checkpoints.latest_step(), abstract)


def test_a_kill_between_two_stages_does_not_change_the_result(tiny_world, tmp_path, monkeypatch):
  config, dataset = staged(tiny_world)
  mesh = mesh_lib.make_mesh(config.mesh)
  recommender = make_ranker(config, dataset, mesh)
  straight, step = run(config, dataset, tmp_path / 'straight', recommender)
  assert step == 3
  tx = optim.optimizer(config.optim, 1)
  fresh = state.init_state(config.model, dataset.vocabulary.space, tx, mesh, config.seed).params
  rows = params_of(tmp_path / 'straight' / 'stages' / 'sid_rows', config, dataset)
  frozen = [dict(p, tables={'text': p['tables']['text']}) for p in (fresh, rows)]
  jax.tree.map(np.testing.assert_array_equal, *frozen)
  assert not np.array_equal(fresh['tables']['sid'], rows['tables']['sid'])
  train, trained = train_lib.train, []

  def killed_after_one(config, *rest):
    if trained:
      raise KeyboardInterrupt
    trained.append(config.num_train_steps)
    return train(config, *rest)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(train_lib, 'train', killed_after_one)
    run(config, dataset, tmp_path / 'killed', recommender)
  assert trained == [2]
  resumed, _ = run(config, dataset, tmp_path / 'killed', recommender)
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)
  for folder, steps in ((tmp_path / 'killed' / 'stages' / 'sid_rows', 2), (tmp_path / 'killed', 3)):
    assert [row['step'] for row in read_metrics(folder)] == list(range(1, steps + 1))
    with Checkpoints(folder, read_only=True) as checkpoints:
      examples = checkpoints.meta(steps).examples_seen
    assert examples % steps == 0
    assert examples > 0
    began = [start['step'] for start in starts.read(folder)]
    assert began == ([0] if folder == tmp_path / 'killed' else [0, 2])
    assert [row['name'] for row in mixture_file.read(epath.Path(folder))] == ['next_item']
  # A finished stage is checked as well.
  faster = dataclasses.replace(config.stages['sid_rows'].groups['sid'], learning_rate=2.0)
  groups = config.stages['sid_rows'].groups | {'sid': faster}
  other = dataclasses.replace(config.stages['sid_rows'], groups=groups)
  config = dataclasses.replace(config, stages=config.stages | {'sid_rows': other})
  with pytest.raises(
    ValueError,
    match=r'must keep stages.sid_rows.groups.sid.learning_rate of the training in .*stages/sid_rows',
  ):
    run(config, dataset, tmp_path / 'killed', recommender)


def test_a_stage_overrides_fields_of_the_run(tiny_world, tmp_path):
  config, _ = staged(tiny_world)
  named = {'norms': Group(pattern='norm', weight_decay=0.0)}
  config = dataclasses.replace(
    config,
    optim=dataclasses.replace(config.optim, groups=named),
    checkpoint=dataclasses.replace(config.checkpoint, init_sid_rows='random'),
  )
  workdir = epath.Path(tmp_path)
  (_, first, folder, _), (name, second, last, _) = stages_lib.plan(config, workdir)
  assert (folder, name, last) == (workdir / 'stages' / 'sid_rows', 'all', workdir)
  assert (first.optim.learning_rate, first.optim.schedule) == (1e-2, 'constant')
  assert list(first.optim.groups) == ['sid', 'rest', 'norms']
  assert (second.optim, second.num_train_steps) == (config.optim, 3)
  assert second.checkpoint.init_from == str(folder)
  assert second.checkpoint.init_from_last
  # The rows that the first stage has trained stay.
  assert (first.checkpoint.init_sid_rows, second.checkpoint.init_sid_rows) == ('random', None)
  with pytest.raises(
    ValueError, match=r'must be one of next_item; got .other.. Set --config.stages'
  ):
    dataclasses.replace(config, stages={'one': Stage(num_train_steps=1, mixture=('other',))})


@pytest.mark.parametrize(
  ('name', 'changes', 'message'),
  [
    ('a', {'warmup_steps': 9}, r'stages.a.warmup_steps must not exceed num_train_steps \(3\); got 9. .*stages.a'),
    ('a', {'batch_size': 7}, r'must be a multiple of packing.rows \(.*; got 7. Set --config.stages.a'),
    ('a/b', {}, "the name of a stage must not be empty or hold a /; got 'a/b'"),
    ('', {}, 'the name of a stage must not be empty'),
  ],
)  # fmt: skip
def test_a_field_that_does_not_fit_its_stage_is_named(tiny_world, tmp_path, name, changes, message):
  config, _ = tiny_world
  stage = Stage(num_train_steps=3, **{'warmup_steps': 0} | changes)
  config = dataclasses.replace(config, stages={name: stage})
  with pytest.raises(ValueError, match=message):
    stages_lib.plan(config, epath.Path(tmp_path))


def test_a_workdir_of_a_run_without_stages_is_refused(tiny_world, tmp_path):
  config, dataset = staged(tiny_world)
  recommender = make_ranker(config, dataset, mesh_lib.make_mesh(config.mesh))
  run(dataclasses.replace(config, stages={}, num_train_steps=3), dataset, tmp_path, recommender)
  with pytest.raises(ValueError, match=r"stages \(\[\] in the workdir, \['sid_rows', 'all'\] now"):
    run(config, dataset, tmp_path, recommender)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'groups': {'codes': Group(pattern='tables/codes')}},
      r"^stage all: stages\.all\.groups\.codes\.pattern must .*; got 'tables/codes'\. Set "
      r'--config\.stages\.all\.groups\.codes\.pattern$',
    ),
    (
      {'learning_rate': 100.0},
      r'^stage all: stages\.all\.learning_rate x optim\.weight_decay.* must be less than 1; .* Set '
      r'--config\.optim\.weight_decay$',
    ),
    (
      {'sid_rows': 'mean', 'groups': {'sid': Group(pattern='tables/sid', frozen=True)}},
      r'^stage all: SID rows .* equal; stages\.all\.sid_rows=mean makes .* Set --config\.stages\.all\.sid_rows=random',
    ),
  ],
)
def test_a_wrong_field_of_a_later_stage_stops_the_run_before_the_first(
  tiny_world, tmp_path, fields, message
):
  config, dataset = staged(tiny_world)
  wrong = Stage(num_train_steps=3, **fields)
  config = dataclasses.replace(config, stages=config.stages | {'all': wrong})
  with pytest.raises(ValueError, match=message):
    run(config, dataset, tmp_path, None)
  assert not list(tmp_path.iterdir())


def test_errors_name_the_fields_that_a_stage_has_of_its_own(tiny_world):
  config, _ = staged(tiny_world)
  groups = {'a': Group(pattern='x')}
  stage = Stage(num_train_steps=3, batch_size=8, row_length=64, groups=groups)
  config = dataclasses.replace(config, stages={'one': stage})

  def text(name, message):
    with pytest.raises(ValueError) as caught, stages_lib.named(config, name):
      raise ValueError(message)
    return str(caught.value)

  message = (
    'packing.row_length, packing.rows, eval.batch_size, optim.groups.ab.pattern and optim.groups.a.pattern. Set '
    '--config.batch_size'
  )
  assert text('', message) == message
  assert text('one', message) == (
    'stage one: stages.one.row_length, packing.rows, eval.batch_size, optim.groups.ab.pattern and '
    'stages.one.groups.a.pattern. Set --config.stages.one.batch_size'
  )


def test_groups_and_stages_of_a_config_file_keep_their_order():
  d = config_lib.defaults(source='synthetic', name='world')
  d.optim.groups = config_lib.ordered(
    z=config_lib.group('tables/sid', learning_rate=2.0), a=config_lib.group('', frozen=True)
  )
  d.stages = config_lib.ordered(
    second=config_lib.stage(5, groups=config_lib.ordered(z=config_lib.group('x'))),
    first=config_lib.stage(4),
  )
  d.lock()
  d.stages.second.learning_rate = 0.5  # like the command line
  d.optim.groups.z.learning_rate = 3.0
  config = config_lib.from_config_dict(d)
  assert list(config.optim.groups) == ['z', 'a']
  assert config.optim.groups['z'] == Group(pattern='tables/sid', learning_rate=3.0)
  assert list(config.stages) == ['second', 'first']
  assert config.stages['second'].learning_rate == 0.5
  assert config.stages['second'].groups == {'z': Group(pattern='x')}
