"""Reads Parquet files of any writer; converts all string and binary types to common ones."""

from collections.abc import Collection, Iterator, Sequence
import contextlib
import re
from typing import NamedTuple

from etils import epath
import pyarrow as pa
import pyarrow.parquet

from data_prep.sources import records

BATCH = 1 << 20  # rows that are read at a time
GROUPS = 1 << 22  # rows of the row groups that are read as one shard


class Contents(NamedTuple):
  """What the footer of a file says.

  Attributes:
    names: the columns.
    kinds: column → its type after `plain`.
    group_rows: number of rows of each row group.
  """

  names: list[str]
  kinds: dict[str, pa.DataType]
  group_rows: list[int]


def contents(path: epath.Path, wanted: Collection[str]) -> Contents:
  """Returns the columns and the row groups of a file.

  Raises:
    ValueError: the file is invalid, or a wanted name occurs twice.
  """
  with _opened(path) as file:
    schema = file.schema_arrow
    groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
  checked = [name for name in schema.names if name in wanted]
  if len(set(checked)) < len(checked):
    twice = next(name for name in checked if checked.count(name) > 1)
    raise ValueError(
      f'{path}: must name each column once; got {twice!r} several times: {records.short(schema.names)}'
    )
  kinds = {name: plain(pa.chunked_array([], schema.field(name).type)).type for name in checked}
  return Contents(schema.names, kinds, groups)


def batches(
  path: epath.Path, wanted: Collection[str], groups: Sequence[int] | None = None
) -> Iterator[dict[str, pa.ChunkedArray]]:
  """Yields columns of a file, some rows at a time.

  Args:
    path: the file.
    wanted: names of the columns.
    groups: the row groups to read; None: all.

  Raises:
    ValueError: the file is invalid.
  """
  with _opened(path) as file:
    # Without buffering whole column chunks, memory does not grow with the size of a row group.
    found = file.iter_batches(BATCH, groups, columns=list(wanted))
    for batch in found:
      yield {name: plain(pa.chunked_array([batch[name]])) for name in wanted}


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
  """Returns the column in a plain type.

  View, fixed-size and extension types (except UUID) are cast. Text that is not UTF-8 becomes bytes. Instants get the
  time zone UTC.
  """
  kind = values.type
  if isinstance(kind, pa.BaseExtensionType):
    return values if isinstance(kind, pa.UuidType) else plain(values.cast(kind.storage_type))
  if pa.types.is_string_view(kind):
    return values.cast(pa.large_string())
  if pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
    return values.cast(pa.large_binary())
  if pa.types.is_timestamp(kind) and kind.tz is not None:
    return values.cast(pa.timestamp(kind.unit, 'UTC'))
  if pa.types.is_string(kind) or pa.types.is_large_string(kind):
    try:
      values.validate(full=True)
    except pa.ArrowInvalid:  # not UTF-8, although the file says so
      return values.cast(pa.large_binary())
  return values


@contextlib.contextmanager
def _opened(path: epath.Path) -> Iterator[pyarrow.parquet.ParquetFile]:
  try:
    with path.open('rb') as stream:
      yield pyarrow.parquet.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
  except (pa.ArrowException, OSError) as error:
    cause = re.sub('[^ -~]+', ' ', str(error)).strip(' .')
    raise ValueError(
      f'{path}: must be a complete Parquet file; {cause}. Remove it and fetch it again'
    ) from None
