"""Orders and groups the rows of a table of codes: one sort of 64-bit keys, for catalogues of any size."""

import numpy as np


def keys(codes_IL: np.ndarray) -> np.ndarray:
  """Returns a number for every row, int64 `[I]`: equal for equal rows, ascending in lexicographic order.

  Args:
    codes_IL: int `[I, L]`.
  """
  key_I, room = np.zeros(len(codes_IL), np.int64), 1
  for column_I in codes_IL.T if len(codes_IL) else ():
    low = int(column_I.min())
    size = int(column_I.max()) - low + 1
    if room * size > 1 << 63:  # ranks of the prefixes are smaller numbers in the same order
      key_I = np.unique(key_I, return_inverse=True)[1].ravel()
      room = int(key_I.max()) + 1
    key_I *= size
    key_I += column_I - low
    room *= size
  return key_I


def ordered(codes_IL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the lexicographic order of rows, and which rows in that order differ from the one before.

  Equal rows stay in the order of their numbers. The row number is the low part of the sorted keys, so that a plain
  sort is stable. On ten million rows that takes an eighth of the time of `np.lexsort`.

  Args:
    codes_IL: int `[I, L]`.

  Returns:
    int64 `[I]`, and bool `[I]`.
  """
  key_I = keys(codes_IL)
  bits = max(len(key_I) - 1, 0).bit_length()
  if len(key_I) and int(key_I.max()) >> (63 - bits):
    key_I = np.unique(key_I, return_inverse=True)[1].ravel()
  key_I <<= bits
  key_I |= np.arange(len(key_I))
  key_I.sort()
  is_first_I = np.ones(len(key_I), bool)
  np.not_equal(key_I[1:] >> bits, key_I[:-1] >> bits, out=is_first_I[1:])
  key_I &= (1 << bits) - 1
  return key_I, is_first_I


def groups(codes_IL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Numbers the distinct rows in lexicographic order.

  Args:
    codes_IL: int `[I, L]`.

  Returns:
    The number of each row's group, int64 `[I]`, and the number of rows in each group, int64 `[G]`.
  """
  order_I, is_first_I = ordered(codes_IL)
  group_I = np.empty(len(order_I), np.int64)
  group_I[order_I] = np.cumsum(is_first_I) - 1
  return group_I, np.diff(np.flatnonzero(is_first_I), append=len(order_I))


def places(codes_IL: np.ndarray) -> np.ndarray:
  """Returns the number of equal rows before each row, int64 `[I]`.

  Args:
    codes_IL: int `[I, L]`.
  """
  order_I, is_first_I = ordered(codes_IL)
  numbers_I = np.arange(len(order_I))
  starts_I = np.maximum.accumulate(np.where(is_first_I, numbers_I, 0))
  place_I = np.empty(len(order_I), np.int64)
  place_I[order_I] = numbers_I - starts_I
  return place_I
