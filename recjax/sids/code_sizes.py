"""The number of codes of each quantized level: chosen from the size of a catalogue, or checked against it."""

import math

from recjax.schema.checks import check
from recjax.schema.sids import Sids

SMALL = 2048  # items up to which two levels distinguish most of them
MOST = 256  # codes of a level at most, as in TIGER (section 3.1)


def for_catalogue(num_items: int) -> tuple[int, ...]:
  """Returns the codes of each level for a catalogue.

  Up to SMALL items there are two levels, for more items three. A level has a power of two of codes: a quarter of the
  items, but at least twice their square root, so that two levels have room to tell most items apart. 54 items get
  (16, 16), 300 get (64, 64), 20,000 get (256, 256, 256).

  Raises:
    ValueError: the catalogue is empty.
  """
  check(num_items > 0, 'the catalogue must hold an item', num_items, 'data.k_core to less')
  quarter = math.floor(math.log2(num_items / 4))
  room = math.ceil(math.log2(2 * math.sqrt(num_items)))
  size = min(2 ** max(quarter, room), 2 ** math.floor(math.log2(num_items)), MOST)
  return (size,) * (2 if num_items <= SMALL else 3)


def of_level(sids: Sids, num_items: int) -> tuple[int, ...]:
  """Returns the codes of each level: `sids.codes`, or those chosen from the size of the catalogue.

  Raises:
    ValueError: they do not fit the catalogue.
  """
  if sids.quantizer != 'item':
    codes = sids.codes or for_catalogue(num_items)
    check_codes(codes, num_items)
    return codes
  codes = sids.codes or (num_items,)
  check(
    codes[0] >= num_items,
    f"sids.codes must give each of the {num_items} items a code for sids.quantizer='item'",
    codes,
    'sids.codes="()", which gives a code to every item of the catalogue',
  )
  return codes


def check_codes(codes: tuple[int, ...], num_items: int) -> None:
  """Raises a ValueError unless a quantizer can be fitted: an item or more for every code of a level."""
  if num_items < max(codes):
    raise ValueError(
      f'sids.codes must not give a level more codes than the catalogue has items ({num_items}); got {codes}. Set '
      '--config.sids.codes="()", which chooses them from the catalogue'
    )
