"""Ragged arrays, compared with lists of lists."""

import numpy as np

from recjax.data.sequences import Sequences, blocks, offsets_of

ROWS = [[3, 1], [], [4, 1, 5, 9], [2]]


def lists(sequences):
  return [row.tolist() for row in sequences]


def test_offsets_are_cumulative_lengths():
  assert offsets_of([2, 0, 4]).tolist() == [0, 2, 2, 6]
  assert offsets_of([]).tolist() == [0]
  assert offsets_of(np.array([1], np.int32)).dtype == np.int64


def test_operations_equal_those_of_lists():
  sequences = Sequences.from_lists(ROWS)
  assert lists(sequences) == ROWS
  assert sequences.lengths.tolist() == [2, 0, 4, 1]
  assert sequences.places.tolist() == [0, 1, 0, 1, 2, 3, 0]
  assert lists(sequences.take(np.array([2, 1, 2, 0]))) == [ROWS[2], [], ROWS[2], ROWS[0]]
  assert lists(sequences.cut(2)) == [[3, 1], [], [4, 1], [2]]
  assert lists(sequences.append(np.array([7, 8, 9, 6]))) == [
    [3, 1, 7],
    [8],
    [4, 1, 5, 9, 9],
    [2, 6],
  ]


def test_blocks_hold_all_rows_in_order_up_to_the_limit():
  sizes = np.array([0, 3, 9, 2, 2, 0, 1, 0, 7])
  found = [block.tolist() for block in blocks(sizes, 5)]
  assert found == [[0, 1], [2], [3, 4, 5, 6, 7], [8]]
  found = [block.tolist() for block in blocks(sizes, 9, most_rows=3)]
  assert found == [[0, 1], [2], [3, 4, 5], [6, 7, 8]]
  assert list(blocks(sizes[:0], 5)) == list(blocks(sizes[:0], 5, 3)) == []
