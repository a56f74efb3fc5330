"""Evaluation: every user once, the same figures on any mesh and with any batch."""

import dataclasses

from flax import nnx
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import models, sharding
from recjax.evaluate import baselines, evaluate, sample_users
from recjax.recommend import Recommender


def ranked(world, mesh, batch_size, users):
  config, dataset = world
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, batch_size=batch_size))
  model = models.build(config.model, dataset.vocabulary.space, 0)
  params = nnx.to_pure_dict(nnx.split(model)[1])
  recommender = Recommender(config, dataset, sharding.make_mesh(mesh))
  histories, _ = dataset.histories_and_targets('test')
  items, scores = recommender.rank(params, [histories[u] for u in users])
  return items, scores, evaluate(recommender, params, dataset, 'test', (1, 10), users, False)


def test_batches_and_meshes_change_no_ranking(tiny_world):
  users = np.arange(45)
  items, scores, metrics = ranked(tiny_world, config_lib.Mesh(data=8), 8, users)
  others = ranked(tiny_world, config_lib.Mesh(data=2, fsdp=2, tensor=2), 64, users)
  np.testing.assert_array_equal(items, others[0])
  np.testing.assert_allclose(scores, others[1], atol=1e-5)
  assert metrics == others[2]
  histories, targets = tiny_world[1].histories_and_targets('test')
  for u in users:
    assert not set(items[u].tolist()) & set(histories[u].tolist())
  hits = [targets[u] in items[u, :10] for u in users]
  assert metrics['recall@10'] == pytest.approx(np.mean(hits))
  assert metrics['recall@10_stderr'] == pytest.approx(np.std(hits, ddof=1) / np.sqrt(45))


def test_the_sample_is_fixed_by_the_seed():
  sample = sample_users(1000, 100, seed=3)
  np.testing.assert_array_equal(sample, sample_users(1000, 100, seed=3))
  assert len(set(sample.tolist())) == 100
  assert sample_users(1000, 100, seed=4).tolist() != sample.tolist()
  np.testing.assert_array_equal(sample_users(50, 100, seed=3), np.arange(50))


def test_baselines_have_the_keys_of_the_metrics(tiny_world):
  results = baselines(*tiny_world)
  assert results.keys() == {'popularity', 'transitions'}
  assert results['transitions']['recall@10'] > results['popularity']['recall@10']
  assert (
    results['transitions'].keys() - {'validation'} == results['transitions']['validation'].keys()
  )
