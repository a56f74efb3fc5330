"""Extends a SID table to a changed catalogue: known items keep their SIDs, new items get free ones."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses

import numpy as np

from recjax.sids.table import SidTable

Codes = tuple[int, ...]


class NoFreeSidError(ValueError):
  """The code space of the earlier table has no SID left for a new item."""


def extend(
  table: SidTable,
  rows_I: np.ndarray,
  codes_NQ: np.ndarray,
  others: Callable[[int], Iterator[Codes]] | None,
  item_ids: Sequence[str],
) -> SidTable:
  """Returns the table of today's items in the code space of an earlier table.

  If items may share a SID, a new item gets its quantized codes. Otherwise it gets the first free de-duplication
  code of its quantized codes or, if all are taken, of the nearest codes with a free one. A new item never gets a
  SID of the earlier table, even if that item has left the catalogue.

  Args:
    table: the earlier table.
    rows_I: int `[I]`, the row of each of today's items in the earlier table; -1 for new items.
    codes_NQ: int32, the quantized codes of the new items, in item order.
    others: returns an iterator over all quantized codes for the n-th new item, nearest first. None: new items
      must keep their quantized codes.
    item_ids: raw ids of today's items.

  Returns:
    A table with the same levels, sizes, quantizer and codebooks, and so the same `code_space_hash`.

  Raises:
    NoFreeSidError: no SID is free for an item.
  """
  codes_IL = np.empty((len(rows_I), table.levels), np.int32)
  codes_IL[rows_I >= 0] = table.codes_IL[rows_I[rows_I >= 0]]
  new = np.flatnonzero(rows_I < 0)
  if table.collisions == 'keep':
    codes_IL[new] = codes_NQ
    return dataclasses.replace(table, codes_IL=codes_IL)
  free = _FreeSids(table.codes_IL, table.codes_per_level[-1] if table.deduplicated else None)
  for n, item in enumerate(new.tolist()):
    sid = free.take(tuple(codes_NQ[n].tolist()))
    if sid is None and others is not None:
      sid = next(filter(None, map(free.take, others(n))), None)
    if sid is None:
      codes = codes_NQ[n].tolist()
      raise NoFreeSidError(
        f'no SID is free for the new item {item_ids[item]!r}: every SID that begins with the codes '
        f'{codes} is taken. Build new SIDs in another prepared folder, without '
        '--config.sids.extend, and train a model for them'
        if others is None
        else f'no SID is free for the new item {item_ids[item]!r}: all SIDs are taken. Build new '
        'ones with larger --config.sids.codes, without --config.sids.extend'
      )
    codes_IL[item] = sid
  return dataclasses.replace(table, codes_IL=codes_IL)


def extend_items(table: SidTable, rows_I: np.ndarray, item_ids: Sequence[str]) -> SidTable:
  """Returns the table of today's items, one code an item; new items get unused codes in ascending order.

  Args:
    table: the earlier table of one level with a code for every item.
    rows_I: int `[I]`, the row of each of today's items in the earlier table; -1 for new items.
    item_ids: raw ids of today's items.

  Raises:
    NoFreeSidError: there are fewer unused codes than new items.
  """
  new = np.flatnonzero(rows_I < 0)
  free = np.setdiff1d(np.arange(table.codes_per_level[0]), table.codes_IL[:, 0])
  if len(free) < len(new):
    raise NoFreeSidError(
      f'no code is free for the new item {item_ids[new[len(free)]]!r}: the table has {table.codes_per_level[0]} codes, '
      f'{len(free)} of them unused, and the log has {len(new)} new items. Build a new table with larger '
      '--config.sids.codes, without --config.sids.extend, and train a model for it'
    )
  return extend(table, rows_I, free[: len(new), None].astype(np.int32), None, item_ids)


def nearest_codes(latent_Z: np.ndarray, codebooks: Sequence[np.ndarray]) -> Iterator[Codes]:
  """Yields all codes of a residual quantizer for one latent vector, nearest first at every level.

  The first codes are those that the quantizer assigns. The last level varies fastest.

  Args:
    latent_Z: float32 `[Z]`.
    codebooks: a `[C, Z]` array for each level.
  """
  distances_C = ((codebooks[0] - latent_Z[None, :]) ** 2).sum(axis=1)
  for code in np.argsort(distances_C, kind='stable').tolist():
    if len(codebooks) == 1:
      yield (code,)
    else:
      for rest in nearest_codes(latent_Z - codebooks[0][code], codebooks[1:]):
        yield (code, *rest)


class _FreeSids:
  """The free SIDs.

  The taken ones are sorted keys, not Python objects, so that a table of ten million items takes 160 MB for four levels.
  """

  def __init__(self, codes_IL: np.ndarray, group_size: int | None):
    # Bytes of big-endian numbers are in the order of the codes.
    keys_IL = np.ascontiguousarray(codes_IL, '>u4')
    self._keys_I = np.sort(keys_IL.view(f'S{4 * codes_IL.shape[1]}').ravel())
    self._group_size = group_size  # None: no de-duplication level, one item for each group of codes
    self._taken: dict[Codes, set[int]] = {}  # codes → the taken de-duplication codes
    self._first: dict[Codes, int] = {}  # codes → the first de-duplication code that may be free

  def take(self, codes: Codes) -> Codes | None:
    """Takes and returns the first free SID with these quantized codes, or None if all are taken."""
    if codes not in self._taken:
      self._taken[codes] = self._found(codes)
    taken = self._taken[codes]
    if self._group_size is None:
      if taken:
        return None
      taken.add(0)
      return codes
    for last in range(self._first.get(codes, 0), self._group_size):
      if last not in taken:
        self._first[codes] = last + 1
        return (*codes, last)
    self._first[codes] = self._group_size
    return None

  def _found(self, codes: Codes) -> set[int]:
    """The last codes of the taken SIDs that begin with these codes; {0} if the codes are a whole SID that is taken."""
    key, width = np.array(codes, '>u4').tobytes(), self._keys_I.itemsize
    if len(key) == width:
      first, last = (
        np.searchsorted(self._keys_I, np.bytes_(key), side) for side in ('left', 'right')
      )
      return {0} if last > first else set()
    ends = (np.bytes_(key), np.bytes_(key + b'\xff' * 4))
    first, last = np.searchsorted(self._keys_I, ends)
    rows = np.frombuffer(self._keys_I[first:last].tobytes(), '>u4').reshape(
      last - first, width // 4
    )
    return set(rows[:, -1].tolist())
