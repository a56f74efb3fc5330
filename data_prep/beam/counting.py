"""The work of the workers that find collaborative neighbours. Needs no Beam.

Ranges of users give sums of co-occurrences by block of items; a block adds them up, and keeps the strongest of every
item. The sums are integers, so that neither the ranges nor their order change them. Parts:

  ranks         rank of every item by popularity
  sums-<u>      the sums of a range of users, by block of items
  lists-<b>     the neighbours of a block of items
"""

import dataclasses
import functools
from typing import Any

from etils import epath
import numpy as np
import scipy.sparse

from data_prep import files
from data_prep.beam import parts
from data_prep.beam.job import Agreement
from data_prep.beam.parts import Place
from data_prep.relations import collaborative
from recjax.data import cooccurrence
from recjax.data.neighbours import Neighbours
from recjax.data.sequences import Sequences
from recjax.runtime import files as files_lib
from recjax.schema.items import Relations

RANKS = 'ranks'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(Agreement):
  """The search of collaborative neighbours.

  Attributes:
    items, offsets: paths of the training items of all users and of their offsets.
    num_items: I.
    relations: window, distance_weight, min_count and top_k are read; hops is 1.
    borders: first item of every block but the first.
  """

  items: str
  offsets: str
  num_items: int
  relations: Relations
  borders: tuple[int, ...]


def sums_name(element: tuple[int, int]) -> str:
  return f'sums-{element[0]:012d}'


def lists_name(element: Any) -> str:
  number = element[0] if isinstance(element, tuple) else element
  return f'lists-{number:05d}'


@functools.lru_cache(maxsize=2)
def array(path: str) -> np.ndarray:
  """Returns an array; memory-mapped if the file is local."""
  if files_lib.is_local(path):
    return np.load(path, mmap_mode='r')
  return files.load(epath.Path(path))


def user_ranges(offsets: np.ndarray, size: int) -> list[tuple[int, int]]:
  """Returns first and last user of ranges with about `size` interactions."""
  wanted = np.arange(size, int(offsets[-1]), size)
  bounds = np.unique([0, *np.searchsorted(offsets, wanted).tolist(), len(offsets) - 1])
  return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def item_borders(occurrences_I: np.ndarray, size: int) -> tuple[int, ...]:
  """Returns the borders of blocks of items with about `size` interactions each."""
  ends = np.cumsum(occurrences_I)
  wanted = np.arange(size, int(ends[-1]), size)
  borders = np.unique(np.searchsorted(ends, wanted) + 1)
  return tuple(borders[borders < len(ends)].tolist())


def count_users(job: Counting, element: tuple[int, int]) -> tuple[bytes, dict[str, Any]]:
  """Returns the sums of a range of users, by block of items."""
  first, last = element
  offsets = np.asarray(array(job.offsets)[first : last + 1])
  values = np.asarray(array(job.items)[offsets[0] : offsets[-1]])
  counts = cooccurrence.cooccurrence_counts(
    Sequences(values, offsets - offsets[0]),
    job.num_items,
    job.relations.window,
    job.relations.distance_weight,
  )
  counts.data = np.rint(counts.data * _unit(job)).astype(np.int64)
  bounds = np.array([0, *job.borders, job.num_items])
  ends = counts.indptr[bounds]
  return parts.joined(
    (number, _small(counts[bounds[number] : bounds[number + 1]]))
    for number in np.flatnonzero(np.diff(ends)).tolist()
  )


def _small(counts: scipy.sparse.csr_matrix) -> dict[str, np.ndarray]:
  """Counts as arrays of the smallest types that hold them: most pairs of a range occur once."""
  lengths = np.diff(counts.indptr)
  return {
    'data': counts.data.astype(np.min_scalar_type(counts.data.max(initial=0))),
    'items': counts.indices.astype(np.int32, copy=False),
    'lengths': lengths.astype(np.min_scalar_type(lengths.max(initial=0))),
  }


def _summed(found: list[dict[str, np.ndarray]], shape: tuple[int, int]) -> scipy.sparse.csr_matrix:
  """Adds the counts of all ranges in one pass."""
  rows = [np.repeat(np.arange(shape[0], dtype=np.int32), part['lengths']) for part in found]
  data = np.concatenate([np.zeros(0, np.int64), *(part['data'].astype(np.int64) for part in found)])
  items, owners = (
    np.concatenate([np.zeros(0, np.int32), *values])
    for values in ([part['items'] for part in found], rows)
  )
  return scipy.sparse.coo_matrix((data, (owners, items)), shape).tocsr()


def _unit(job: Counting) -> int:
  """The counts are integers in units of 1/n; returns n."""
  return cooccurrence.UNIT if job.relations.distance_weight == 'inverse' else 1


def find_lists(
  job: Counting, element: tuple[int, list[Place]]
) -> tuple[dict[str, np.ndarray], dict]:
  """Returns the neighbours of a block of items: its number, and the places of its sums."""
  number, places = element
  bounds = (0, *job.borders, job.num_items)
  shape = (bounds[number + 1] - bounds[number], job.num_items)
  counts = _summed(list(job.work.pieces(places)), shape)
  counts.data = counts.data / _unit(job)
  collaborative.drop_rare(counts, job.relations.min_count)
  ranks_I = job.work.read(RANKS)['ranks']
  lists = collaborative.related(counts).strongest(job.relations.top_k, ranks_I)
  return {
    'items': lists.items.values,
    'offsets': lists.items.offsets,
    'strengths': lists.strengths,
  }, {'lists': len(lists)}


def read_lists(job: Counting, number: int) -> Neighbours:
  """Returns the neighbours of a block of items."""
  arrays = job.work.read(lists_name(number))
  return Neighbours(Sequences(arrays['items'], arrays['offsets']), arrays['strengths'])
