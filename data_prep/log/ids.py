"""Columns of raw ids as indices of their distinct texts."""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.log import arrays


@dataclasses.dataclass(frozen=True, eq=False)
class Ids:
  """A column of ids. It reads like an array of texts, and holds each text once.

  Attributes:
    texts: large_string, the distinct ids.
    codes: int32 `[N]`, the index in `texts` of each row's id.
  """

  texts: pa.LargeStringArray
  codes: np.ndarray

  @classmethod
  def of(cls, column: 'Ids | np.ndarray | Sequence[str]') -> 'Ids':
    """Returns a column of texts as ids.

    Raises:
      ValueError: a value is not valid text.
    """
    if isinstance(column, cls):
      return column
    try:
      array = pa.array(np.asarray(column))
    except (pa.ArrowException, UnicodeError) as error:
      raise ValueError(f'ids and kinds of events must be valid text; {error}') from error
    is_text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    if array.null_count or not (is_text or len(array) == 0):
      raise ValueError(f'ids and kinds of events must be text; got an array of {array.type}')
    values = pa.chunked_array([array] if isinstance(array, pa.Array) else array.chunks, array.type)
    return cls.encoded(values.cast(pa.large_string()))

  @classmethod
  def encoded(cls, values: pa.ChunkedArray) -> 'Ids':
    """Returns a column of large_string without nulls as ids, the distinct ones in the order of their first rows."""
    found = values.dictionary_encode().combine_chunks()
    return cls(found.dictionary, found.indices.to_numpy())

  @property
  def names(self) -> list[str]:
    """The distinct ids as Python strings."""
    return self.texts.to_pylist()

  def rows(self) -> pa.LargeStringArray:
    """Returns the ids of all rows."""
    return self.texts.take(pa.array(self.codes))

  def tolist(self) -> list[str]:
    return self.rows().to_pylist()

  def __len__(self) -> int:
    return len(self.codes)

  def __getitem__(self, rows: Any) -> Any:
    codes = self.codes[rows]
    return self.texts[int(codes)].as_py() if np.ndim(codes) == 0 else Ids(self.texts, codes)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    del copy
    return np.array(self.tolist(), dtype or str)

  def __eq__(self, other: Any) -> Any:
    """Compares row by row with an id."""
    code = pc.index(self.texts, pa.scalar(str(other), pa.large_string())).as_py()
    return self.codes == code if code >= 0 else np.zeros(len(self), bool)

  __hash__ = None


class Coder:
  """Gives the ids of a column that comes in batches one numbering, in the order of their first rows.

  Distinct ids of several batches are merged once they are as many as all ids before them. So the distinct ids are in
  memory three times at most, and each is hashed a few times.
  """

  def __init__(self, scratch: arrays.Scratch):
    self._texts = pa.array([], pa.large_string())
    self._codes = arrays.Column(scratch, np.int32)
    self._waiting: list[Ids] = []
    self._count = self._rows = 0  # distinct ids and rows that wait

  def add(self, ids: Ids) -> None:
    """Adds a batch."""
    self._waiting.append(ids)
    self._count += len(ids.texts)
    self._rows += len(ids)
    if self._count > max(len(self._texts), arrays.BLOCK) or self._rows > 4 * arrays.BLOCK:
      self._merge()

  def _merge(self) -> None:
    if not self._waiting:
      return
    none = pa.array([], pa.int32())
    chunks = [pa.DictionaryArray.from_arrays(none, self._texts)]
    chunks += [pa.DictionaryArray.from_arrays(ids.codes, ids.texts) for ids in self._waiting]
    _, *merged = pa.chunked_array(chunks).unify_dictionaries().chunks
    self._texts = merged[-1].dictionary
    for chunk in merged:
      self._codes.append(chunk.indices.to_numpy())
    self._waiting, self._count, self._rows = [], 0, 0

  @property
  def texts(self) -> pa.LargeStringArray:
    """The distinct ids so far."""
    self._merge()
    return self._texts

  def ids(self) -> Ids:
    """Returns the whole column."""
    self._merge()
    return Ids(self._texts, self._codes.array())


class Names(Sequence[str]):
  """Texts in the memory of their characters; it reads like a list.

  Attributes:
    texts: large_string.
  """

  def __init__(self, texts: pa.LargeStringArray):
    self.texts = texts

  @classmethod
  def of(cls, names: Sequence[str]) -> 'Names':
    """Returns Python strings as names."""
    return cls(pa.array(names, pa.large_string()))

  def __len__(self) -> int:
    return len(self.texts)

  def __getitem__(self, index: Any) -> Any:
    found = self.texts[index]
    return found.to_pylist() if isinstance(index, slice) else found.as_py()

  def __iter__(self) -> Iterator[str]:
    for rows in arrays.blocks(len(self), 1 << 16):
      yield from self[rows]

  def __eq__(self, other: Any) -> bool:
    return list(self) == list(other)

  __hash__ = None

  def take(self, rows: np.ndarray) -> list[str]:
    """Returns the texts of some rows."""
    return self.texts.take(pa.array(rows)).to_pylist()
