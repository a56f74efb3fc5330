"""The search against a plain Python beam search in float64, over random tries, masks and exclusions.

The toy backbone's scores are exact in float32 (`oracle`), so items, scores and ties are compared without tolerance. A
capacity serves all tries of a test with one compiled program.
"""

import functools
import math

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from recjax.decode import mask_slots
from recjax.decode.beam import beam_search
from recjax.decode.masks import Masks
from recjax.decode.trie import Capacity, Trie
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sids.table import SidTable
from tests.recjax.decode import oracle

EXCLUDED = 16
KINDS = ('random', 'chains', 'few', 'collisions', 'wide')


def random_codes(rng, kind: str, sizes: tuple[int, ...], most: int) -> np.ndarray:
  """Returns random semantic IDs; repeated rows only with collisions."""
  items = int(rng.integers(1, 4 if kind == 'few' else most + 1))
  codes = rng.integers(0, sizes, (items, len(sizes)))
  if kind == 'chains':  # a prefix of the second level or later has one child
    codes[:, 1:] = (codes[:, :1] * 5 + np.arange(1, len(sizes))) % np.array(sizes[1:])
    codes[: items // 3, -1] = rng.integers(0, sizes[-1], items // 3)
  if kind == 'wide':
    codes[:, 0] = 1 % sizes[0]
  if kind == 'collisions':
    codes[: items // 2] = codes[rng.integers(0, items, items // 2)]
  else:
    codes = rng.permutation(np.unique(codes, axis=0))
  return codes.astype(np.int32)


class World:
  """A compiled search for all catalogues of a capacity.

  Args:
    sizes: codes of each level.
    most: largest number of items.
    beams: M.
    shares: whether items may share a semantic ID.
    ranks_first: see `Trie`.
    spread: different values of a log-probability; few of them make ties.
    before: beams after each level but the last; empty: M.
    mesh: the devices. None: one.
  """

  def __init__(
    self, sizes, most, beams, shares=True, ranks_first=False, spread=4096, before=(), mesh=None
  ):
    most = min(most, math.prod(sizes))
    nodes = np.minimum(np.cumprod((1, *sizes)), [1, *[max(most, sizes[0])] * len(sizes)]).tolist()
    self.sizes, self.most, self.beams, self.ranks_first = sizes, most, beams, ranks_first
    self.capacity = Capacity(most, tuple(nodes), tuple(sizes), most if shares else 1)
    self.kinds = [kind for kind in KINDS if shares or kind != 'collisions']
    by_level = (*before, beams) if before else (beams,) * len(sizes)
    self.widths = list(map(min, by_level, nodes[1:]))
    self.toy = oracle.Toy(sizes, spread=spread)
    self.mesh = mesh or mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
    search = functools.partial(beam_search, self.toy)
    self._search = jax.jit(lambda trie, p, e, m: search(trie, p, e, by_level, 'full', m))

  def requests(self, seed: int, kind: str, rows: int):
    """Returns the codes, the popularity, and for each row its prompt, excluded items, and mask (None: all items)."""
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, kind, self.sizes, self.most)
    items = len(codes)
    excluded = np.where(
      np.arange(EXCLUDED) < rng.integers(0, EXCLUDED + 1, (rows, 1)),
      rng.integers(0, items, (rows, EXCLUDED)),
      -1,
    ).astype(np.int32)
    sets = [
      rng.choice(items, n, replace=False)
      for n in (1, min(2, items), items, rng.integers(1, items + 1))
    ]
    which = rng.integers(-1, len(sets), rows)
    if rows > 3:  # a mask of one item that is excluded leaves none
      which[0], excluded[0, 0] = 0, sets[0][0]
    within = [None if w < 0 else set(sets[w].tolist()) for w in which]
    return codes, rng.integers(0, 4, items), rng.integers(0, 10_000, rows), excluded, within

  def search(self, codes, popularity, prompts, excluded, within):
    """Returns the items and scores of every row."""
    table = SidTable(codes, self.sizes, 'random', 'keep')
    trie = Trie.from_table(table, popularity, self.ranks_first).padded(self.capacity)
    shardings = jax.tree.map(lambda x: mesh_lib.index_sharding(x, self.mesh), trie)
    trie = jax.device_put(trie, shardings)
    masks = Masks({str(i): i for i in range(len(codes))})
    slots = mask_slots.MaskSlots(trie, self.mesh, masks.all, slots=8)
    of_rows = [
      None if inside is None else masks.mask([str(i) for i in inside]) for inside in within
    ]
    rows = slots.slots(of_rows)
    read = {'tokens': prompts[:, None].astype(np.int32), 'lengths': np.ones(len(prompts), np.int32)}
    batch = mesh_lib.global_rows(read | {'excluded': excluded, 'slot': rows}, self.mesh)
    excluded, slot = (batch.pop(name) for name in ('excluded', 'slot'))
    with jax.set_mesh(self.mesh):
      return jax.device_get(self._search(trie, batch, excluded, slots.rows(slot)))

  def check_exact(self, requests, found) -> None:
    """Compares the items and scores with the oracle."""
    codes, popularity, prompts, excluded, within = requests
    for b, (items, scores) in enumerate(zip(*found, strict=True)):
      expected = oracle.search(
        self.toy.log_probs(int(prompts[b])),
        *(codes, self.widths, self.beams, excluded[b].tolist(), within[b]),
        popularity=popularity,
        ranks_first=self.ranks_first,
      )
      assert [
        (i, s) for i, s in zip(items.tolist(), scores.tolist(), strict=True) if i >= 0
      ] == expected
      assert (items[len(expected) :] == -1).all() and np.isneginf(scores[len(expected) :]).all()


def check_valid(requests, items_BM) -> None:
  """Checks that every returned item is in the catalogue and in the mask, not excluded, and returned once."""
  codes, _, _, excluded, within = requests
  for items, hidden, inside in zip(items_BM.tolist(), excluded.tolist(), within, strict=True):
    items = [i for i in items if i != -1]
    allowed = set(range(len(codes))) if inside is None else inside
    assert len(set(items)) == len(items)
    assert set(items) <= allowed - set(hidden)


@pytest.mark.parametrize(
  ('sizes', 'beams', 'shares', 'ranks_first', 'spread', 'before'),
  [
    ((4, 6, 3), 5, True, False, 4096, ()),
    ((4, 6, 3), 48, True, False, 8, ()),
    ((4, 6, 3), 7, True, True, 4096, (2, 11)),
    ((3,) * 8, 6, False, False, 16, ()),
    ((40,), 9, False, False, 4096, ()),
  ],
)
def test_the_search_equals_a_beam_search_in_python(
  sizes, beams, shares, ranks_first, spread, before
):
  world = World(sizes, 48, beams, shares, ranks_first, spread, before)
  for seed, kind in enumerate(world.kinds):
    requests = world.requests(seed, kind, 16)
    found = world.search(*requests)
    world.check_exact(requests, found)
    check_valid(requests, found[0])
  assert world._search._cache_size() == 1


def test_a_beam_as_wide_as_the_catalogue_scores_every_item():
  world = World((4, 6, 3), 48, 48, shares=False)
  for seed, kind in enumerate(world.kinds):
    requests = codes, popularity, prompts, excluded, within = world.requests(seed + 50, kind, 12)
    for b, (items, scores) in enumerate(zip(*world.search(*requests), strict=True)):
      log_probs = world.toy.log_probs(int(prompts[b]))
      exact = [
        sum(float(log_probs(tuple(row[:level]))[row[level]]) for level in range(3))
        for row in codes.tolist()
      ]
      inside = range(len(codes)) if within[b] is None else within[b]
      left = sorted(
        set(inside) - set(excluded[b].tolist()),
        key=lambda i: (-exact[i], codes[i].tolist(), -popularity[i], i),
      )
      # Of equal scores the order is that of the beams, so ties are compared by score.
      assert sorted(i for i in items.tolist() if i >= 0) == sorted(left)
      assert scores[: len(left)].tolist() == [exact[i] for i in left]
      assert [exact[i] for i in items[: len(left)]] == scores[: len(left)].tolist()


def test_an_index_that_the_devices_of_a_mesh_share_gives_the_same_items(monkeypatch):
  monkeypatch.setattr(mesh_lib, 'INDEX_BYTES', 0)
  world = World((4, 8, 4), 64, 6, mesh=mesh_lib.make_mesh(Mesh(data=2, tensor=4)))
  assert world.mesh.size == 8
  for seed, kind in enumerate(world.kinds):
    requests = world.requests(seed, kind, 16)
    world.check_exact(requests, world.search(*requests))
  codes = world.requests(0, 'random', 16)[0]
  trie = Trie.from_table(SidTable(codes, world.sizes, 'random', 'keep')).padded(world.capacity)
  parts = jax.tree.map(lambda x: mesh_lib.index_sharding(x, world.mesh).spec, trie)
  assert parts.child_code[1] == parts.leaf_items == parts.first_child[2] == P('tensor')


@pytest.mark.soak
@pytest.mark.parametrize('levels', [1, 2, 3, 4, 8])
def test_a_hundred_thousand_requests_get_valid_items_once(levels):
  sizes = {1: (90,), 2: (12, 9), 3: (6, 5, 7), 4: (4, 5, 6, 3), 8: (2, 3) * 4}[levels]
  world = World(sizes, 90, 10, shares=levels in (1, 3, 4), ranks_first=levels == 4)
  for seed in range(50):
    requests = world.requests(seed, world.kinds[seed % len(world.kinds)], 400)
    found = world.search(*requests)
    check_valid(requests, found[0])
    few = [
      x if n < 2 else x[:20] for n, x in enumerate(requests)
    ]  # the oracle takes a millisecond a request
    world.check_exact(few, [x[:20] for x in found])
