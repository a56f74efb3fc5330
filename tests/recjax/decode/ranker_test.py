"""Candidates of the ranker: each item once, and exact scores of the items of memory and texts."""

import dataclasses

from flax import nnx
import jax
import numpy as np
import pytest

from recjax import models
from recjax.decode import mask_slots
from recjax.decode.lookups import text_vectors
from recjax.decode.masks import Masks
from recjax.decode.memory import Memory
from recjax.decode.text_similarity import TextSimilarity
from recjax.recommend import make_ranker
from recjax.schema import blend
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib

MEMORY = blend.Memory(counts='transitions', candidates=12)
TEXT = blend.Text(vectors='encoder', candidates=6)


def small(world, **changes):
  config, dataset = world
  model = dataclasses.replace(config.model, depth=1, width=16, ff_width=32, head_width=8, **changes)
  config = dataclasses.replace(config, model=model)
  params = nnx.to_pure_dict(nnx.split(models.build(model, dataset.vocabulary.space, 0))[1])
  return config, dataset, {**params, 'tables': {k: 4 * v for k, v in params['tables'].items()}}


def ranker_of(config, dataset, beams, memory, batch_size=20):
  settings = dataclasses.replace(
    config.eval,
    beams=beams,
    memory=memory,
    text=TEXT if memory is MEMORY else blend.Text(),
    batch_size=batch_size,
    ks=(1, 10),
  )
  config = dataclasses.replace(config, eval=settings)
  ranker = make_ranker(config, dataset, mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1]))
  histories, _ = dataset.histories_and_targets('test')
  return ranker, [np.asarray(histories[u]) for u in range(20)]


def candidates(config, dataset, params, beams, memory, batch_size=20, **options):
  ranker, histories = ranker_of(config, dataset, beams, memory, batch_size)
  return ranker.candidates(params, histories, **options), histories


@pytest.mark.parametrize('has_head', [pytest.param(False, marks=pytest.mark.soak), True])
def test_items_of_memory_and_texts_have_the_scores_of_an_exhaustive_search(tiny_world, has_head):
  config, dataset, params = small(tiny_world, item_head=has_head)
  num_items = dataset.num_items
  whole, _ = candidates(config, dataset, params, num_items, blend.Memory())
  banned = np.array([3, 5], np.int32)
  found, histories = candidates(config, dataset, params, 10, MEMORY, excluded=[banned] * 20)
  assert (whole.head_BM is None) == (found.head_BM is None) == (not has_head)
  if not has_head:
    parts, _ = candidates(config, dataset, params, 10, MEMORY, batch_size=8, excluded=[banned] * 20)
    np.testing.assert_array_equal(found.items_BM, parts.items_BM)
    np.testing.assert_allclose(found.codes_BM, parts.codes_BM, atol=1e-5)
    np.testing.assert_array_equal(found.memory_BM, parts.memory_BM)
    np.testing.assert_array_equal(found.text_BM, parts.text_BM)
  oracle = Memory(MEMORY, dataset.train, num_items)
  hidden = [np.append(h, banned) for h in histories]
  best = oracle.best(oracle.read(histories), hidden)
  texts = TextSimilarity(TEXT, text_vectors(dataset))
  best = np.append(best, texts.best(texts.read(histories), hidden), axis=1)
  for u, history in enumerate(histories):
    items = found.items_BM[u][found.items_BM[u] >= 0].tolist()
    assert (found.items_BM[u, len(items) :] == -1).all()
    assert len(set(items)) == len(items) and not set(items) & {*history.tolist(), 3, 5}
    assert set(best[u][best[u] >= 0].tolist()) <= set(items) and len(items) > 10
    for scores, exact in ((found.codes_BM, whole.codes_BM), (found.head_BM, whole.head_BM)):
      if scores is not None:
        by_item = dict(zip(whole.items_BM[u].tolist(), exact[u].tolist(), strict=True))
        expected = [by_item[item] for item in items]
        np.testing.assert_allclose(scores[u, : len(items)], expected, atol=1e-5)
        assert np.isneginf(scores[u, len(items) :]).all()
    counts = oracle.read([history]).toarray()[0]
    np.testing.assert_allclose(
      found.memory_BM[u, : len(items)], np.log(counts[items] + 0.3), rtol=1e-6
    )
    expected = texts.scores(texts.read([history]), np.array([items]))[0]
    np.testing.assert_allclose(found.text_BM[u, : len(items)], expected, rtol=1e-6)


def test_masks_hold_for_beams_head_and_memory_and_compile_nothing(tiny_world, monkeypatch):
  config, dataset, params = small(tiny_world, item_head=True)
  masks = Masks({item['id']: i for i, item in enumerate(dataset.items)})
  rng = np.random.default_rng(0)
  ranker, histories = ranker_of(config, dataset, 10, MEMORY)
  sets = [set(rng.choice(dataset.num_items, n, replace=False).tolist()) for n in (1, 4, 12, 30, 60)]
  mask_of = [masks.mask([dataset.items[i]['id'] for i in inside]) for inside in sets]
  monkeypatch.setattr(mask_slots, 'SLOTS', (2, 4))
  plain = ranker.candidates(params, histories, few_shapes=True)
  compiled = ranker._search._cache_size()
  for seed in range(2):
    which = np.random.default_rng(seed).integers(-1, 5, len(histories)).tolist()
    of_rows = [None if w < 0 else mask_of[w] for w in which]
    found = ranker.candidates(params, histories, few_shapes=True, masks=of_rows)
    for u, w in enumerate(which):
      items = [i for i in found.items_BM[u].tolist() if i >= 0]
      if w < 0:
        assert items == [i for i in plain.items_BM[u].tolist() if i >= 0]
        np.testing.assert_allclose(found.codes_BM[u], plain.codes_BM[u], atol=1e-6)
      else:
        left = sets[w] - set(histories[u].tolist())
        assert set(items) <= left and len(items) == len(set(items))
        assert set(items) == left or len(items) >= 10
  assert ranker._search._cache_size() == compiled
