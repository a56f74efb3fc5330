"""Columns of a table, in one file or several parts, with the file and line of every row."""

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
    path: the file, or the first part of a table in parts.
    columns: name → values.
    place: row number, from 0 → file and line, for a message.
    fields: column → config field of its name, for a message.
    names: all columns of the table, also those that were not read.
  """

  path: epath.Path
  columns: Mapping[str, pa.ChunkedArray]
  place: Callable[[int], str]
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  names: Sequence[str] = ()

  def unused(self, used: Collection[str]) -> list[str]:
    """Returns the columns of the table that are not among the used ones."""
    return [name for name in self.names if name not in used]

  def error(self, row: int, must: str, got: Any, column: str = '') -> ValueError:
    """Returns the error for an invalid value, with file and line, and the config field of the column if given."""
    return ValueError(f'{self.place(row)}: {must}; got {records.short(got)}{self.advice(column)}')

  def column_error(self, column: str, must: str) -> ValueError:
    """Returns the error for a column of an invalid type."""
    kind = self.columns[column].type
    return ValueError(
      f'{self.path}: column {column} must hold {must}; got {kind}{self.advice(column)}'
    )

  def advice(self, column: str) -> str:
    """Returns a sentence with the config field of a column; '' if there is none."""
    field = self.fields.get(column)
    return f'. Correct the column, or set --config.{field} to another one' if field else ''

  def __len__(self) -> int:
    return len(next(iter(self.columns.values()))) if self.columns else 0


def join(parts: Sequence[Rows], loose: Collection[str] = ()) -> Rows:
  """Concatenates the parts of a table, in order. A column that a part lacks is null there.

  Args:
    parts: at least one.
    loose: descriptive columns, whose types may differ between parts.

  Raises:
    ValueError: the parts have columns of types that have no common type.
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
  every = tuple(dict.fromkeys(name for part in parts for name in part.names))
  return Rows(first.path, columns, place, first.fields, every)


def _column(parts: Sequence[Rows], name: str, is_loose: bool) -> pa.ChunkedArray:
  """One column of all parts. Empty parts do not influence its type."""
  filled = [part for part in parts if len(part)] or parts[:1]
  columns = [part.columns.get(name, pa.chunked_array([pa.nulls(len(part))])) for part in filled]
  if len({column.type for column in columns}) > 1:
    columns = [decoded(column) for column in columns]
  kinds = [(part.path, column.type) for part, column in zip(filled, columns, strict=True)]
  tables = [pa.table({name: column}) for column in columns]
  try:
    return pa.concat_tables(tables, promote_options='permissive')[name]
  except pa.ArrowException:
    if is_loose:
      return _union(columns)
    raise type_error(name, kinds, parts[0].advice(name)) from None


def common_type(kinds: Sequence[tuple[epath.Path, pa.DataType]]) -> pa.DataType | None:
  """Returns the type that the column of all parts has when they are joined; None if there is none.

  Args:
    kinds: of each part with rows: its file and the type of the column. At least one.
  """
  schemas = [pa.schema([('column', kind)]) for kind in dict.fromkeys(kind for _, kind in kinds)]
  try:
    return pa.unify_schemas(schemas, promote_options='permissive').field('column').type
  except pa.ArrowException:
    return None


def type_error(
  name: str, kinds: Sequence[tuple[epath.Path, pa.DataType]], advice: str = ''
) -> ValueError:
  """Returns the error about a column whose parts have no common type; see `common_type`."""
  path, first = kinds[0]
  other, kind = next((path, kind) for path, kind in kinds if kind != first)
  return ValueError(
    f'{other}: column {name} must be of the same type in all parts; it is {kind}, and {first} in '
    f'{path.name}{advice}'
  )


def _union(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
  """Concatenates columns of different types into a column of a union type."""
  children = [column.combine_chunks() for column in columns]
  lengths = [len(child) for child in children]
  types = pa.array(np.repeat(np.arange(len(children)), lengths), pa.int8())
  offsets = pa.array(np.concatenate([np.arange(length) for length in lengths]), pa.int32())
  return pa.chunked_array([pa.UnionArray.from_dense(types, offsets, children)])


def decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
  """Returns the column without dictionary encoding; a dictionary may hold values that no row has."""
  kind = plain_type(values.type)
  return values if kind == values.type else values.cast(kind)


def plain_type(kind: pa.DataType) -> pa.DataType:
  """Returns the type of a column after `decoded`."""
  return kind.value_type if pa.types.is_dictionary(kind) else kind
