"""Reads columns of times. All rows must have one unit; the error shows a row of each unit.

Numbers count from 1970. Numbers below 1e11 are seconds (up to the year 5138), below 1e14 milliseconds, below 1e17
microseconds, and else nanoseconds. 0 matches every unit.
"""

from collections.abc import Callable, Iterable
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data_prep.sources import columns, times_text
from data_prep.sources.rows import Rows, decoded

_TICKS = {'s': 1, 'ms': 10**3, 'us': 10**6, 'ns': 10**9}  # per second
_UNITS = ('s', 'ms', 'us', 'ns')
_NAMES = ('seconds', 'milliseconds', 'microseconds', 'nanoseconds')
_LIMITS = (1e11, 1e14, 1e17)


class Times(NamedTuple):
  """Times of some rows as they were read; `Form.apply` gives them in the unit of the whole log.

  Attributes:
    values: int64 `[n]`; float64 for numbers with a fraction.
    kind: 'integer', 'number', or the unit of moments: 's', 'ms', 'us', 'ns'.
    zone: 'UTC' for moments with a time zone, else ''.
  """

  values: np.ndarray
  kind: str
  zone: str = ''

  @property
  def facts(self) -> 'Facts':
    """What the rows say about the unit of the log."""
    if self.kind in _UNITS or not len(self.values):
      return Facts(self.kind, self.zone, _size(self.values))
    sizes, is_whole = np.abs(self.values.astype(np.float64)), True
    if self.kind == 'number':
      is_whole = bool((sizes % 1 == 0).all())
    smallest = float(sizes.min())
    if smallest == 0:
      smallest = float(sizes.min(initial=np.inf, where=sizes > 0))
    return Facts(self.kind, self.zone, float(sizes.max()), smallest, is_whole)


@dataclasses.dataclass(frozen=True)
class Facts:
  """What some rows of a log say about the unit of its times.

  Attributes:
    kind, zone: see `Times`; kind '': the rows have no common form.
    largest: absolute value of the largest time.
    smallest: absolute value of the smallest number that is not 0; infinity if there is none.
    is_whole: whether all numbers are whole.
  """

  kind: str
  zone: str = ''
  largest: float = 0.0
  smallest: float = np.inf
  is_whole: bool = True

  def __add__(self, other: 'Facts') -> 'Facts':
    kinds = {self.kind, other.kind}
    if len(kinds) == 1:
      kind = self.kind
    elif kinds == {'integer', 'number'}:
      kind = 'number'
    elif (
      kinds == {'us', 'ns'}
      and max(part.largest for part in (self, other) if part.kind == 'us') < 2**63 / 1000
    ):
      kind = 'ns'
    else:
      kind = ''
    return Facts(
      kind if self.zone == other.zone else '',
      self.zone,
      max(self.largest, other.largest),
      min(self.smallest, other.smallest),
      self.is_whole and other.is_whole,
    )

  @property
  def form(self) -> 'Form | None':
    """The form of a log of these rows; None if they have several."""
    if self.kind in _UNITS:
      return Form(self.kind, _TICKS[self.kind])
    unit = int(np.searchsorted(_LIMITS, self.largest, side='right'))
    if not self.kind or (unit and self.smallest < _LIMITS[unit - 1]):
      return None
    if self.is_whole:
      return Form(self.kind, _TICKS[_UNITS[unit]])
    finer = max(unit, _UNITS.index('us'))
    ticks = _TICKS[_UNITS[finer]]
    return Form(self.kind, ticks, ticks // _TICKS[_UNITS[unit]])


@dataclasses.dataclass(frozen=True)
class Form:
  """The form of all times of a log.

  Attributes:
    kind: see `Times`.
    ticks_per_second: of the resulting times.
    factor: what numbers with a fraction are multiplied with; 0: they are whole.
  """

  kind: str
  ticks_per_second: int
  factor: int = 0

  def apply(self, times: Times) -> np.ndarray:
    """Returns times as int64 `[n]`, in ticks."""
    if self.factor:
      return np.rint(times.values * self.factor).astype(np.int64)
    if times.kind == 'us' and self.kind == 'ns':
      return times.values * 1000
    return times.values.astype(np.int64, copy=False)


def read(rows: Rows, column: str, time_format: str | None = None) -> tuple[np.ndarray, int]:
  """Returns a column of times as int64 `[N]`, and the number of their ticks per second.

  Args:
    rows: the table.
    column: name of the column.
    time_format: `data.time_format`, of texts.

  Integers, and numbers if all are whole, keep their unit. Other numbers are converted to microseconds, or to
  nanoseconds if that is their unit. Dates and timestamps count from 1970 in the unit of their precision.

  Raises:
    ValueError: a time is missing or unreadable, or two rows have different units; the message names the rows.
  """
  times = parse(rows, column, time_format)
  form = times.facts.form
  if form is None:
    raise unit_error([(times.values, rows.place)], column)
  return form.apply(times), form.ticks_per_second


def parse(
  rows: Rows,
  column: str,
  time_format: str | None = None,
  every: Callable[[], Iterable[Rows]] | None = None,
) -> Times:
  """Returns times of some rows of a table; their unit is that of `read` once all rows are known.

  Args:
    rows: the rows.
    column, time_format: see `read`.
    every: all rows of the table, whose first row of another form the message names; None: `rows`.

  Raises:
    ValueError: see `read`.
  """
  values = decoded(rows.columns[column])
  columns.check_no_nulls(rows, column)
  kind = values.type
  if columns.is_bytes(kind):
    values = _text(rows, column, values)
    kind = values.type
  if time_format is not None:
    if not columns.is_text(kind):
      must = f'text, which data.time_format={time_format} describes'
      raise rows.column_error(column, must)
    values = times_text.read_format(rows, column, values, time_format)
  elif columns.is_text(kind):
    found = times_text.read(values)
    if found is None:
      raise times_text.error(column, every or (lambda: (rows,)))
    values = found
  kind = values.type
  if pa.types.is_decimal(kind) or kind == pa.uint64():
    try:
      values = values.cast(pa.int64())
    except pa.ArrowInvalid:
      values = values.cast(pa.float64(), safe=False)
    kind = values.type
  if pa.types.is_floating(kind):
    return Times(_floats(rows, column, values), 'number')
  if pa.types.is_date(kind):
    values = values.cast(pa.timestamp('ms'))
  elif not pa.types.is_timestamp(kind) and not pa.types.is_integer(kind):
    raise rows.column_error(column, 'times')
  counts = values.cast(pa.int64()).to_numpy()
  if pa.types.is_timestamp(values.type):
    return Times(counts, values.type.unit, values.type.tz or '')
  return Times(counts, 'integer')


def ticks_per_second(counts: np.ndarray, column: str, place: Callable[[int], str]) -> int:
  """Returns the number of ticks per second of numeric times.

  Args:
    counts: int64 `[N]`, times from 1970.
    column: name of the column, for a message.
    place: row number, from 0 → file and line.

  Raises:
    ValueError: the numbers have different units; the message names the first row of two units.
  """
  form = Times(counts, 'integer').facts.form
  if form is None:
    raise unit_error([(counts, place)], column)
  return form.ticks_per_second


def unit_error(parts: Iterable[tuple[np.ndarray, Callable[[int], str]]], column: str) -> ValueError:
  """Returns the error about numbers of several units, which names the first row of two of them.

  Args:
    parts: of all rows in order: the numbers, and the place of each.
    column: name of the column.
  """
  first: dict[int, str] = {}  # unit → its first row and number, in the order of the rows
  values: dict[int, Any] = {}
  for counts, place in parts:
    sizes = np.abs(counts.astype(np.float64))
    units = np.where(sizes > 0, np.searchsorted(_LIMITS, sizes, side='right'), -1)
    for row in np.sort(np.unique(units, return_index=True)[1]).tolist():
      if units[row] >= 0 and units[row] not in first:
        first[int(units[row])] = place(row)
        values[int(units[row])] = counts[row]
  # The largest unit, and the first row of a smaller one.
  pair = {max(first), next(unit for unit in first if unit != max(first))}
  other, unit = (unit for unit in first if unit in pair)
  return ValueError(
    f'{first[unit]}: {column} must be in one unit in all rows; got {values[unit]} '
    f'({_NAMES[unit]}), while {first[other]} has {values[other]} ({_NAMES[other]})'
  )


def _size(values: np.ndarray) -> float:
  """The largest absolute value."""
  return max(abs(float(values.min())), abs(float(values.max()))) if len(values) else 0.0


def _floats(rows: Rows, column: str, values: pa.ChunkedArray) -> np.ndarray:
  """Times of a floating-point type."""
  numbers = values.cast(pa.float64()).to_numpy()
  is_valid = np.abs(numbers) < 2.0**63  # False for NaN
  if not is_valid.all():
    row = int(np.argmin(is_valid))
    must = f'{column} must be a time that fits into 64 bits'
    raise rows.error(row, must, numbers[row], column)
  return numbers


def _text(rows: Rows, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
  try:
    return values.cast(pa.large_string())
  except pa.ArrowInvalid:
    row = next(n for n, value in enumerate(values.to_pylist()) if not _is_utf8(value))
    must = f'{column} must be text in UTF-8'
    raise rows.error(row, must, values[row].as_py(), column) from None


def _is_utf8(value: bytes) -> bool:
  try:
    value.decode()
  except UnicodeDecodeError:
    return False
  return True
