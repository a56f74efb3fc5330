"""A task from outside the package: a module and an entry of the registry make it train."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import train
from recjax.data.tasks import TASKS
from recjax.data.tasks.base import Component, Example
from recjax.schema.checks import setting
from recjax.sharding import mesh as mesh_lib
from recjax.training import optim, state
from recjax.training.step import jit_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstCode(Component):
  """An item's position in the catalogue → the first code of its SID. The unit is an item.

  Example: inputs  Code of 7:    targets  <a_3>
  """

  task: str = 'first_code'
  offset: int = setting(0, 'Added to the position.', at_least=0)

  wordings: ClassVar = ('{number}',)
  places: ClassVar = ('number',)

  def num_units(self, corpus):
    return corpus.dataset.num_items

  def example(self, corpus, unit, draw):
    number = corpus.prompter.text(str(unit + self.offset))[:1]
    inputs, _ = corpus.prompter.fill(self.prompt(draw), {'number': number})
    return Example(inputs, corpus.sid_tokens_IL[unit, :1])


@pytest.fixture
def config(rated, monkeypatch):
  monkeypatch.setitem(TASKS, 'first_code', FirstCode)
  fields = rated[0].to_dict()
  values = config_lib.component('first_code', weight=3.0).to_dict()
  fields['mixture'] = {'next_item': fields['mixture']['next_item'], 'codes': values}
  fields['packing'] |= {'row_length': 64, 'rows': 8}
  fields['model'] |= {'depth': 1, 'width': 16, 'ff_width': 32, 'heads': 2, 'kv_heads': 1}
  fields['batch_size'], fields['num_train_steps'], fields['optim']['warmup_steps'] = 16, 2, 1
  return config_lib.from_dict(fields)


def test_a_task_from_outside_is_checked_and_trained(config, rated):
  dataset = rated[1]
  with pytest.raises(ValueError, match=r'mixture.codes.offset must not be negative; got -1'):
    fields = config.to_dict()
    fields['mixture']['codes']['offset'] = -1
    config_lib.from_dict(fields)
  stream = train.make_stream(config, dataset)
  examples = [stream.mixture[n] for n in range(2 * stream.examples_per_batch)]
  assert {part.name for part, _ in examples} == {'next_item', 'codes'}
  space = dataset.vocabulary.space
  mesh = mesh_lib.make_mesh(config.mesh)
  tx = optim.optimizer(config.optim, config.num_train_steps)
  abstract = state.abstract_state(config.model, space, tx, mesh)
  train_state = state.init_state(config.model, space, tx, mesh, config.seed)
  step = jit_train_step(config, space, tx, stream.mixture.text_targets, abstract, mesh)
  for k in range(2):
    batch = stream.host_batch(k * stream.examples_per_batch, 0, 1)
    per_batch = examples[k * stream.examples_per_batch : (k + 1) * stream.examples_per_batch]
    assert batch['learnt'].sum() == sum(e.num_learnt for _, e in per_batch)
    with jax.set_mesh(mesh):
      train_state, metrics = step(train_state, mesh_lib.host_rows(batch, mesh))
    assert np.isfinite(metrics['loss'])
  assert int(train_state.step) == 2
