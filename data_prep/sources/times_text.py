"""Reads times that are text: numbers, dates of ISO 8601, or dates of `data.time_format`."""

from collections.abc import Callable, Iterable
import contextlib
import datetime
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.sources import records
from data_prep.sources.rows import Rows, decoded

_TYPES = (
  pa.int64(),
  pa.float64(),
  *(pa.timestamp(unit, zone) for unit in ('us', 'ns') for zone in (None, 'UTC')),
)
_DATES = ('%d.%m.%Y', '%m/%d/%Y', '%d/%m/%Y', '%d-%m-%Y', '%Y/%m/%d', '%Y.%m.%d', '%Y%m%d')
_CLOCKS = ('', ' %H:%M', ' %H:%M:%S', ' %I:%M %p', ' %I:%M:%S %p')
_IGNORED = 'ZGgVu'  # strptime of Arrow reads these directives, and gives the time without them
_UTC = ' UTC$'  # exports of BigQuery


def read(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
  """Converts text to the first type that all rows can be parsed as: integers, numbers, moments. None: there is none."""
  values = _with_z(values)
  for kind in _TYPES:
    with contextlib.suppress(pa.ArrowInvalid):
      return values.cast(kind)
  return None


def _with_z(values: pa.ChunkedArray) -> pa.ChunkedArray:
  if pc.any(pc.ends_with(values, ' UTC')).as_py():
    return pc.replace_substring_regex(values, _UTC, 'Z')
  return values


def error(column: str, every: Callable[[], Iterable[Rows]]) -> ValueError:
  """Returns the error about a column of text that has no common type; it names the first row of another type.

  Args:
    column: name of the column.
    every: returns all rows of the table, in order, perhaps in several parts.
  """
  failures: dict[pa.DataType, tuple[int, int, Rows]] = {}
  start, shown = 0, ''
  for rows in every():
    values = _with_z(decoded(rows.columns[column]).cast(pa.large_string()))
    if not shown and len(values):
      shown = f'{rows.place(0)} has {records.short(values[0].as_py())}'
    for kind in _TYPES:
      if kind not in failures and (row := _first_failure(values, kind)) is not None:
        failures[kind] = start + row, row, rows
    start += len(values)
    if len(failures) == len(_TYPES):
      break
  _, row, rows = max(failures.values(), key=lambda failure: failure[0])
  must = f'{column} must be an integer, a number or a date of ISO 8601, the same in all rows'
  value = _with_z(decoded(rows.columns[column]).cast(pa.large_string()))[row]
  if any(_is_parsable(value, kind) for kind in _TYPES):
    return ValueError(f'{rows.error(row, must, value.as_py())}, while {shown}')
  if formats := [f'--config.data.time_format={one!r}' for one in _formats(column, every)]:
    return ValueError(f'{rows.error(row, must, value.as_py())}. Set {" or ".join(formats)}')
  return rows.error(row, must, value.as_py(), column)


def _formats(column: str, every: Callable[[], Iterable[Rows]]) -> list[str]:
  """Returns the usual formats that all rows have."""
  formats = [date + clock for date in _DATES for clock in _CLOCKS]
  for rows in every():
    values = decoded(rows.columns[column]).cast(pa.large_string())
    formats = [shown for shown in formats if not _parsed(values, shown)[1].any()]
    if not formats:
      break
  return formats


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


def read_format(
  rows: Rows, column: str, values: pa.ChunkedArray, time_format: str
) -> pa.ChunkedArray:
  """Converts text of one format.

  Raises:
    ValueError: a row has another format, or the format has directives that would be ignored.
  """
  directives = re.findall('%(.)', time_format, re.DOTALL)
  if ignored := [f'%{each}' for each in dict.fromkeys(directives) if each in _IGNORED]:
    raise ValueError(
      f'data.time_format must have none of %Z, %G, %g, %V and %u, which would be ignored; got {time_format!r} with '
      f'{" ".join(ignored)}. Write offsets such as +0200 in the data and set --config.data.time_format with %z, and '
      'write weeks as dates'
    )
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


def _first_failure(values: pa.ChunkedArray, kind: pa.DataType) -> int | None:
  """The first row that cannot be parsed as this type; None if all rows can."""
  with contextlib.suppress(pa.ArrowInvalid):
    values.cast(kind)
    return None
  low, high = 0, len(values)
  while high - low > 1:
    middle = (low + high) // 2
    try:
      values.slice(low, middle - low).cast(kind)
      low = middle
    except pa.ArrowInvalid:
      high = middle
  return low
