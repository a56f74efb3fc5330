"""Numbers raw ids in sorted order, so that the numbering does not depend on held-out interactions."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.log.ids import Ids


def factorise(*columns: Ids | np.ndarray) -> tuple[list[str], list[np.ndarray]]:
  """Returns the distinct ids of all columns, sorted by code points, and each column as int32 indices.

  Raises:
    ValueError: a value is not valid text.
  """
  ids = [Ids.of(column) for column in columns]
  chunks = [pa.DictionaryArray.from_arrays(column.codes, column.texts) for column in ids]
  chunks = pa.chunked_array(chunks).unify_dictionaries().chunks
  dictionary = chunks[0].dictionary
  order = pc.sort_indices(dictionary).to_numpy()  # UTF-8 sorts as code points do
  rank = np.empty(len(order), np.int32)
  rank[order] = np.arange(len(order), dtype=np.int32)
  codes = [rank[chunk.indices.to_numpy()] for chunk in chunks]
  return dictionary.take(pa.array(order)).to_pylist(), codes


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
