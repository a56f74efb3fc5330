"""The search that skips beams against the one that does not, and against a plain Python beam search in float64."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import models
from recjax.decode import beam, cut
from recjax.decode.trie import Trie
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace
from tests.recjax.decode import oracle
from tests.recjax.decode.exactness_test import World, check_valid


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
  """A world that is searched in blocks of 4, after a first search with 4 beams."""

  def __init__(self, *arguments, first=4, block=4, **options):
    super().__init__(*arguments, **options)
    self.toy = Counted(self.sizes, spread=options.get('spread', 4096))
    widths = (*options['before'], self.beams)

    def search(trie, prompts, excluded, masks):
      x, cache = self.toy.start(prompts, self.widths[0], len(self.sizes) - 1)
      options = (excluded, widths, 'full', masks)
      return cut.beams_after(self.toy, trie, x, cache, *options, first=first, block=block)

    self._search = jax.jit(search)


WORLDS = {
  'shared semantic IDs': {'sizes': (4, 6, 3), 'beams': 5, 'before': (4, 24)},
  'ties': {'sizes': (4, 6, 3), 'beams': 4, 'before': (3, 17), 'spread': 8},
  'first': {'sizes': (6, 5, 4), 'beams': 3, 'before': (6, 21), 'ranks_first': True, 'spread': 64},
  'eight levels': {
    'sizes': (3,) * 8,
    'beams': 3,
    'before': (3, 9, 16, 16, 16, 16, 16),
    'shares': False,
    'spread': 600,
  },
}


@pytest.mark.parametrize('name', WORLDS)
def test_items_and_order_are_those_of_the_search_without_a_cut(name):
  world = CutWorld(**{'most': 48} | WORLDS[name])
  for seed, kind in enumerate(world.kinds):
    requests = world.requests(seed + 7, kind, 12)
    found = world.search(*requests)
    world.check_exact(requests, found)
    check_valid(requests, found[0])
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
  trie = Trie.from_table(SidTable(items, (2, 2, 2), 'random', 'none'))
  model, hides = Tree(scores), jnp.full((1, 1), -1, jnp.int32)
  x, cache = model.start({'tokens': jnp.ones((1, 1), jnp.int32)}, 2, 2)
  rest = (model, trie, x, cache, hides)
  one = beam.beams_after(*rest[:3], cache.choose_beams(jnp.zeros((1, 1), jnp.int32)), hides, 1, '')
  assert [x.item() for x in one] == [0, -6.25]
  for search in (beam.beams_after, functools.partial(cut.beams_after, first=1, block=1)):
    assert [x.item() for x in search(*rest, (2, 2, 1), '')] == [1, -11.5]


def test_beams_below_the_bound_are_not_read():
  sizes = (8, 8, 8)
  world = CutWorld(sizes, 300, 3, before=(8, 60), shares=False)
  requests = world.requests(3, 'random', 1)
  world.check_exact(requests, world.search(*requests))
  world.toy.beams_read = 0
  world.search(*requests)
  jax.effects_barrier()
  assert 2 * 4 < world.toy.beams_read <= (2 * 4 + 8 + 60) // 2


@pytest.mark.parametrize(
  'family',
  [
    'gemma',
    pytest.param('t5', marks=pytest.mark.soak),
    pytest.param('item_decoder', marks=pytest.mark.soak),
    pytest.param('qwen3_5', marks=pytest.mark.soak),
  ],
)
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


def small_model(family: str):
  config = config_lib.defaults(source='synthetic', name='test')
  config.model.update(family=family, depth=2, width=16, ff_width=32, heads=2, head_width=8)
  config.model.update(kv_heads=1 if family == 'gemma' else 2)
  return config_lib.from_config_dict(config).model


@pytest.mark.soak
@pytest.mark.parametrize('name', WORLDS)
def test_a_hundred_thousand_requests_are_not_changed_by_a_cut(name):
  world = CutWorld(**{'most': 90} | WORLDS[name])
  whole = World(**{'most': 90} | WORLDS[name])
  whole.toy = world.toy
  for seed in range(50):
    requests = world.requests(seed, world.kinds[seed % len(world.kinds)], 500)
    for one, other in zip(world.search(*requests), whole.search(*requests), strict=True):
      np.testing.assert_array_equal(one, other)
