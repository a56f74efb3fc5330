"""Tables that grow: known items keep their SIDs, new ones find room."""

import itertools

import numpy as np
import pytest

from recjax.sids.extension import extend, extend_items, nearest_codes
from recjax.sids.table import SidTable


def ids(count):
  return [f'i{n}' for n in range(count)]


def test_new_items_take_the_first_free_code_of_their_group():
  codes = np.array([[0, 0], [0, 1], [1, 0], [0, 3]], np.int32)
  table = SidTable(codes, (3, 4), 'residual_kmeans', codebooks='of a day')
  rows = np.array([-1, 3, 0, -1, -1, 2])  # row 1 is gone, its SID stays taken
  new = np.array([[0], [2], [1]], np.int32)
  got = extend(table, rows, new, None, ids(6))
  assert got.codes_IL.tolist() == [[0, 2], [0, 3], [0, 0], [2, 0], [1, 1], [1, 0]]
  assert got.code_space_hash == table.code_space_hash
  assert (got.codebooks, got.collisions) == ('of a day', 'deduplicate')


def test_an_item_of_a_full_group_takes_the_nearest_codes_with_a_free_sid():
  table = SidTable(np.array([[0, 0], [0, 1], [2, 0]], np.int32), (3, 2), 'q')
  rows = np.array([0, 1, 2, -1, -1, -1])
  order = [(0,), (2,), (1,)]
  got = extend(table, rows, np.zeros((3, 1), np.int32), lambda n: iter(order), ids(6))
  assert got.codes_IL[3:].tolist() == [[2, 1], [1, 0], [1, 1]]
  rows = np.append(rows, -1)
  with pytest.raises(ValueError, match=r"no SID is free for the new item 'i6': all SIDs are taken"):
    extend(table, rows, np.zeros((4, 1), np.int32), lambda n: iter(order), ids(7))
  with pytest.raises(
    ValueError, match=r"new item 'i3': every SID that begins with the codes \[0\]"
  ):
    extend(table, rows, np.zeros((4, 1), np.int32), None, ids(7))


def test_without_a_deduplication_level_a_new_item_takes_the_nearest_free_sid():
  table = SidTable(np.array([[0, 0], [0, 1]], np.int32), (2, 2), 'q', 'sinkhorn')
  order = [(0, 1), (0, 0), (1, 0), (1, 1)]
  got = extend(
    table, np.array([-1, 0, -1]), np.array([[0, 1]] * 2, np.int32), lambda n: iter(order), ids(3)
  )
  assert got.codes_IL.tolist() == [[1, 0], [0, 0], [1, 1]]


def test_new_items_share_sids_if_collisions_are_kept():
  table = SidTable(np.array([[0, 0], [0, 0]], np.int32), (2, 2), 'q', 'keep')
  got = extend(table, np.array([1, -1]), np.array([[0, 0]], np.int32), None, ids(2))
  assert got.codes_IL.tolist() == [[0, 0], [0, 0]]
  assert got.sharing_items == 2


def test_extending_without_new_items_keeps_the_table():
  table = SidTable(np.array([[0, 0], [0, 1], [1, 0]], np.int32), (2, 2), 'q')
  got = extend(table, np.array([2, 0]), np.zeros((0, 1), np.int32), None, ids(2))
  assert got.codes_IL.tolist() == [[1, 0], [0, 0]]


def test_nearest_codes_are_all_codes_in_the_order_of_the_distances():
  rng = np.random.default_rng(0)
  books = [rng.normal(size=(size, 3)).astype(np.float32) for size in (3, 4, 2)]
  latent = rng.normal(size=3).astype(np.float32)

  def rank(codes):  # by brute force: at every level the place among the level's distances
    left, places = latent.astype(np.float64), []
    for book, code in zip(books, codes, strict=True):
      distances = np.linalg.norm(book - left, axis=1)
      places.append(int((distances < distances[code]).sum()))
      left = left - book[code]
    return places

  got = list(nearest_codes(latent, books))
  assert got == sorted(itertools.product(range(3), range(4), range(2)), key=rank)


def test_codes_of_items_are_kept_and_new_items_get_unused_ones():
  table = SidTable.of_items(ids(3), 5)
  got = extend_items(
    table, np.array([2, -1, 0, -1]), ids(4)
  )  # item 1 is gone, its code stays taken
  assert got.codes_IL.tolist() == [[2], [3], [0], [4]]
  assert got.code_space_hash == table.code_space_hash
  with pytest.raises(
    ValueError,
    match=r"no code is free for the new item 'i3': the table has 5 codes, 2 of them unused, and the log has 3 new",
  ):
    extend_items(table, np.array([0, -1, -1, -1]), ids(4))


def test_codes_of_items_belong_to_their_items():
  table, other = SidTable.of_items(['a', 'b'], 2), SidTable.of_items(['b', 'a'], 2)
  assert table.code_space_hash != other.code_space_hash
  assert (table.statistics()['largest_group'], table.sharing_items, table.quantized_levels) == (
    1,
    0,
    1,
  )
