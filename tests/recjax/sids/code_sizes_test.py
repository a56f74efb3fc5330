"""Codes a level from the size of the catalogue."""

import pytest

from recjax.schema.sids import Sids
from recjax.sids import code_sizes


@pytest.mark.parametrize(
  ('items', 'codes'),
  [
    (1, (1, 1)),
    (5, (4, 4)),
    (26, (16, 16)),
    (54, (16, 16)),
    (300, (64, 64)),
    (1000, (128, 128)),
    (2048, (256, 256)),
    (20_000, (256, 256, 256)),
  ],
)
def test_codes_grow_with_the_catalogue(items, codes):
  assert code_sizes.for_catalogue(items) == codes


def test_every_catalogue_has_an_item_for_every_code():
  for items in (*range(1, 3000), 10**6):
    codes = code_sizes.for_catalogue(items)
    code_sizes.check_codes(codes, items)
    assert max(codes) == 256 or items < 16 or max(codes) ** 2 >= 4 * items
    assert max(codes) <= max(items / 4, 4 * items**0.5)


def test_too_many_codes_and_an_empty_catalogue_are_refused():
  with pytest.raises(
    ValueError, match=r'more codes than the catalogue has items \(54\); got \(16, 64\)'
  ):
    code_sizes.check_codes((16, 64), 54)
  with pytest.raises(ValueError, match=r'the catalogue must hold an item; got 0'):
    code_sizes.for_catalogue(0)


def test_an_item_has_a_code_of_its_own():
  assert code_sizes.of_level(Sids(quantizer='item', codes=()), 54) == (54,)
  assert code_sizes.of_level(Sids(quantizer='item', codes=(60,)), 54) == (60,)
  assert code_sizes.of_level(Sids(codes=()), 54) == (16, 16)
  with pytest.raises(ValueError, match=r'must give each of the 54 items a code .* got \(53,\)'):
    code_sizes.of_level(Sids(quantizer='item', codes=(53,)), 54)
  with pytest.raises(
    ValueError, match=r'sids.codes must be \(\) or one number .* got \(256, 256, 256\)'
  ):
    Sids(quantizer='item')
