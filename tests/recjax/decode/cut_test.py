"""The search that skips beams against the one that does not, and against a plain Python beam search in float64."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import models
from recjax.decode import beam, cut, precision
from recjax.decode.trie import Trie
from recjax.recommend import make_ranker
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace
from tests.recjax.decode import oracle
from tests.recjax.decode.exactness_test import World, check_valid
from tests.recjax.decode.ranker_test import small


class Counted(oracle.Toy):
  """A toy backbone that counts the beams that it reads."""

  def __init__(self, *arguments, **options):
    super().__init__(*arguments, **options)
    self.beams_read = 0

  def step(self, tokens_BM, step, cache):
    jax.debug.callback(self._count, tokens_BM.shape[1])
    return super().step(tokens_BM, step, cache)

  def _count(self, beams):
    self.beams_read += int(beams)


class CutWorld(World):
  """A world that is searched in blocks of 4, after a first search with 4 beams; with `counts` the beams are counted."""

  def __init__(self, sizes, most, beams, before, counts=False, **options):
    super().__init__(sizes, most, beams, before=before, **options)
    if counts:
      self.toy = Counted(sizes, spread=options['spread'])
    whole, widths = self._search, (*before, beams)

    def search(trie, prompts, excluded, masks):
      x, cache = self.toy.start(prompts, self.widths[0], len(sizes) - 1)
      after = (x, cache, excluded, widths, 'full', masks)
      return cut.beams_after(self.toy, trie, *after, first=4, block=4)

    self._search, self._whole = jax.jit(search), whole

  def check(self, requests) -> None:
    """Compares the search with the Python beam search."""
    found = self.search(*requests)
    self.check_exact(requests, found)
    check_valid(requests, found[0])


def test_items_and_order_are_those_of_a_search_without_a_cut_that_reads_more_beams():
  world = CutWorld((8, 8, 6), 130, 3, (8, 60), counts=True, spread=1024)
  for seed, kind in enumerate(world.kinds):
    world.check(world.requests(seed + 7, kind, 12))
  jax.effects_barrier()
  assert 5 * 8 < world.toy.beams_read < 5 * (8 + 60) * 2 // 3  # the first search reads 8
  assert world._search._cache_size() == 1


class Tree(oracle.Toy):
  """A backbone that gives every binary prefix its own score; the state is the prefix after a leading 1."""

  def __init__(self, scores: dict[str, float]):
    super().__init__((2, 2, 2))
    values = np.full((3, oracle.STATES, 2), -99.0, np.float32)
    for prefix, score in scores.items():
      values[len(prefix) - 1, int('1' + prefix[:-1], 2), int(prefix[-1])] = score
    self.tables = oracle.ToyTables(self.tables.space, tuple(map(jnp.asarray, values)))

  def step(self, tokens_BM, step, cache):
    code_BM = tokens_BM - oracle.TEXT - self.tables.space.level_starts[step]
    state_BM = cache.state_BM * 2 + code_BM
    return state_BM[..., None], oracle.ToyCache(state_BM)


def test_a_row_whose_bound_is_too_high_is_searched_again():
  # With one beam the search finds 000 with -6.25. With two, 10 and 11 displace 00, and the best item has -11.5.
  scores = {'0': -1, '1': -1.25, '00': -5, '10': -0.25, '11': -0.5, '000': -0.25, '100': -10}
  items = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], np.int32)
  trie, model = Trie.from_table(SidTable(items, (2, 2, 2), 'random', 'none')), Tree(scores)

  @jax.jit
  def searches(tokens_B1, excluded_BE):
    x, cache = model.start({'tokens': tokens_B1}, 2, 2)
    one = cache.choose_beams(jnp.zeros((1, 1), jnp.int32))
    after = (cache, excluded_BE, (2, 2, 1), '')
    return (
      beam.beams_after(model, trie, x, one, excluded_BE, 1, ''),
      beam.beams_after(model, trie, x, *after),
      cut.beams_after(model, trie, x, *after, first=1, block=1),
    )

  found = searches(jnp.ones((1, 1), jnp.int32), jnp.full((1, 1), -1, jnp.int32))
  assert [(item.item(), score.item()) for item, score in found] == [(0, -6.25), *[(1, -11.5)] * 2]


def test_a_cut_needs_a_level_with_many_more_beams_than_items():
  codes = np.stack(np.unravel_index(np.arange(4096), (16, 16, 16)), axis=1).astype(np.int32)
  trie = Trie.from_table(SidTable(codes, (16, 16, 16), 'random', 'none'))
  widths = [512, (128, 128, 32), (128, 127, 32), (16, 256, 64), (16, 255, 64), (256, 16, 10)]
  assert [cut.pays(trie, each) for each in widths] == [False, True, False, True, False, False]


def small_model(family: str):
  config = config_lib.defaults(source='synthetic', name='test')
  config.model.update(family=family, depth=2, width=16, ff_width=32, heads=2, head_width=8)
  config.model.update(kv_heads=1 if family == 'gemma' else 2)
  return config_lib.from_config_dict(config).model


@pytest.mark.soak
@pytest.mark.parametrize('family', ['gemma', 't5', 'item_decoder'])
def test_backbones_give_the_items_of_the_search_without_a_cut(family):
  model, sizes = small_model(family), (6, 6, 3)
  every = np.stack(np.unravel_index(np.random.default_rng(0).permutation(108)[:80], sizes), axis=1)
  table = SidTable(every.astype(np.int32), sizes, 'random')
  space = TokenSpace(12, sizes, table.catalogue)
  trie, graph = jax.tree.map(jnp.asarray, Trie.from_table(table)), models.graph(model, space)
  params = nnx.to_pure_dict(nnx.split(models.build(model, space, 0))[1])
  params['tables']['sid'] = params['tables']['sid'] * 8  # peaked, and no ties by rounding
  tokens = np.concatenate([[[1]] * 3, space.tokens(every[:9]).reshape(3, 9)], axis=1)
  prompts = {'tokens': jnp.asarray(tokens, jnp.int32), 'lengths': jnp.array([10, 7, 4], jnp.int32)}
  hides, widths = jnp.arange(15, dtype=jnp.int32).reshape(3, 5), (6, 30, 4)

  @functools.partial(jax.jit, static_argnums=2)
  def search(params, prompts, cuts):
    bound = nnx.merge(graph, params)
    after = (*bound.start(prompts, widths[0], 2), hides, widths, 'level')
    if cuts:
      return cut.beams_after(bound, trie, *after, first=4, block=4)
    return beam.beams_after(bound, trie, *after)

  (items, scores), (expected, exact) = (search(params, prompts, cuts) for cuts in (True, False))
  np.testing.assert_array_equal(items, expected)
  np.testing.assert_allclose(scores, exact, atol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize(
  'world',
  [
    {'sizes': (4, 6, 3), 'beams': 5, 'before': (4, 24), 'spread': 4096},
    {'sizes': (4, 6, 3), 'beams': 4, 'before': (3, 17), 'spread': 8},
    {'sizes': (6, 5, 4), 'beams': 3, 'before': (6, 21), 'spread': 64, 'ranks_first': True},
    {'sizes': (3,) * 8, 'beams': 3, 'before': (3, 9, *[16] * 5), 'spread': 600, 'shares': False},
  ],
)
def test_a_hundred_thousand_requests_are_not_changed_by_a_cut(world):
  world = CutWorld(most=90, **world)
  for seed in range(50):
    requests = world.requests(seed, world.kinds[seed % len(world.kinds)], 500)
    found = world.search(*requests)
    check_valid(requests, found[0])
    few = [x if n < 2 else x[:20] for n, x in enumerate(requests)]
    world.check_exact(few, [x[:20] for x in found])
    world._search, world._whole = world._whole, world._search
    jax.tree.map(np.testing.assert_array_equal, found, world.search(*requests))
    world._search, world._whole = world._whole, world._search


@pytest.mark.soak
@pytest.mark.parametrize('family', ['gemma', 't5'])
def test_a_mesh_gives_the_items_of_one_device_without_a_cut_also_in_int8(
  tiny_world, family, monkeypatch
):
  monkeypatch.setattr(cut, '_PAYS', 1)
  config, dataset, params = small(tiny_world, family=family, heads=4, kv_heads=4)
  histories, _ = dataset.histories_and_targets('test')
  histories = [np.asarray(histories[u]) for u in range(16)]
  meshes = (
    mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1]),
    mesh_lib.make_mesh(Mesh(data=2, fsdp=2, tensor=2)),
  )
  found = []
  for mesh, cuts in zip(meshes, (False, True), strict=True):
    options = {'beam_widths': (16, 100), 'beam_cut': cuts, 'weights_dtype': 'int8'}
    settings = dataclasses.replace(config.eval, beams=10, ks=(10,), batch_size=8, **options)
    ranker = make_ranker(dataclasses.replace(config, eval=settings), dataset, mesh)
    shardings = mesh_lib.tree_shardings(params, mesh)
    stored = precision.stored(jax.device_put(params, shardings), 'int8', config.model.lora_alpha)
    if cuts and family == 'gemma':  # integers are sharded like floats
      kernel, sharding = (x['layers']['attention']['q']['kernel'] for x in (stored, shardings))
      assert kernel.sharding.is_equivalent_to(sharding, kernel.ndim)
    found.append(ranker.rank(stored, histories))
  np.testing.assert_array_equal(found[0][0], found[1][0])
  np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)
