"""Numbers raw ids in sorted order, so that the numbering does not depend on held-out interactions."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.log.ids import Ids, Names


def factorise(*columns: Ids) -> tuple[Names, list[np.ndarray]]:
  """Returns the distinct ids of all columns, sorted by code points, and the number of each text of each column.

  The numbers of a column's rows are `numbers[column.codes]`.
  """
  if len(columns) == 1:
    texts, places = columns[0].texts, [None]
  else:
    chunks = pa.chunked_array(
      [
        pa.DictionaryArray.from_arrays(np.arange(len(column.texts), dtype=np.int32), column.texts)
        for column in columns
      ]
    )
    chunks = chunks.unify_dictionaries().chunks
    texts, places = chunks[0].dictionary, [chunk.indices.to_numpy() for chunk in chunks]
  order = pc.sort_indices(texts)  # UTF-8 sorts as code points do
  rank = np.empty(len(order), np.int32)
  rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
  return Names(texts.take(order)), [rank if rows is None else rank[rows] for rows in places]


def renumber(
  ids: Names, is_used: np.ndarray, extra_ids: Iterable[str] = ()
) -> tuple[Names, np.ndarray]:
  """Drops ids that are not used, adds `extra_ids`, and numbers the result in sorted order.

  Args:
    ids: sorted ids.
    is_used: bool, like `ids`.
    extra_ids: ids to keep even if they are not used; some may be in `ids`.

  Returns:
    The sorted ids, and the new number of each of `ids`, int32; -1: it is dropped.
  """
  extra = pa.array(list(extra_ids), pa.large_string())
  used = ids.texts.filter(pa.array(is_used))
  number = np.full(len(ids), -1, np.int32)
  if len(extra):
    names, (ranks, _) = factorise(Ids(used, _NONE), Ids(extra, _NONE))
    number[is_used] = ranks
    return names, number
  number[is_used] = np.arange(len(used), dtype=np.int32)
  return Names(used), number


_NONE = np.zeros(0, np.int32)


def alike(ids: Names) -> list[list[str]]:
  """Returns the groups of ids that differ only by case or by white space at their ends, in order of their first ids."""
  keys = pc.utf8_lower(pc.utf8_trim_whitespace(ids.texts))
  codes = keys.dictionary_encode().indices.to_numpy()
  del keys
  rows = np.flatnonzero((np.bincount(codes) > 1)[codes])
  groups: dict[int, list[str]] = {}
  for code, name in zip(codes[rows].tolist(), ids.take(rows), strict=True):
    groups.setdefault(code, []).append(name)
  return list(groups.values())
