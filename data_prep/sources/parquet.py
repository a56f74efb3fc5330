"""Reads Parquet files of any writer; converts all string and binary types to common ones."""

from collections.abc import Collection, Iterator
import contextlib

from etils import epath
import pyarrow as pa
import pyarrow.parquet

from data_prep.sources import records
from data_prep.sources.rows import Rows


def names(path: epath.Path) -> list[str]:
  """Returns the column names of a file.

  Raises:
    ValueError: the file is invalid, or a name occurs twice.
  """
  with _opened(path) as file:
    found = file.schema_arrow.names
  if len(set(found)) < len(found):
    raise ValueError(f'{path}: must name each column once; got {records.short(found)}')
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
  """Returns the column with view, fixed-size and extension types (except UUID) cast to plain types."""
  kind = values.type
  if isinstance(kind, pa.BaseExtensionType):
    return values if isinstance(kind, pa.UuidType) else plain(values.cast(kind.storage_type))
  if pa.types.is_string_view(kind):
    return values.cast(pa.large_string())
  if pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
    return values.cast(pa.large_binary())
  return values


@contextlib.contextmanager
def _opened(path: epath.Path) -> Iterator[pyarrow.parquet.ParquetFile]:
  try:
    with path.open('rb') as stream:
      yield pyarrow.parquet.ParquetFile(stream)
  except (pa.ArrowException, OSError) as error:
    raise ValueError(f'{path}: must be a complete Parquet file; {error}') from None
