import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.decode import trie as trie_lib
from recjax.sids import table as table_lib
from recjax.sids.quantizers import collisions

SIZES = (4, 3, 5)


def _table(seed, items=40):
  codes = np.random.default_rng(seed).integers(0, SIZES, (items, len(SIZES))).astype(np.int32)
  codes, size = collisions.deduplicate(codes)
  return table_lib.SidTable(codes, (*SIZES, size), 'q')


def _items_of(trie, sid):
  """Walks the arrays in plain Python; an empty list where the trie ends."""
  node = 0
  for level, code in enumerate(sid):
    begin, end = trie.first_child[level][node : node + 2].tolist()
    codes = trie.child_code[level][begin:end].tolist()
    assert codes == sorted(set(codes))
    if code not in codes:
      return []
    node = begin + codes.index(code)
  return trie.leaf_items[trie.leaf_offsets[node] : trie.leaf_offsets[node + 1]].tolist()


@pytest.mark.parametrize('seed', range(3))
def test_the_trie_holds_exactly_the_items(seed):
  table = _table(seed)
  trie = trie_lib.Trie.from_table(table)
  items = {tuple(row): i for i, row in enumerate(table.codes_IL.tolist())}
  for sid in itertools.product(*map(range, table.codes_per_level)):
    assert _items_of(trie, sid) == ([items[sid]] if sid in items else [])


def test_nodes_are_the_distinct_prefixes_in_lexicographic_order():
  table = _table(0)
  trie = trie_lib.Trie.from_table(table)
  rows = table.codes_IL.tolist()
  for level in range(table.levels):
    prefixes = sorted({tuple(row[:level]) for row in rows})
    longer = sorted({tuple(row[: level + 1]) for row in rows})
    assert trie.num_nodes[level] == len(prefixes)
    assert trie.child_code[level].tolist() == [prefix[-1] for prefix in longer]
    branches = [sum(p[:-1] == prefix for p in longer) for prefix in prefixes]
    assert np.diff(trie.first_child[level]).tolist() == branches
    assert trie.max_branch[level] == max(branches)
    assert trie.first_child[level].dtype == trie.child_code[level].dtype == np.int32
  assert [rows[i] for i in trie.leaf_items] == sorted(rows)


def test_items_with_equal_sids_share_a_leaf_in_item_order():
  codes = np.array([[1, 0], [0, 2], [1, 0], [0, 2], [0, 1], [1, 0]], np.int32)
  table = table_lib.SidTable(codes, (2, 3), 'q', collisions='keep')
  trie = trie_lib.Trie.from_table(table)
  assert trie.max_leaf_items == 3
  assert _items_of(trie, (1, 0)) == [0, 2, 5]
  assert _items_of(trie, (0, 2)) == [1, 3]
  assert _items_of(trie, (0, 0)) == []


def test_items_of_a_leaf_are_sorted_by_popularity_then_index():
  codes = np.array([[1, 0], [0, 2], [1, 0], [0, 2], [0, 1], [1, 0]], np.int32)
  table = table_lib.SidTable(codes, (2, 3), 'q', collisions='keep')
  trie = trie_lib.Trie.from_table(table, popularity_I=np.array([4, 1, 9, 2, 50, 4]))
  assert _items_of(trie, (1, 0)) == [2, 0, 5]
  assert _items_of(trie, (0, 2)) == [3, 1]
  for leaf in range(trie.num_nodes[-1]):
    begin, end = trie.leaf_offsets[leaf : leaf + 2]
    assert set(trie.item_leaves[trie.leaf_items[begin:end]].tolist()) == {leaf}
  leaves = jnp.array([[2, 0], [1, 2]], jnp.int32)
  items, exists = map(np.asarray, jax.jit(lambda trie, s: trie.items(s))(trie, leaves))
  assert items.shape == exists.shape == (2, 2, 3)
  for where in np.ndindex(2, 2):
    begin, end = trie.leaf_offsets[int(leaves[where]) :][:2].tolist()
    assert items[where][exists[where]].tolist() == trie.leaf_items[begin:end].tolist()


def test_children_under_jit_equal_the_arrays():
  trie = trie_lib.Trie.from_table(_table(1))
  children = jax.jit(lambda trie, level, nodes: trie.children(level, nodes), static_argnums=1)
  for level in range(trie.levels):
    nodes = jnp.arange(trie.num_nodes[level], dtype=jnp.int32)
    for shaped in (nodes, jnp.stack([nodes, nodes[::-1]])):
      child_nodes, codes, is_child = map(np.asarray, children(trie, level, shaped))
      assert codes.shape == (*shaped.shape, trie.max_branch[level])
      for where in np.ndindex(*shaped.shape):
        begin, end = trie.first_child[level][int(shaped[where]) :][:2].tolist()
        assert child_nodes[where][is_child[where]].tolist() == list(range(begin, end))
        expected = trie.child_code[level][begin:end].tolist()
        assert codes[where][is_child[where]].tolist() == expected


def test_the_trie_is_a_pytree_with_static_sizes():
  trie = trie_lib.Trie.from_table(_table(2))
  doubled = jax.tree.map(lambda x: x, trie)
  assert doubled.max_branch == trie.max_branch
  assert len(jax.tree.leaves(trie)) == 2 * trie.levels + 3
  other = trie_lib.Trie.from_table(_table(3))
  assert jax.tree.structure(trie) != jax.tree.structure(other)


def test_one_item_makes_a_trie_and_none_is_refused():
  one = trie_lib.Trie.from_table(table_lib.SidTable(np.array([[3, 0]], np.int32), (4, 2), 'q'))
  assert one.num_nodes == (1, 1, 1) and one.leaf_items.tolist() == [0]
  with pytest.raises(ValueError, match='at least one item'):
    trie_lib.Trie.from_table(table_lib.SidTable(np.zeros((0, 2), np.int32), (4, 2), 'q'))


@pytest.mark.parametrize('shares', [False, True])
def test_catalogues_of_a_capacity_have_one_shape_and_the_same_children(shares):
  codes = np.random.default_rng(0).integers(0, SIZES, (50, 3)).astype(np.int32)
  tables = [table_lib.SidTable(codes[:n], SIZES, 'q', 'keep') for n in (40, 23)]
  if not shares:
    tables = [table_lib.SidTable(np.unique(t.codes_IL, axis=0), SIZES, 'q', 'none') for t in tables]
  tries = [trie_lib.Trie.from_table(table) for table in tables]
  capacity = trie_lib.Capacity.of(tries[0], shares)
  shapes = set()
  find = jax.jit(lambda trie, codes: trie.find(codes))
  every = np.array(list(itertools.product(range(-1, 6), range(-1, 4), range(-1, 6))), np.int32)
  for table, trie in zip(tables, tries, strict=True):
    padded = trie.padded(capacity)
    shapes.add(str(jax.tree.map(lambda x: (x.shape, x.dtype), padded)))
    assert padded.num_nodes == capacity.nodes and len(padded.leaf_items) == capacity.items
    first_item = {tuple(row): i for i, row in reversed(list(enumerate(table.codes_IL.tolist())))}
    found = np.asarray(find(padded, every)).tolist()
    assert found == [first_item.get(tuple(row), -1) for row in every.tolist()]
    for level, nodes in enumerate(trie.num_nodes[:-1]):
      offsets, codes = padded.first_child[level], padded.child_code[level]
      np.testing.assert_array_equal(offsets[: nodes + 1], trie.first_child[level])
      assert (offsets[nodes:] == trie.num_nodes[level + 1]).all()  # padding has no children
      assert len(offsets) > capacity.nodes[level]
      np.testing.assert_array_equal(codes[: trie.num_nodes[level + 1]], trie.child_code[level])
    np.testing.assert_array_equal(padded.item_leaves[: table.num_items], trie.item_leaves)
  assert len(shapes) == 1
  assert find._cache_size() == 1


def test_a_catalogue_that_exceeds_the_capacity_is_refused_in_one_line():
  small = trie_lib.Trie.from_table(_table(1))
  capacity = trie_lib.Capacity.of(small, shares=False, room=1.0)
  large = trie_lib.Trie.from_table(_table(2, items=2000))
  with pytest.raises(ValueError, match=r'must fit the capacity .* at most \d+ items; it has 2,000'):
    large.padded(capacity)
  narrow = capacity._replace(branch=(4, 2, 5, 1))
  with pytest.raises(ValueError, match='at most 2 codes after a prefix of 1 codes; it has 3'):
    small.padded(narrow)
  codes = np.zeros((3, 2), np.int32)
  shared = trie_lib.Trie.from_table(table_lib.SidTable(codes, (2, 2), 'q', 'keep'))
  with pytest.raises(ValueError, match='at most 1 items with one semantic ID; it has 3'):
    shared.padded(trie_lib.Capacity(8, (1, 2, 8), (2, 2), 1))
