import numpy as np
import pytest

from recjax.sids import grouping


@pytest.mark.parametrize('seed', range(6))
def test_order_groups_and_places_equal_sorted_tuples(seed):
  rng = np.random.default_rng(seed)
  levels = int(rng.integers(1, 5))
  codes = rng.integers(-2, 3, (int(rng.integers(1, 90)), levels)).astype(np.int32)
  rows = [tuple(row) for row in codes.tolist()]
  order, is_first = grouping.ordered(codes)
  want = sorted(range(len(rows)), key=lambda i: (rows[i], i))
  assert order.tolist() == want
  assert is_first.tolist() == [
    n == 0 or rows[want[n]] != rows[want[n - 1]] for n in range(len(rows))
  ]
  distinct = sorted(set(rows))
  group, sizes = grouping.groups(codes)
  assert group.tolist() == [distinct.index(row) for row in rows]
  assert sizes.tolist() == [rows.count(row) for row in distinct]
  assert grouping.places(codes).tolist() == [rows[:i].count(row) for i, row in enumerate(rows)]


def test_more_codes_than_64_bits_and_great_keys_keep_the_order():
  rng = np.random.default_rng(0)
  for codes in (
    rng.integers(0, 2, (50, 9)) * (2**31 - 1),  # 279 bits
    rng.integers(0, 2, (50, 2)) * (2**31 - 2),  # 62 bits, without room for the row number
  ):
    rows = [tuple(row) for row in codes.tolist()]
    order, _ = grouping.ordered(codes)
    assert order.tolist() == sorted(range(50), key=lambda i: (rows[i], i))


@pytest.mark.parametrize('shape', [(0, 3), (4, 0)])
def test_no_rows_and_no_columns(shape):
  group, sizes = grouping.groups(np.zeros(shape, np.int32))
  assert group.tolist() == [0] * shape[0]
  assert sizes.tolist() == ([shape[0]] if shape[0] else [])
