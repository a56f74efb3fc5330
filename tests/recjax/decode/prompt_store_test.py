"""Compares searches after kept prompts with searches after fresh ones."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import config as config_lib
from recjax import models
from recjax.decode import prompt_store
from recjax.decode.beam import beam_search
from recjax.decode.prompt_store import PromptStore
from recjax.decode.trie import Trie
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable
from recjax.sids.token_space import TokenSpace

SIZES, BOS = (6, 6, 3), 1
LONGEST = 1 + 6 * len(SIZES)
MIB = 2**20


class World:
  """A tiny model, its catalogue, its store, and two compiled searches."""

  def __init__(self, family: str, slots: int):
    config = config_lib.defaults(source='synthetic', name='test')
    config.model.update(family=family, depth=2, width=16, ff_width=32, heads=2, kv_heads=1)
    config.model.update(head_width=8)
    self.model = config_lib.from_config_dict(config).model
    rng = np.random.default_rng(0)
    every = np.stack(np.unravel_index(rng.permutation(108)[:40], SIZES), axis=1).astype(np.int32)
    table = SidTable(every, SIZES, 'random')
    self.space = TokenSpace(12, SIZES, table.catalogue)
    self.items_IL = self.space.tokens(every)
    self.trie = jax.tree.map(jnp.asarray, Trie.from_table(table))
    graph, self.params = nnx.split(models.build(self.model, self.space, 0))
    self.params = nnx.to_pure_dict(self.params)
    # Sharper than an untrained model, so that the order is not a matter of rounding.
    self.params['tables']['sid'] = self.params['tables']['sid'] * 3
    self.mesh = mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
    self.store = self.make_store(MIB)
    each = self.store.num_bytes // (self.store.slots + 1)
    self.store = self.make_store(each * (slots + 1))
    assert self.store.slots == slots and self.store.num_bytes == each * (slots + 1)
    hides = jnp.full((4, 1), -1, jnp.int32)

    @jax.jit
    def search(params, prompts):
      prompts = prompt_store.with_past(prompts)
      return beam_search(nnx.merge(graph, params), self.trie, prompts, hides, 8)

    self._search = search

  def make_store(self, limit: int) -> PromptStore:
    return PromptStore(self.model, self.space, self.mesh, LONGEST, limit)

  def prompt(self, history) -> np.ndarray:
    return np.concatenate([[BOS], self.items_IL[history].ravel()]).astype(np.int32)

  def check(self, histories) -> None:
    """Searches after fresh and after kept prompts, and compares."""
    prompts = [self.prompt(history) for history in histories]
    tokens, lengths = np.zeros((4, LONGEST), np.int32), np.ones(4, np.int32)
    for row, prompt in enumerate(prompts):
      tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    items, scores = self._search(self.params, {'tokens': tokens, 'lengths': lengths})
    with self.store.lock:
      kept = self.store.continued(prompts, 4, self.params, self.trie, None)
      found_items, found_scores = self._search(self.params, kept)
    n = len(prompts)
    np.testing.assert_allclose(found_scores[:n], scores[:n], atol=1e-5)
    np.testing.assert_array_equal(found_items[:n], items[:n])

  def counted(self) -> tuple[int, ...]:
    counts = self.store.counts
    found = (counts.hits, counts.extended, counts.misses, counts.evicted)
    self.store.counts = prompt_store.Counts()
    return found


@pytest.mark.parametrize('family', ['gemma', pytest.param('item_decoder', marks=pytest.mark.soak)])
def test_searches_after_kept_prompts_equal_those_after_fresh_ones(family):
  world = World(family, slots=4)
  world.check([[3, 5], [7], []])
  # Of one item and of no item the item decoder keeps BOS or nothing; the other families keep a token less.
  assert world.counted()[:2] == (0, 0)
  world.check([[3, 5], [7]])
  assert world.counted() == (2, 0, 0, 0)
  world.check([[3, 5, 9], [7, 1, 2, 30]])  # both histories grew
  assert world.counted()[:3] == (0, 2, 0)
  world.check([[3, 5, 9], [5, 9], [3, 5, 9]])  # the second lost its first item
  hits, extended, misses, _ = world.counted()
  assert (hits, misses + extended) == (2, 1)


def test_the_least_recently_used_prompt_leaves_its_slot():
  world = World('gemma', slots=2)
  world.check([[1, 2], [3, 4]])
  world.check([[1, 2]])
  world.counted()
  world.check([[5, 6]])  # takes the place of [3, 4]
  assert world.counted() == (0, 0, 1, 1)
  world.check([[1, 2]])
  assert world.counted() == (1, 0, 0, 0)
  with pytest.raises(ValueError, match='at most as many prompts as the store has slots, 2; got 3'):
    world.store.continued([world.prompt([n]) for n in range(3)], 4, world.params, world.trie, None)


def test_other_parameters_empty_the_store():
  world = World('gemma', slots=2)
  world.check([[1, 2]])
  world.params = jax.tree.map(lambda x: x * 1.5, world.params)
  world.counted()
  world.check([[1, 2]])
  assert world.counted() == (0, 0, 1, 0)


def test_what_cannot_be_kept_says_so():
  world = World('gemma', slots=1)
  with pytest.raises(ValueError, match='one prompt and one for padding; got 10'):
    world.make_store(10)
  for limit in (1e6, '1GB', None):
    with pytest.raises(ValueError, match='must be a whole number of bytes'):
      world.make_store(limit)
  t5 = dataclasses.replace(world.model, family='t5', kv_heads=2)
  assert 'family t5' in prompt_store.unsupported(t5, world.mesh)
  two = mesh_lib.make_mesh(Mesh(data=2), jax.devices()[:2])
  assert 'the mesh has 2' in prompt_store.unsupported(world.model, two)
