"""Numbered ids, compared with Python's sets and dictionaries."""

import numpy as np
import pytest

from data_prep.log import numbering

# Lengths, cases, accents, characters outside the 16-bit plane, blanks and the empty text.
NAMES = ['b', 'a', 'B', 'ab', 'é', 'z', '\U0001f600', '￿', '', ' ', '10', '9', 'a' * 40]


@pytest.mark.parametrize('kind', [str, object, np.dtypes.StringDType()])
def test_factorise_sorts_by_code_points_over_all_columns(kind):
  rng = np.random.default_rng(0)
  columns = [np.array(NAMES, kind)[rng.integers(0, n, 300)] for n in (5, len(NAMES))]
  columns.append(np.array([], kind))
  names, codes = numbering.factorise(*columns)
  assert names == sorted({str(name) for column in columns for name in column})
  for column, numbers in zip(columns, codes, strict=True):
    assert numbers.dtype == np.int32
    assert [names[n] for n in numbers] == [str(name) for name in column]


def test_factorise_of_an_empty_column():
  names, codes = numbering.factorise(np.array([], str))
  assert names == []
  assert codes[0].shape == (0,)


@pytest.mark.parametrize(
  ('column', 'message'),
  [
    (np.array(['a', None], object), 'must be text'),
    (np.array(['a', 1], object), 'must be valid text'),
    (np.array([1, 2]), 'must be text; got an array of int64'),
    (np.array([b'a']), 'must be text; got an array of binary'),
    (np.array(['a', '\ud800']), 'must be valid text'),
  ],
)
def test_ids_that_are_not_valid_text_are_rejected(column, message):
  with pytest.raises(ValueError, match=message):
    numbering.factorise(column)


@pytest.mark.parametrize('more', [(), ('c', 'new', 'b', '')])
def test_renumber_drops_unused_ids_and_adds_extra_ids(more):
  ids = ['a', 'b', 'c', 'd', 'e']
  columns = [np.array([1, 3, 1], np.int32), np.array([4], np.int32), np.array([], np.int32)]
  left, (first, second, third) = numbering.renumber(ids, columns, more)
  assert left == sorted({'b', 'd', 'e', *more})
  assert [left[n] for n in first] == ['b', 'd', 'b']
  assert [left[n] for n in second] == ['e']
  assert third.shape == (0,)
