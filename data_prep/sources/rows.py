"""Columns of a file, or of the parts of a table, with the file and line of every row."""

import bisect
from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import itertools
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa

from data_prep.sources import records


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows of a table.

  Attributes:
    path: the file; of a table in parts, the first part.
    columns: name → values.
    place: row number from 0 → file and line, for a message.
    fields: name → the config field that sets it, for a message.
  """

  path: epath.Path
  columns: Mapping[str, pa.ChunkedArray]
  place: Callable[[int], str]
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def refuse(self, row: int, must: str, got: Any, column: str = '') -> ValueError:
    """Returns the error for a row; `column` adds the field that names the column."""
    return ValueError(f'{self.place(row)}: {must}; got {records.short(got)}{self.advice(column)}')

  def refuse_column(self, column: str, must: str) -> ValueError:
    """Returns the error for a column of a type that cannot be read."""
    kind = self.columns[column].type
    return ValueError(
      f'{self.path}: column {column} must hold {must}; got {kind}{self.advice(column)}'
    )

  def advice(self, column: str) -> str:
    """Returns a sentence with the field that names the column; '' if there is none."""
    field = self.fields.get(column)
    return f'. Correct the column, or set --config.{field} to another one' if field else ''

  def __len__(self) -> int:
    return len(next(iter(self.columns.values()))) if self.columns else 0


def join(parts: Sequence[Rows], loose: Collection[str] = ()) -> Rows:
  """Puts the parts of a table together, in their order. A column that a part lacks is null there.

  Args:
    parts: at least one.
    loose: columns of descriptive values, whose types may differ from part to part.

  Raises:
    ValueError: the parts have columns of types that do not go together.
  """
  first = parts[0]
  if len(parts) == 1:
    return first
  ends = list(itertools.accumulate(map(len, parts)))

  def place(row: int) -> str:
    part = bisect.bisect_right(ends, row)
    return parts[part].place(row - (ends[part - 1] if part else 0))

  names = dict.fromkeys(name for part in parts for name in part.columns)
  columns = {name: _column(parts, name, name in loose) for name in names}
  return Rows(first.path, columns, place, first.fields)


def _column(parts: Sequence[Rows], name: str, is_loose: bool) -> pa.ChunkedArray:
  """One column of all parts; empty parts have no say in its type."""
  filled = [part for part in parts if len(part)] or parts[:1]
  columns = [part.columns.get(name, pa.chunked_array([pa.nulls(len(part))])) for part in filled]
  if len({column.type for column in columns}) > 1:
    columns = [decoded(column) for column in columns]
  tables = [pa.table({name: column}) for column in columns]
  try:
    return pa.concat_tables(tables, promote_options='permissive')[name]
  except pa.ArrowException:
    if is_loose:
      return _union(columns)
    first = columns[0].type
    other, kind = next(
      (part, column.type)
      for part, column in zip(filled, columns, strict=True)
      if column.type != first
    )
    raise ValueError(
      f'{other.path}: column {name} must be of the same type in all parts; it is {kind}, and {first} in '
      f'{filled[0].path.name}{parts[0].advice(name)}'
    ) from None


def _union(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
  """Columns of different types as one, whose values keep their types."""
  children = [column.combine_chunks() for column in columns]
  lengths = [len(child) for child in children]
  types = pa.array(np.repeat(np.arange(len(children)), lengths), pa.int8())
  offsets = pa.array(np.concatenate([np.arange(length) for length in lengths]), pa.int32())
  return pa.chunked_array([pa.UnionArray.from_dense(types, offsets, children)])


def decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
  """Returns the column without its dictionary, which may hold values that no row has."""
  if pa.types.is_dictionary(values.type):
    return values.cast(values.type.value_type)
  return values
