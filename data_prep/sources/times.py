"""Reads columns of times. All rows must have one unit; the error shows a row of each unit.

Numbers count from 1970. Numbers below 1e11 are seconds (up to the year 5138), below 1e14 milliseconds, below 1e17
microseconds, and else nanoseconds. 0 matches every unit.
"""

from collections.abc import Callable
import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.sources import columns, records
from data_prep.sources.rows import Rows, decoded

_TICKS = {'s': 1, 'ms': 10**3, 'us': 10**6, 'ns': 10**9}  # per second
_UNITS = ('s', 'ms', 'us', 'ns')
_NAMES = ('seconds', 'milliseconds', 'microseconds', 'nanoseconds')
_LIMITS = (1e11, 1e14, 1e17)
_TEXT_TYPES = (
  pa.int64(),
  pa.float64(),
  *(pa.timestamp(unit, zone) for unit in ('us', 'ns') for zone in (None, 'UTC')),
)
_DATES = ('%d.%m.%Y', '%m/%d/%Y', '%d/%m/%Y', '%d-%m-%Y', '%Y/%m/%d', '%Y.%m.%d', '%Y%m%d')
_CLOCKS = ('', ' %H:%M', ' %H:%M:%S', ' %I:%M %p', ' %I:%M:%S %p')


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
    values = _read_format(rows, column, values, time_format)
    kind = values.type
  elif columns.is_text(kind):
    values = _read_text(rows, column, values)
    kind = values.type
  if pa.types.is_decimal(kind) or kind == pa.uint64():
    try:
      values = values.cast(pa.int64())
    except pa.ArrowInvalid:
      values = values.cast(pa.float64(), safe=False)
    kind = values.type
  if pa.types.is_floating(kind):
    return _read_floats(rows, column, values)
  if pa.types.is_date(kind):
    values = values.cast(pa.timestamp('ms'))
  elif not pa.types.is_timestamp(kind) and not pa.types.is_integer(kind):
    raise rows.column_error(column, 'times')
  counts = values.cast(pa.int64()).to_numpy()
  if pa.types.is_timestamp(values.type):
    return counts, _TICKS[values.type.unit]
  return counts, ticks_per_second(counts, column, rows.place)


def ticks_per_second(counts: np.ndarray, column: str, place: Callable[[int], str]) -> int:
  """Returns the number of ticks per second of numeric times.

  Args:
    counts: int64 or float64 `[N]`, times from 1970.
    column: name of the column, for a message.
    place: row number, from 0 → file and line.

  Raises:
    ValueError: the numbers have different units; the message names the first row of two units.
  """
  return _TICKS[_UNITS[_unit(counts, column, place)]]


def _unit(counts: np.ndarray, column: str, place: Callable[[int], str]) -> int:
  """The index in `_UNITS` of the unit of all numbers."""
  if not len(counts):
    return 0
  lowest, highest = float(counts.min()), float(counts.max())
  largest = max(abs(lowest), abs(highest))
  unit = int(np.searchsorted(_LIMITS, largest, side='right'))
  if unit == 0:
    return 0
  # In most columns the extremes determine the unit; otherwise all numbers are tested.
  if lowest > 0 and lowest >= _LIMITS[unit - 1]:
    return unit
  sizes = np.abs(counts.astype(np.float64))
  small = (sizes > 0) & (sizes < _LIMITS[unit - 1])
  if not small.any():
    return unit
  units = np.searchsorted(_LIMITS, sizes, side='right')
  first, second = sorted((int(np.argmax(small)), int(np.argmax(units == unit))))
  raise ValueError(
    f'{place(second)}: {column} must be in one unit in all rows; got {counts[second]} '
    f'({_NAMES[units[second]]}), while {place(first)} has {counts[first]} ({_NAMES[units[first]]})'
  )


def _read_floats(rows: Rows, column: str, values: pa.ChunkedArray) -> tuple[np.ndarray, int]:
  """Times of a floating-point type."""
  numbers = values.cast(pa.float64()).to_numpy()
  is_valid = np.abs(numbers) < 2.0**63  # False for NaN
  if not is_valid.all():
    row = int(np.argmin(is_valid))
    must = f'{column} must be a time that fits into 64 bits'
    raise rows.error(row, must, numbers[row], column)
  unit = _unit(numbers, column, rows.place)
  if (numbers % 1 == 0).all():
    return numbers.astype(np.int64), _TICKS[_UNITS[unit]]
  finer = max(unit, _UNITS.index('us'))
  scaled = np.rint(numbers * (_TICKS[_UNITS[finer]] // _TICKS[_UNITS[unit]]))
  return scaled.astype(np.int64), _TICKS[_UNITS[finer]]


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


def _read_text(rows: Rows, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
  """Converts text to the first of `_TEXT_TYPES` that all rows can be parsed as."""
  if len(values) and values[0].as_py().endswith(' UTC'):  # exports of BigQuery
    values = pc.replace_substring_regex(values, ' UTC$', 'Z')
  failures = {}
  for kind in _TEXT_TYPES:
    try:
      return values.cast(kind)
    except pa.ArrowInvalid:
      failures[kind] = _first_failure(values, kind)
  row = max(failures.values())
  error = f'{column} must be an integer, a number or a date of ISO 8601, the same in all rows'
  got = values[row].as_py()
  if any(_is_parsable(values[row], kind) for kind in _TEXT_TYPES):
    other = f', while {rows.place(0)} has {records.short(values[0].as_py())}'
    raise ValueError(f'{rows.error(row, error, got)}{other}')
  if formats := [f'--config.data.time_format={shown!r}' for shown in _formats(values)]:
    raise ValueError(f'{rows.error(row, error, got)}. Set {" or ".join(formats)}')
  raise rows.error(row, error, got, column)


def _formats(values: pa.ChunkedArray) -> list[str]:
  """Returns the usual formats that all rows have."""
  formats = [date + clock for date in _DATES for clock in _CLOCKS]
  return [shown for shown in formats if not _parsed(values, shown)[1].any()]


def _parsed(values: pa.ChunkedArray, time_format: str) -> tuple[pa.ChunkedArray, np.ndarray]:
  """Returns texts as timestamps of seconds, and marks the rows that have another format."""
  found = pc.strptime(values, format=time_format, unit='s', error_is_null=True)
  is_wrong = found.is_null().to_numpy()
  # The 31st of February becomes the 3rd of March: only the first days of a month may stand for a wrong day.
  early = np.flatnonzero(pc.less_equal(pc.day(found), 3).fill_null(False).to_numpy())
  wrong = {text for text in set(values.take(early).to_pylist()) if not _is_date(text, time_format)}
  is_wrong[[row for row in early if wrong and values[row].as_py() in wrong]] = True
  return found, is_wrong


def _is_date(text: str, time_format: str) -> bool:
  try:
    datetime.datetime.strptime(text, time_format)
  except ValueError:
    return False
  return True


def _read_format(
  rows: Rows, column: str, values: pa.ChunkedArray, time_format: str
) -> pa.ChunkedArray:
  """Converts text of one format."""
  found, is_wrong = _parsed(values, time_format)
  if is_wrong.any():
    row = int(np.argmax(is_wrong))
    must = f'{column} must be a date like {time_format}, data.time_format'
    got = records.short(values[row].as_py())
    raise ValueError(
      f'{rows.place(row)}: {must}; got {got}. Correct the row, or set --config.data.time_format'
    )
  return found


def _is_parsable(value: Any, kind: pa.DataType) -> bool:
  try:
    pc.cast(value, kind)
  except pa.ArrowInvalid:
    return False
  return True


def _first_failure(values: pa.ChunkedArray, kind: pa.DataType) -> int:
  """The first row that cannot be parsed as this type; there must be one."""
  low, high = 0, len(values)
  while high - low > 1:
    middle = (low + high) // 2
    try:
      values.slice(low, middle - low).cast(kind)
      low = middle
    except pa.ArrowInvalid:
      high = middle
  return low
