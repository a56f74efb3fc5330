import collections

import numpy as np
import pytest

from recjax.sids.quantizers import collisions


@pytest.mark.parametrize('seed', range(3))
def test_deduplicate_counts_in_item_order(seed):
  codes = np.random.default_rng(seed).integers(0, 4, (100, 3)).astype(np.int32)
  got, size = collisions.deduplicate(codes)
  counter = collections.Counter()
  for before, after in zip(codes.tolist(), got.tolist(), strict=True):
    assert after == [*before, counter[tuple(before)]]
    counter[tuple(before)] += 1
  assert size == 2 * max(counter.values())
  assert got.dtype == np.int32


def test_deduplicate_without_collisions_adds_zeros():
  got, size = collisions.deduplicate(np.array([[1, 0], [0, 1]], np.int32))
  assert got.tolist() == [[1, 0, 0], [0, 1, 0]]
  assert size == 2
