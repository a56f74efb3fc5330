"""A table for a changed catalogue: known items keep their SIDs, new ones join them."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses

import numpy as np

from recjax.sids.table import SidTable

Codes = tuple[int, ...]


def extend(
  table: SidTable,
  rows_I: np.ndarray,
  codes_NQ: np.ndarray,
  others: Callable[[int], Iterator[Codes]] | None,
  item_ids: Sequence[str],
) -> SidTable:
  """The table of today's items, in the code space of an earlier one.

  A new item takes its quantized codes as they are where items may share a SID. Otherwise it takes the
  first de-duplication code that is free there; where there is none, it goes to the nearest codes with
  room. A SID of the earlier table is never given to another item, not even if its own is gone.

  Args:
    table: the earlier table.
    rows_I: int `[I]`, the row that each of today's items has in it; -1 for new items.
    codes_NQ: int32, the quantized codes of the new items, in item order.
    others: gives of the n-th new item all quantized codes, nearest first; None where the codes are
      given and cannot be changed.
    item_ids: raw ids of today's items.

  Returns:
    The table: same levels, sizes, quantizer and codebooks, and so the same `code_space_hash`.

  Raises:
    ValueError: there is no room for an item.
  """
  codes_IL = np.empty((len(rows_I), table.levels), np.int32)
  codes_IL[rows_I >= 0] = table.codes_IL[rows_I[rows_I >= 0]]
  new = np.flatnonzero(rows_I < 0)
  if table.collisions == 'keep':
    codes_IL[new] = codes_NQ
    return dataclasses.replace(table, codes_IL=codes_IL)
  taken = set(map(tuple, table.codes_IL.tolist()))
  room = _Room(taken, table.codes_per_level[-1] if table.deduplicated else None)
  for n, item in enumerate(new.tolist()):
    sid = room.take(tuple(codes_NQ[n].tolist()))
    if sid is None and others is not None:
      sid = next(filter(None, map(room.take, others(n))), None)
    if sid is None:
      codes = codes_NQ[n].tolist()
      raise ValueError(
        f'there is no room for the new item {item_ids[item]!r}: every SID that begins with the codes '
        f'{codes} is taken. Build the SIDs anew in a prepared folder of their own, without '
        '--config.sids.extend, and train a model for them'
        if others is None
        else f'there is no room for the new item {item_ids[item]!r}: all SIDs are taken. Build new '
        'ones with larger --config.sids.codes, without --config.sids.extend'
      )
    codes_IL[item] = sid
  return dataclasses.replace(table, codes_IL=codes_IL)


def nearest_codes(latent_Z: np.ndarray, codebooks: Sequence[np.ndarray]) -> Iterator[Codes]:
  """All codes of a residual quantizer for one latent vector, nearest first at every level.

  The first are those that the quantizer assigns; then the last level's next nearest code, and so on;
  where the last level has no more, the next nearest code of the level before.

  Args:
    latent_Z: float32 `[Z]`.
    codebooks: for each level `[C, Z]`.
  """
  distances_C = ((codebooks[0] - latent_Z[None, :]) ** 2).sum(axis=1)
  for code in np.argsort(distances_C, kind='stable').tolist():
    if len(codebooks) == 1:
      yield (code,)
    else:
      for rest in nearest_codes(latent_Z - codebooks[0][code], codebooks[1:]):
        yield (code, *rest)


class _Room:
  """Which SIDs are free; what was taken stays taken."""

  def __init__(self, taken: set[Codes], group_size: int | None):
    self._taken = taken
    self._group_size = group_size  # None: no level of de-duplication, a group holds one item
    self._first = {}  # of a group: the de-duplication code before which all are taken

  def take(self, codes: Codes) -> Codes | None:
    """Takes the first free SID with these quantized codes; None where there is none."""
    if self._group_size is None:
      if codes in self._taken:
        return None
      self._taken.add(codes)
      return codes
    for last in range(self._first.get(codes, 0), self._group_size):
      if (*codes, last) not in self._taken:
        self._first[codes] = last + 1
        self._taken.add((*codes, last))
        return (*codes, last)
    self._first[codes] = self._group_size
    return None
