"""Reads Parquet files of any writer; converts all string and binary types to common ones."""

from collections.abc import Collection, Iterator
import contextlib
import re

from etils import epath
import pyarrow as pa
import pyarrow.parquet

from data_prep.sources import records
from data_prep.sources.rows import Rows


def names(path: epath.Path, wanted: Collection[str]) -> list[str]:
  """Returns the column names of a file.

  Raises:
    ValueError: the file is invalid, or a wanted name occurs twice.
  """
  with _opened(path) as file:
    found = file.schema_arrow.names
  checked = [name for name in found if name in wanted]
  if len(set(checked)) < len(checked):
    twice = next(name for name in checked if checked.count(name) > 1)
    raise ValueError(
      f'{path}: must name each column once; got {twice!r} several times: {records.short(found)}'
    )
  return found


def read(path: epath.Path, wanted: Collection[str]) -> Rows:
  """Returns columns of a file.

  Raises:
    ValueError: the file is invalid.
  """
  with _opened(path) as file:
    table = file.read(columns=list(wanted))
  columns = {name: plain(table[name]) for name in wanted}
  return Rows(path, columns, lambda row: f'{path}: row {row + 1}')


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
      yield pyarrow.parquet.ParquetFile(stream)
  except (pa.ArrowException, OSError) as error:
    cause = re.sub('[^ -~]+', ' ', str(error)).strip(' .')
    raise ValueError(
      f'{path}: must be a complete Parquet file; {cause}. Remove it and fetch it again'
    ) from None
