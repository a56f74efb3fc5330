"""Lists of neighbours compared with sorted Python lists."""

import numpy as np
import pytest

from recjax.data import neighbours
from recjax.data.neighbours import Neighbours
from recjax.data.sequences import Sequences


def _make(lists, strengths):
  return Neighbours(
    Sequences.from_lists(lists), np.concatenate([[], *strengths]).astype(np.float32)
  )


def _lists(made):
  offsets = made.items.offsets
  return [
    list(
      zip(made.items[i].tolist(), made.strengths[offsets[i] : offsets[i + 1]].tolist(), strict=True)
    )
    for i in range(len(made))
  ]


@pytest.mark.parametrize('at_once', [1, 50, 1 << 22])
@pytest.mark.parametrize('k', [1, 3, 100])
def test_strongest_equals_a_sort_by_strength_and_rank(monkeypatch, k, at_once):
  monkeypatch.setattr(neighbours, '_ENTRIES_AT_ONCE', at_once)
  rng = np.random.default_rng(0)
  I = 40  # noqa: E741
  lists = [rng.permutation(I)[: rng.integers(0, 20)].tolist() for _ in range(60)]
  values = [-3.5, -1e-30, -0.0, 0.0, 1e-30, 2.0, 16777216.0]
  strengths = [rng.choice(values, len(row)).tolist() for row in lists]
  ranks_I = rng.permutation(I)
  got = _make(lists, strengths).strongest(k, ranks_I)
  assert got.items.values.dtype == np.int32 and got.strengths.dtype == np.float32
  expected = []
  for row, values in zip(lists, strengths, strict=True):
    order = sorted(range(len(row)), key=lambda n: (-values[n], ranks_I[row[n]]))
    expected.append([(row[n], float(np.float32(values[n]))) for n in order[:k]])
  assert _lists(got) == expected


def test_strongest_of_empty_lists():
  assert _lists(_make([], []).strongest(3, np.arange(5))) == []
  assert _lists(_make([[], []], [[], []]).strongest(3, np.arange(5))) == [[], []]
  assert _lists(_make([[0]], [[1.0]]).strongest(3, np.arange(1))) == [[(0, 1.0)]]


def test_more_rows_than_one_key_holds_are_sorted_in_blocks():
  items = 1 << 22  # which leaves 10 bits for the row
  lists = [[5, items - 1, 0]] * 3000
  got = _make(lists, [[1.0, 2.0, 1.0]] * 3000).strongest(2, np.arange(items)[::-1])
  assert _lists(got) == [[(items - 1, 2.0), (5, 1.0)]] * 3000


def test_take_keep_first_and_concatenate():
  made = _make([[1, 2], [], [3, 4, 5]], [[0.1, 0.2], [], [0.3, 0.4, 0.5]])
  third, first = [(3, 0.3), (4, 0.4), (5, 0.5)], [(1, 0.1), (2, 0.2)]

  def rounded(made):
    return [[(i, round(s, 6)) for i, s in row] for row in _lists(made)]

  assert rounded(made.take(np.array([2, 1, 0, 2]))) == [third, [], first, third]
  assert rounded(made.keep(made.items.values % 2 == 1)) == [[(1, 0.1)], [], [(3, 0.3), (5, 0.5)]]
  assert rounded(made.first(1)) == [[(1, 0.1)], [], [(3, 0.3)]]
  assert rounded(neighbours.concatenate([made, made.first(1)])) == [
    *(first, [], third),
    *([(1, 0.1)], [], [(3, 0.3)]),
  ]
