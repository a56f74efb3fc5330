"""Numbered ids, compared with Python's sets and dictionaries."""

import numpy as np
import pyarrow as pa
import pytest

from data_prep.log import numbering
from data_prep.log.ids import Ids, Names

# Lengths, cases, accents, characters outside the 16-bit plane, blanks and the empty text.
NAMES = ['b', 'a', 'B', 'ab', 'é', 'z', '\U0001f600', '￿', '', ' ', '10', '9', 'a' * 40]


@pytest.mark.parametrize('kind', [str, object, np.dtypes.StringDType()])
def test_factorise_sorts_by_code_points_over_all_columns(kind):
  rng = np.random.default_rng(0)
  columns = [np.array(NAMES, kind)[rng.integers(0, n, 300)] for n in (5, len(NAMES))]
  columns.append(np.array([], kind))
  columns = [Ids.of(column) for column in columns]
  names, numbers = numbering.factorise(*columns)
  assert names == sorted({name for column in columns for name in column.tolist()})
  for column, of_texts in zip(columns, numbers, strict=True):
    assert of_texts.dtype == np.int32
    assert [names[n] for n in of_texts[column.codes].tolist()] == column.tolist()


def test_factorise_of_an_empty_column():
  names, numbers = numbering.factorise(Ids.of(np.array([], str)))
  assert names == []
  assert numbers[0].shape == (0,)


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
    Ids.of(column)


@pytest.mark.parametrize('more', [(), ('c', 'new', 'b', '')])
def test_renumber_drops_unused_ids_and_adds_extra_ids(more):
  ids = Names(pa.array(['a', 'b', 'c', 'd', 'e'], pa.large_string()))
  is_used = np.array([False, True, False, True, True])
  left, numbers = numbering.renumber(ids, is_used, more)
  assert left == sorted({'b', 'd', 'e', *more})
  assert [left[int(n)] for n in numbers[is_used]] == ['b', 'd', 'e']
  assert (numbers[~is_used] == -1).all()
