import types

import numpy as np
import pytest

from recjax.data.sequences import Sequences
from recjax.metrics import reachable


@pytest.mark.parametrize('block', [1, 7, 1000])
def test_count_equals_a_loop(monkeypatch, block):
  monkeypatch.setattr(reachable, 'BLOCK_ROWS', block)
  rng = np.random.default_rng(0)
  histories = [rng.integers(0, 12, rng.integers(0, 9)).tolist() for _ in range(50)]
  targets = rng.integers(0, 12, 50).astype(np.int32)
  expected = sum(target in row for row, target in zip(histories, targets, strict=True))
  assert 0 < expected < 50
  assert reachable.count_unreachable(Sequences.from_lists(histories), targets) == expected


def test_empty_histories_have_no_unreachable_targets():
  empty = Sequences.from_lists([[], []])
  assert reachable.count_unreachable(empty, np.zeros(2, np.int32)) == 0
  assert reachable.count_unreachable(Sequences.from_lists([]), np.zeros(0, np.int32)) == 0


def test_the_count_of_the_preparation_comes_first():
  rows = Sequences.from_lists([[0, 1], [2]])
  log = types.SimpleNamespace(
    statistics=None, seen=lambda _: rows, targets=lambda _: np.array([1, 1])
  )
  assert reachable.unreachable_targets(log, 'test') == 1
  log.statistics = {'unreachable_targets': {'validation': 0, 'test': 7}}
  assert [reachable.unreachable_targets(log, split) for split in ('validation', 'test')] == [0, 7]
