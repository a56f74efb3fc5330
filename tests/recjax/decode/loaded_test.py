"""Another catalogue in a running ranker against a ranker that was made for it."""

import dataclasses

from flax import nnx
import jax
import numpy as np

from recjax import models
from recjax.config import next_item_component
from recjax.decode import mask_slots
from recjax.decode.catalogue import Catalogue
from recjax.decode.ranker import Ranker
from recjax.schema import blend
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.token_space import padded
from tests.recjax.decode import tomorrow

BEAMS = 12


def ranker_of(config, dataset, model, room=None):
  memory = blend.Memory(counts='transitions', candidates=5)
  settings = dataclasses.replace(config.eval, beams=BEAMS, memory=memory, batch_size=8, ks=(10,))
  mesh = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  return Ranker(
    next_item_component(config), model, settings, config.hosts, dataset, mesh, room=room
  )


def ranked(ranker, params, histories, index, **options):
  """The items of the candidates by id, with their scores."""
  indices = [np.array([index[item] for item in history], np.int32) for history in histories]
  found = ranker.candidates(params, indices, few_shapes=True, **options)
  ids = list(index)
  return [
    {
      ids[i]: scores
      for i, *scores in zip(*(x[u].tolist() for x in found if x is not None), strict=True)
      if i >= 0
    }
    for u in range(len(histories))
  ]


def assert_same(found, expected):
  for mine, its in zip(found, expected, strict=True):
    assert list(mine) == list(its)
    np.testing.assert_allclose(list(mine.values()), list(its.values()), atol=2e-5)


def test_a_swapped_catalogue_is_ranked_like_a_ranker_of_its_own(tiny_world, tmp_path):
  config, dataset = tiny_world
  model = dataclasses.replace(
    config.model, family='item_decoder', item_rows=True, item_head=True,
    depth=1, width=16, ff_width=32, head_width=8,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  params = nnx.to_pure_dict(nnx.split(models.build(model, dataset.vocabulary.space, 0))[1])
  params = jax.tree.map(lambda x: 2 * x + rng.normal(0, 0.2, x.shape).astype(np.float32), params)
  other = tomorrow.prepared(dataset, tmp_path / 'tuesday')
  (tmp_path / 'masks').mkdir()
  (tmp_path / 'masks' / 'fresh.txt').write_text('\n'.join(f'new{n}' for n in range(6)))
  running = ranker_of(config, dataset, model, room=1.5)
  monday = running.loaded
  tuesday = running.load(Catalogue.load(other.folder.root, tmp_path / 'masks'))
  index, new_index = monday.catalogue.index, tuesday.catalogue.index
  common = [item for item in index if item in new_index]
  histories = [rng.choice(common, n).tolist() for n in (1, 3, 5, 2)]
  new_histories = [[*history, 'new1'] for history in histories]

  own = np.zeros((padded(other.num_items), 16), np.float32)
  for item, i in new_index.items():
    own[i] = params['tables']['items'][index[item]] if item in index else 0
  moved = {**params, 'tables': {**params['tables'], 'items': own}}
  alone = ranker_of(config, other, model)
  alone.loaded = dataclasses.replace(alone.loaded, lookups=tuesday.lookups)  # that of Monday's log
  expected = ranked(alone, moved, new_histories, new_index)

  today = ranked(running, params, histories, index)
  compiled, fills = running._search._cache_size(), mask_slots._fill._cache_size()
  found = ranked(running, params, new_histories, new_index, loaded=tuesday)
  assert_same(found, expected)
  mask = tuesday.catalogue.masks.mask('fresh')
  for each in ranked(running, params, histories, new_index, loaded=tuesday, masks=[mask] * 4):
    assert set(each) == {f'new{n}' for n in range(6)}
  running.loaded = tuesday
  assert_same(ranked(running, params, new_histories, new_index), found)
  running.loaded = monday  # rolled back
  assert_same(ranked(running, params, histories, index), today)
  assert (running._search._cache_size(), mask_slots._fill._cache_size()) == (compiled, fills)
