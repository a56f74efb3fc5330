"""Scores of given items with a head and a memory, and another catalogue in a running recommender."""

import dataclasses

from flax import nnx
import jax
import numpy as np
import pytest

from recjax import models
from recjax.decode.blend import Weights
from recjax.decode.catalogue import Catalogue
from recjax.recommend import Recommender, make_ranker
from recjax.schema import blend
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from tests.recjax.decode import tomorrow


@pytest.fixture(scope='module')
def recommender(tiny_world):
  """An item decoder with a head and a memory, whose beams are as wide as the catalogue; with room for another one."""
  config, dataset = tiny_world
  model = dataclasses.replace(
    config.model, family='item_decoder', item_rows=True, item_head=True,
    depth=1, width=16, ff_width=32, head_width=8,
  )  # fmt: skip
  memory = blend.Memory(counts='transitions', candidates=5)
  settings = dataclasses.replace(config.eval, beams=dataset.num_items, memory=memory, batch_size=8)
  config = dataclasses.replace(config, model=model, eval=settings)
  rng = np.random.default_rng(0)
  params = nnx.to_pure_dict(nnx.split(models.build(model, dataset.vocabulary.space, 0))[1])
  params = jax.tree.map(lambda x: 2 * x + rng.normal(0, 0.2, x.shape).astype(np.float32), params)
  mesh = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  ranker = make_ranker(config, dataset, mesh, room=1.5)
  ranker.weights = Weights(0.4, 0.3)
  return Recommender(ranker, params, 0)


def items_of(found):
  return {each.item: each.score for each in found}


def test_scores_are_blended_as_those_of_recommendations(recommender):
  ids = list(recommender.catalogue.index)
  histories = [ids[3:6], [], ids[50:51]]
  found = recommender.recommend(histories, k=len(ids))
  for history, mine, its in zip(histories, recommender.score(histories, ids), found, strict=True):
    exact = items_of(its)
    assert set(ids) - set(history) == set(exact)
    scores = {item: score for item, score in zip(ids, mine, strict=True) if item in exact}
    assert scores == pytest.approx(exact, abs=2e-5)


def test_a_catalogue_is_swapped_and_rolled_back(recommender, tiny_world, tmp_path):
  other = tomorrow.prepared(tiny_world[1], tmp_path / 'tuesday')
  monday, tuesday = recommender.catalogue, Catalogue.load(other.folder.root)
  history = [item for item in monday.index if item in tuesday.index][:3]
  before = recommender.recommend(history, k=50)
  with pytest.raises(ValueError, match='there was no swap'):
    recommender.roll_back()
  compiled = recommender._ranker._search._cache_size()
  recommender.swap(tuesday)
  assert recommender.catalogue is tuesday
  after = recommender.recommend(history, k=len(other.items) - 3)
  assert {each.item for each in after} == set(tuesday.index) - set(history)
  assert recommender.score([*history, 'new1'], ['new2', 'new0'])
  with pytest.raises(ValueError, match='must be in the catalogue'):
    recommender.recommend(sorted(set(monday.index) - set(tuesday.index)))
  assert recommender._ranker._search._cache_size() == compiled
  recommender.roll_back()
  assert recommender.recommend(history, k=50) == before
  recommender.roll_back()
  assert recommender.recommend(history, k=len(other.items) - 3) == after
