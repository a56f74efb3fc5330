"""The loss of a packed group equals the sum of its examples' losses, each alone in its row."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import models, train
from recjax.data import packing
from recjax.data.mixture import Part
from recjax.data.tasks.base import Example
from recjax.models.embedding import TokenTables
from recjax.sids.token_space import TokenSpace
from recjax.training import loss
from tests.recjax.data.fakes import Fake


@pytest.mark.parametrize('sid_softmax', ['level', 'full'])
@pytest.mark.parametrize('family', ['gemma', 't5'])
def test_the_packed_loss_equals_the_loss_of_single_examples(rated, family, sid_softmax):
  config, dataset = rated
  model = dataclasses.replace(
    config.model, family=family, depth=2, width=32, ff_width=64, heads=2, kv_heads=2, head_width=16
  )
  sizes = dataclasses.replace(config.packing, rows=16)
  # Under 'level' the answers hold titles as well, so that items and words share them.
  titles = {'learn': 'both', 'title_tokens': 4} if sid_softmax == 'level' else {}
  tasks = {
    name: dataclasses.replace(task, **titles) if hasattr(task, 'learn') else task
    for name, task in config.mixture.items()
  }
  config = dataclasses.replace(config, model=model, packing=sizes, mixture=tasks)
  stream = train.make_stream(config, dataset)
  mix, plan = stream.mixture, stream.plan
  group = [mix[n] for n in range(plan.examples)]
  assert {part.name for part, _ in group} == set(config.mixture)
  examples, _, _ = packing.fit([example for _, example in group], plan)
  one = dataclasses.replace(plan, examples=1, rows=1)
  alone = [
    packing.pack([(part, example)], one) for (part, _), example in zip(group, examples, strict=True)
  ]
  apart = {name: np.concatenate([rows[name] for rows in alone]) for name in alone[0]}
  graph, params = nnx.split(models.build(config.model, dataset.vocabulary.space, 0))

  @jax.jit
  def sums(params, batch):
    model = nnx.merge(graph, params)
    x_BTD = model.hidden(batch, None)
    return loss.loss_sums(model.tables, x_BTD, batch, sid_softmax, mix.text_targets)

  packed = sums(params, packing.pack(group, plan))
  expected = sums(params, apart)
  assert set(packed) == set(expected)
  for name in packed:
    np.testing.assert_allclose(packed[name], expected[name], rtol=1e-5, err_msg=name)
  assert packed['weight'] == sum(
    len(e.targets) if e.learnt is None else e.learnt.sum() for e in examples
  )


@pytest.mark.parametrize('decoder_row_length', [0, 8])
def test_no_target_of_single_level_answers_is_lost(decoder_row_length):
  space = TokenSpace(text_size=30, level_sizes=(8, 6, 4, 4))
  part = Part('codes', Fake(make=None, loss_weight=0.5), 100)
  group = [
    (part, Example(np.array([1, 2 + n], np.int32), np.array([space.sid_start + n], np.int32)))
    for n in range(8)
  ]
  plan = packing.Plan(8, 4, 16, decoder_row_length, space=space)
  one = dataclasses.replace(plan, examples=1, rows=1)
  alone = [packing.pack([member], one) for member in group]
  apart = {name: np.concatenate([rows[name] for rows in alone]) for name in alone[0]}
  tables = TokenTables(space, 8, nnx.Rngs(params=0))
  states_VD = np.random.default_rng(0).normal(size=(space.size, 8)).astype(np.float32)

  def sums(batch):  # a token's state depends on the token alone
    return loss.loss_sums(tables, jnp.asarray(states_VD[batch['tokens']]), batch, 'level', False)

  packed, expected = sums(packing.pack(group, plan)), sums(apart)
  for name in expected:
    np.testing.assert_allclose(packed[name], expected[name], rtol=1e-6, err_msg=name)
  assert packed['weight_level_1'] == 4.0
