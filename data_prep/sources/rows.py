"""Columns of a table, in one file or several parts, with the file and line of every row."""

import bisect
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import pyarrow as pa

from data_prep.sources import records


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows of a table.

  Attributes:
    path: the file, or the first part of a table in parts.
    columns: name → values.
    place: row number, from 0 → file and line, for a message.
  """

  path: epath.Path
  columns: Mapping[str, pa.ChunkedArray]
  place: Callable[[int], str]

  def error(self, row: int, must: str, got: Any) -> ValueError:
    """Returns the error for an invalid value, with file and line."""
    return ValueError(f'{self.place(row)}: {must}; got {records.short(got)}')

  def __len__(self) -> int:
    return len(next(iter(self.columns.values()))) if self.columns else 0


def join(parts: Sequence[Rows]) -> Rows:
  """Concatenates the parts of a table, in order.

  Raises:
    ValueError: the parts differ in their columns, or in types that have no common type.
  """
  first = parts[0]
  if len(parts) == 1:
    return first
  for part in parts[1:]:
    if set(part.columns) != set(first.columns):
      raise ValueError(
        f'{part.path}: must have the columns of {first.path.name}, which are '
        f'{_listed(first.columns)}; it has {_listed(part.columns)}'
      )
  ends = []
  for part in parts:
    ends.append(len(part) + (ends[-1] if ends else 0))

  def place(row: int) -> str:
    part = bisect.bisect_right(ends, row)
    return parts[part].place(row - (ends[part - 1] if part else 0))

  return Rows(first.path, {name: _column(parts, name) for name in first.columns}, place)


def _listed(names: Mapping[str, Any]) -> str:
  return ', '.join(sorted(map(repr, names))) or 'none'


def _column(parts: Sequence[Rows], name: str) -> pa.ChunkedArray:
  """One column of all parts. Empty parts do not influence its type."""
  filled = [part for part in parts if len(part)] or parts[:1]
  tables = [pa.table({name: part.columns[name]}) for part in filled]
  try:
    return pa.concat_tables(tables, promote_options='permissive')[name]
  except pa.ArrowException:
    first = tables[0][name].type
    other, kind = next(
      (part, table[name].type)
      for part, table in zip(filled, tables, strict=True)
      if table[name].type != first
    )
    raise ValueError(
      f'{other.path}: column {name} must be of the same type in all parts; it is {kind}, and {first} in '
      f'{filled[0].path.name}'
    ) from None
