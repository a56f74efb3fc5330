"""Sizes from the data: rows hold the examples, epochs are exact, evaluations are many and cheap, a resume keeps numbers."""

import dataclasses
import math

from etils import epath
import numpy as np
import pytest

from configs import demo, table
from recjax import config as config_lib
from recjax import train
from recjax.schema.optim import Stage
from recjax.workdir import identity, sizes

FREE = {
  'batch_size': None,
  'num_train_steps': None,
  'log_every_steps': None,
  'eval_every_steps': None,
  'checkpoint_every_steps': None,
}


def free(config, **changes):
  """The config with all sizes left to the data, except for the changes of fields without a section."""
  packing = dataclasses.replace(
    config.packing, row_length=None, decoder_row_length=None, rows=None, examples=None
  )
  optim = dataclasses.replace(config.optim, warmup_steps=None)
  evaluation = dataclasses.replace(config.eval, eval_users=None, batch_size=None)
  return dataclasses.replace(
    config, packing=packing, optim=optim, eval=evaluation, **(FREE | changes)
  )


def holes(config):
  return [name for name, value in identity.flat(config.to_dict()).items() if value is None]


def test_a_run_sees_numbers_only_and_epochs_are_exact(tiny_world):
  config, dataset = tiny_world
  open_config = free(config, num_epochs=3.0)
  found = sizes.resolved(open_config, dataset)
  assert set(holes(open_config)) - set(holes(found)) >= {'packing.rows', 'batch_size'}
  assert found.num_epochs is None
  stream = train.make_stream(found, dataset)
  units = stream.mixture.parts[0].units
  seen = [
    stream.mixture.locate(n)[2] for n in range(found.num_train_steps * stream.examples_per_batch)
  ]
  counts = np.bincount(seen[: 3 * units], minlength=units)
  assert (counts == 3).all()  # three epochs show every unit three times
  assert len(seen) - 3 * units < stream.examples_per_batch  # and there is no step more than needed
  assert stream.mixture.epochs(3 * units) == 3


def test_evaluations_are_many_and_cheap(tiny_world):
  config, dataset = tiny_world
  found = sizes.resolved(free(config, num_epochs=40.0), dataset)
  assert found.num_train_steps // found.eval_every_steps >= 10
  assert found.optim.warmup_steps <= found.num_train_steps / 10
  assert found.checkpoint_every_steps == found.eval_every_steps >= found.log_every_steps
  assert 100 <= found.eval.eval_users <= 2000
  assert found.eval.batch_size >= min(found.eval.eval_users, dataset.num_rows('validation'), 128)
  large = sizes.resolved(free(config, num_epochs=40.0, eval_every_steps=10**6), dataset)
  assert large.eval.eval_users == 2000


@pytest.mark.parametrize(('family', 'learn'), [('gemma', 'sid'), ('t5', 'both')])
def test_rows_hold_every_example_of_every_task(rated, family, learn):
  config, dataset = rated
  titles = {
    n: dataclasses.replace(c, learn=learn) if hasattr(c, 'learn') else c
    for n, c in config.mixture.items()
  }
  config = dataclasses.replace(config, mixture=titles)
  config = dataclasses.replace(config, model=dataclasses.replace(config.model, family=family))
  found = sizes.resolved(free(config), dataset)
  stream = train.make_stream(found, dataset)
  plan = stream.plan
  lengths = np.array([plan.lengths(example) for _, example in stream.mixture.survey[0]])
  assert (lengths <= plan.sides).all()  # nothing is cut
  group = stream.group(0)
  assert group['dropped'].sum() == 0
  # Rows are not mostly padding; a T5's rows have room for few examples of single SID tokens.
  side, least = ('encoder_segments', 0.3) if family == 't5' else ('segments', 0.5)
  assert (group[side] > 0).mean() > least
  assert found.batch_size % found.packing.rows == 0
  assert math.log2(found.batch_size) % 1 == 0


def test_small_data_get_small_batches_and_few_steps(tiny_world, monkeypatch):
  config, dataset = tiny_world
  found = sizes.resolved(free(config), dataset)
  stream = train.make_stream(found, dataset)
  tokens = sum(
    sum(map(len, (e.inputs, e.targets))) for _, e in map(stream.mixture.__getitem__, range(300))
  )
  rows = tokens / found.packing.row_length
  assert 0.5 < found.batch_size / math.sqrt(rows) < 2
  steps = found.num_train_steps * stream.examples_per_batch / stream.mixture.parts[0].units
  assert 40 <= steps < 41
  tokens = found.batch_size * found.packing.row_length
  monkeypatch.setattr(sizes, 'MOST_TOKENS', 7 * tokens + 1)
  assert sizes.resolved(free(config), dataset).num_train_steps == 7


def test_a_fixed_value_always_counts(tiny_world):
  config, dataset = tiny_world
  packing = dataclasses.replace(free(config).packing, rows=8)
  found = sizes.resolved(dataclasses.replace(free(config), packing=packing), dataset)
  assert found.packing.rows == 8 and found.batch_size % 8 == 0
  assert sizes.resolved(free(config, num_train_steps=7), dataset).num_train_steps == 7
  assert sizes.resolved(free(config, batch_size=24), dataset).packing.rows == 8  # of 24 = 8 · 3
  assert sizes.resolved(config, dataset) == config


def test_a_workdir_keeps_its_numbers_and_more_epochs_are_more_steps(tiny_world, tmp_path):
  config, dataset = tiny_world
  workdir = epath.Path(tmp_path)
  first = sizes.resolved(free(config, num_epochs=3.0), dataset)
  identity.write_config(first, workdir)
  assert sizes.resolved(free(config), dataset, workdir) == first
  identity.check_run(free(config), workdir)
  sids = dataclasses.replace(config.sids, codes=())
  identity.check_run(dataclasses.replace(config, sids=sids), workdir)
  assert sizes.resolved(dataclasses.replace(config, sids=sids), dataset).sids.codes == (16, 16)
  more = sizes.resolved(free(config, num_epochs=6.0), dataset, workdir)
  assert more == dataclasses.replace(first, num_train_steps=more.num_train_steps)
  assert more.num_train_steps == pytest.approx(2 * first.num_train_steps, abs=1)


def test_every_stage_has_its_own_epochs(tiny_world):
  config, dataset = tiny_world
  stages = {
    'a': Stage(num_train_steps=None, num_epochs=2.0),
    'b': Stage(num_train_steps=5),
    'c': Stage(num_train_steps=None, num_epochs=4.0, warmup_steps=1),
  }
  found = sizes.resolved(free(config, stages=stages), dataset)
  steps = [stage.num_train_steps for stage in found.stages.values()]
  assert steps[1] == 5 and steps[2] == pytest.approx(2 * steps[0], abs=1)
  assert [stage.warmup_steps for stage in found.stages.values()] == [steps[0] // 10, 0, 1]
  assert found.eval_every_steps == 1


def test_devices_divide_the_batch(tiny_world):
  from recjax.schema.run import Mesh
  from recjax.sharding import mesh as mesh_lib

  config, dataset = tiny_world
  mesh = mesh_lib.make_mesh(Mesh(data=8))
  assert sizes.resolved(free(config), dataset, mesh=mesh).batch_size % 8 == 0


def test_both_lengths_are_refused():
  with pytest.raises(
    ValueError, match=r'num_epochs must be None where num_train_steps is set \(6\)'
  ):
    dataclasses.replace(config_lib.from_config_dict(demo.get_config('tiny')), num_epochs=2.0)
  with pytest.raises(
    ValueError, match=r'num_epochs must be None where num_train_steps is set \(5\)'
  ):
    Stage(num_train_steps=5, num_epochs=2.0)


def test_estimates_without_data_have_numbers():
  config = config_lib.from_config_dict(table.get_config('cpu'))
  found = sizes.without_data(config, 20_000)
  assert found.sids.codes == (256, 256, 256)
  assert found.batch_size * found.packing.row_length == 8192
  assert {'batch_size', 'num_train_steps', 'optim.warmup_steps'} & set(holes(config))
  assert not {'batch_size', 'num_train_steps', 'optim.warmup_steps'} & set(holes(found))


def test_an_open_encoder_becomes_that_of_the_data_and_of_the_workdir(tiny_world, tmp_path):
  config, dataset = tiny_world
  assert config.sids.encoder == 'tfidf'
  is_open = dataclasses.replace(config, sids=dataclasses.replace(config.sids, encoder='auto'))
  assert sizes.resolved(is_open, dataset) == config
  workdir = epath.Path(tmp_path)
  identity.write_config(config, workdir)
  identity.check_run(is_open, workdir)
  identity.check_use(is_open, workdir)
  other = dataclasses.replace(config, sids=dataclasses.replace(config.sids, encoder='minilm'))
  with pytest.raises(ValueError, match=r'encoder'):
    identity.check_run(other, workdir)
