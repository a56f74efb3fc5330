"""Numbers raw ids in sorted order, so that the numbering does not depend on held-out interactions."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def factorise(*columns: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
  """Returns the distinct strings of all columns, sorted by code points, and each column as int32 indices.

  Raises:
    ValueError: a value is not valid text.
  """
  texts = [chunk for column in columns for chunk in _texts(column).chunks]
  encoded = pa.chunked_array(texts, pa.large_string()).dictionary_encode().combine_chunks()
  order = pc.sort_indices(encoded.dictionary).to_numpy()  # UTF-8 sorts as code points do
  rank = np.empty(len(order), np.int32)
  rank[order] = np.arange(len(order), dtype=np.int32)
  ends = np.cumsum([len(column) for column in columns])
  codes = np.split(rank[encoded.indices.to_numpy()], ends[:-1])
  return encoded.dictionary.take(pa.array(order)).to_pylist(), codes


def _texts(column: np.ndarray) -> pa.ChunkedArray:
  try:
    array = pa.array(np.asarray(column))
  except (pa.ArrowException, UnicodeError) as error:
    raise ValueError(f'ids and kinds of events must be valid text; {error}') from error
  is_text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
  if array.null_count or not (is_text or len(array) == 0):
    raise ValueError(f'ids and kinds of events must be text; got an array of {array.type}')
  array = array.cast(pa.large_string())
  return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def renumber(
  ids: list[str], columns: Sequence[np.ndarray], extra_ids: Iterable[str] = ()
) -> tuple[list[str], list[np.ndarray]]:
  """Drops ids that no column uses, adds `extra_ids`, and numbers the result in sorted order.

  Args:
    ids: sorted ids.
    columns: int32 indices of `ids`.
    extra_ids: ids to keep even if no column uses them; some may be in `ids`.

  Returns:
    The sorted ids, and the columns as int32 indices of them.
  """
  extra = set(extra_ids)
  is_used = np.zeros(len(ids), bool)
  for column in columns:
    is_used[column] = True
  used = [ids[i] for i in np.flatnonzero(is_used)]
  numbered = sorted(extra.union(used)) if extra else used
  number = np.full(len(ids), -1, np.int32)
  if extra:
    index = {name: i for i, name in enumerate(numbered)}
    number[is_used] = [index[name] for name in used]
  else:
    number[is_used] = np.arange(len(numbered))
  return numbered, [number[column] for column in columns]


def alike(ids: Sequence[str]) -> list[list[str]]:
  """Returns the groups of ids that differ only by case or by white space at their ends, in order of their first ids."""
  keys = pc.utf8_lower(pc.utf8_trim_whitespace(pa.array(ids, pa.large_string())))
  codes = keys.dictionary_encode().indices.to_numpy()
  groups: dict[int, list[str]] = {}
  for n in np.flatnonzero(np.bincount(codes)[codes] > 1).tolist():
    groups.setdefault(int(codes[n]), []).append(ids[n])
  return list(groups.values())
