"""Masks on the devices against prefixes in Python."""

import jax
import numpy as np
import pytest

from recjax.decode import mask_slots
from recjax.decode.mask_slots import MaskSlots
from recjax.decode.masks import Masks
from recjax.decode.trie import Trie
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable

SIZES = (5, 70, 3)


def catalogue(seed, items, collisions='keep'):
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, SIZES, (items, 3)).astype(np.int32)
  codes[: items // 2, 0] = 2  # one node with many children
  if collisions != 'keep':
    codes = np.unique(codes, axis=0)
  codes = rng.permutation(codes)
  return codes, Trie.from_table(SidTable(codes, SIZES, 'random', collisions))


def bits(words_W, count):
  return np.unpackbits(np.asarray(words_W).view(np.uint8), bitorder='little')[:count].astype(bool)


@pytest.mark.parametrize('collisions', ['keep', 'none'])
@pytest.mark.parametrize('items', [1, 32, 33, 300])
def test_a_node_is_alive_if_an_item_below_it_is_in_the_mask(collisions, items):
  codes, trie = catalogue(items, items, collisions)
  rng, rows = np.random.default_rng(1), codes.tolist()
  prune = jax.jit(mask_slots.pruned)
  for share in (0.02, 0.3, 1.0):
    inside = {0} | set(np.flatnonzero(rng.random(len(codes)) < share).tolist())
    mask = Masks(dict.fromkeys(range(len(codes)))).all.bits_W * 0
    for i in inside:
      mask[i // 32] |= np.uint32(1 << i % 32)
    for depth, words_W in enumerate(prune(trie, mask), 1):
      prefixes = sorted({tuple(row[:depth]) for row in rows})
      alive = {tuple(rows[i][:depth]) for i in inside}
      assert bits(words_W, len(prefixes)).tolist() == [p in alive for p in prefixes]
      assert not bits(words_W, 32 * len(words_W))[len(prefixes) :].any()


def test_rows_read_their_own_slots_and_the_oldest_mask_leaves():
  codes, trie = catalogue(7, 200)
  ids = {str(i): i for i in range(200)}
  masks, mesh = Masks(ids), mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
  trie = jax.device_put(jax.tree.map(np.asarray, trie), mesh_lib.replicated(mesh))
  slots = MaskSlots(trie, mesh, masks.all, slots=4)
  rng = np.random.default_rng(0)
  sets = [set(rng.choice(200, rng.integers(1, 60), replace=False).tolist()) for _ in range(9)]
  mask_of = [masks.mask([str(i) for i in inside]) for inside in sets]
  rows, items = codes.tolist(), np.arange(200, dtype=np.int32)
  children = jax.jit(lambda trie, m, level, nodes: m.children(level, trie.children(level, nodes)[0]), static_argnums=2)  # fmt: skip
  has = jax.jit(lambda m, items: (m.has(items), m.items_of_rows(200)))
  fills = mask_slots._fill._cache_size()
  for _ in range(6):
    chosen = rng.choice(9, 3, replace=False).tolist()
    which = [None, chosen[0], chosen[1], chosen[0], chosen[2]]
    with slots.lock:
      slot_B = slots.slots([None if w is None else mask_of[w] for w in which])
      assert slot_B[0] == 0 and slot_B[1] == slot_B[3] and len(set(slot_B.tolist())) == 4
      argument = slots.rows(slot_B)
      in_mask, of_rows = has(argument, np.tile(items, (5, 1)))
      found = [
        np.asarray(children(trie, argument, level, np.tile(np.arange(n, dtype=np.int32), (5, 1))))
        for level, n in enumerate(trie.num_nodes[:-1])
      ]
    for b, w in enumerate(which):
      inside = set(range(200)) if w is None else sets[w]
      assert set(np.flatnonzero(in_mask[b]).tolist()) == inside
      np.testing.assert_array_equal(of_rows[b], in_mask[b])
      for level in range(3):
        nodes = sorted({tuple(row[:level]) for row in rows})
        longer = sorted({tuple(row[: level + 1]) for row in rows})
        alive = {tuple(rows[i][: level + 1]) for i in inside}
        for node, prefix in enumerate(nodes):
          expected = [p in alive for p in longer if p[:level] == prefix]
          assert found[level][b, node, : len(expected)].tolist() == expected
  assert mask_slots._fill._cache_size() == fills  # nothing is compiled for a mask


def test_batches_have_few_masks_and_all_rows_in_order():
  masks = [Masks({'a': 0, 'b': 1, 'c': 2}).mask([x]) for x in 'abc']
  of_rows = [None, masks[0], masks[1], None, masks[2], masks[0], masks[2]]
  order = np.array([6, 0, 1, 2, 3, 4, 5])
  found = [b.tolist() for b in mask_slots.batches(order, 3, of_rows, most=2)]
  assert found == [[6, 0, 1], [2, 3, 4], [5]]
  found = [b.tolist() for b in mask_slots.batches(order, 7, of_rows, most=2)]
  assert found == [[6, 0, 1], [2, 3, 4], [5]]
  assert [b.tolist() for b in mask_slots.batches(order, 4, None, 1)] == [[6, 0, 1, 2], [3, 4, 5]]
