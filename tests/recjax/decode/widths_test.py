"""Beams by level: one number, or one a level."""

import numpy as np
import pytest

from recjax.decode.trie import Trie
from recjax.decode.widths import by_level, widths_of
from recjax.sids.table import SidTable


def test_widths_are_one_number_or_one_a_level():
  assert by_level((), 7, 4) == 7
  assert by_level((30,), 7, 4) == (30, 30, 30, 7)
  assert by_level((5, 6, 9), 7, 4) == (5, 6, 9, 7)
  rule = r'eval.beam_widths must be empty, one number, or 3.*got \(5, 6\)'
  with pytest.raises(ValueError, match=rule):
    by_level((5, 6), 7, 4)


def test_a_level_has_no_more_beams_than_prefixes():
  codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0]], np.int32)
  trie = Trie.from_table(SidTable(codes, (3, 3), 'random'))
  assert widths_of(trie, 3) == (2, 3)
  assert widths_of(trie, (1, 9)) == (1, 4)
