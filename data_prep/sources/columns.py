"""Reads and checks whole columns of ids, numbers and texts: tens of millions of rows in seconds."""

import math
import re
from typing import Any
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.log.ids import Ids
from data_prep.sources import records
from data_prep.sources.rows import Rows, decoded

# At most two digits follow the comma, so that it is none between thousands.
_DECIMAL_COMMA = re.compile(r'[+-]?\d+,\d{1,2}')


def ids(rows: Rows, column: str) -> Ids:
  """Returns a column of texts or integers as ids.

  Bytes must be UTF-8. Decimals must be whole numbers.

  Raises:
    ValueError: the column is of another type, or an id is missing, too long or not printable.
  """
  values = decoded(rows.columns[column])
  kind = values.type
  if not len(values):
    return Ids(pa.array([], pa.large_string()), np.zeros(0, np.int32))
  if isinstance(kind, pa.UuidType):
    values = pa.chunked_array([_uuids(values)], pa.large_string())
  elif not (is_text(kind) or is_bytes(kind) or is_exact(kind)):
    raise rows.column_error(column, 'text or integers')
  check_no_nulls(rows, column)
  if pa.types.is_decimal(kind):
    values = _integers(rows, column, values)
  encoded = values.dictionary_encode().unify_dictionaries().combine_chunks()
  codes = encoded.indices.to_numpy()
  if is_bytes(kind):
    texts = _utf8(rows, column, encoded.dictionary, codes)
  else:
    texts = encoded.dictionary.cast(pa.large_string())
  # Short printable ASCII texts are valid ids, and most ids are such texts. The others are checked one by one.
  plain = pc.match_substring_regex(texts, '^[!-~]{1,100}$')
  for code in np.flatnonzero(~plain.to_numpy(zero_copy_only=False)).tolist():
    try:
      records.identifier(texts[code].as_py(), column)
    except ValueError as error:
      raise ValueError(
        f'{rows.place(int(np.argmax(codes == code)))}: {error}{rows.advice(column)}'
      ) from None
  return Ids(texts, codes)


def _uuids(values: pa.ChunkedArray) -> pa.Array:
  stored = values.cast(pa.binary(16)).to_pylist()
  texts = [None if value is None else str(uuid.UUID(bytes=value)) for value in stored]
  return pa.array(texts, pa.large_string())


def _integers(rows: Rows, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
  """Decimals, spelled as integers."""
  wide = values.cast(pa.decimal256(76, values.type.scale))
  is_whole = pc.equal(wide, pc.floor(wide)).combine_chunks()
  if not pc.all(is_whole).as_py():
    row = pc.index(is_whole, False).as_py()
    raise rows.error(row, f'{column} must be text or an integer', values[row].as_py(), column)
  return pa.chunked_array(
    [[str(int(value)) for value in chunk.to_pylist()] for chunk in values.chunks], pa.string()
  )


def _utf8(rows: Rows, column: str, names: pa.Array, codes: np.ndarray) -> pa.Array:
  """Ids that are bytes, as text."""
  texts = []
  for code, name in enumerate(names.to_pylist()):
    try:
      texts.append(name.decode())
    except UnicodeDecodeError:
      row = int(np.argmax(codes == code))
      raise rows.error(row, f'{column} must be text in UTF-8', name, column) from None
  return pa.array(texts, pa.large_string())


def numbers(rows: Rows, column: str) -> np.ndarray:
  """Returns a column of numbers as float32 `[N]`: NaN for missing values, infinity for values that are no numbers."""
  values = decoded(rows.columns[column])
  if is_bytes(values.type) or is_text(values.type):
    wide = _parse_numbers(values)
  elif is_number(values.type):
    wide = values.cast(pa.float64(), safe=False).to_numpy()
  else:
    wide = np.full(len(values), np.inf)
    wide[values.is_null().to_numpy()] = np.nan
  return np.where(np.abs(wide) >= 1e38, np.inf, wide).astype(np.float32)


def _parse_numbers(values: pa.ChunkedArray) -> np.ndarray:
  """Texts as float64; see `numbers`."""
  encoded = values.dictionary_encode().unify_dictionaries().combine_chunks()
  if not len(encoded):
    return np.zeros(0)
  read = np.array([_number(text) for text in encoded.dictionary.to_pylist()] + [np.nan])
  codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
  return read[codes]


def _number(value: Any) -> float:
  text = value.decode('utf-8', 'replace') if isinstance(value, bytes) else value
  if text.strip().lower() in records.MISSING:
    return np.nan
  if _DECIMAL_COMMA.fullmatch(text.strip()):
    text = text.replace(',', '.')
  try:
    number = float(text)
  except ValueError:
    return np.inf
  return number if number == number else np.inf


def texts(rows: Rows, column: str) -> list[Any]:
  """Returns a descriptive column as Python objects; bytes that are not UTF-8 are read as Windows-1252."""
  values = decoded(rows.columns[column])
  if isinstance(values.type, pa.UuidType):
    values = pa.chunked_array([_uuids(values)], pa.large_string())
  try:
    found = values.to_pylist()
  except (ValueError, OverflowError):  # one invalid value fails the whole conversion
    found = [_object(value) for value in values]
  return [_texts_in(value) for value in found]


def _object(value: pa.Scalar) -> Any:
  try:
    return value.as_py()
  except UnicodeDecodeError:
    return value.as_buffer().to_pybytes() if hasattr(value, 'as_buffer') else math.nan
  except (ValueError, OverflowError):
    return math.nan  # dropped and counted by every field


def _texts_in(value: Any) -> Any:
  """Decodes bytes, also in lists."""
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError:
      return value.decode('cp1252', 'replace')  # as spreadsheets write it
  return [_texts_in(part) for part in value] if isinstance(value, list) else value


def is_text(kind: pa.DataType) -> bool:
  """Returns whether an Arrow type holds text."""
  return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
  """Returns whether an Arrow type holds bytes."""
  return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_exact(kind: pa.DataType) -> bool:
  """Returns whether an Arrow type holds integers or decimals."""
  return pa.types.is_integer(kind) or pa.types.is_decimal(kind)


def is_number(kind: pa.DataType) -> bool:
  """Returns whether an Arrow type holds numbers of any kind."""
  return is_exact(kind) or pa.types.is_floating(kind)


def check_no_nulls(rows: Rows, column: str) -> None:
  """Raises a ValueError for the first row without a value."""
  values = rows.columns[column]
  if values.null_count:
    row = pc.index(pc.is_null(values), True).as_py()
    raise ValueError(f'{rows.place(row)}: {column} must not be missing{rows.advice(column)}')
