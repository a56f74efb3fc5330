"""Ranges of users: borders between raw ids, so that range r holds all rows of consecutive users."""

import bisect
from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.beam.blocks import Block

SAMPLE = 512  # ids of a block's sample
_SMALL, _LARGE, _FEW = 1 << 16, 1 << 20, 64


def count(num_rows: int) -> int:
  """Returns the number of ranges of a log; it does not depend on the number of workers."""
  return max(1, min(-(-num_rows // _SMALL), max(_FEW, -(-num_rows // _LARGE))))


def sample(block: Block) -> list[str]:
  """Returns user ids of a block such that about equally many rows lie between neighbours; sorted."""
  ends = np.cumsum(np.bincount(block.users, minlength=len(block.user_ids)))
  at = np.linspace(0, len(block), min(SAMPLE, len(block)), endpoint=False).astype(np.int64)
  chosen = np.searchsorted(ends, at, side='right')
  return block.user_ids.take(pa.array(chosen)).to_pylist()


def borders(samples: Sequence[Sequence[str]], sizes: Sequence[int], number: int) -> list[str]:
  """Returns at most `number - 1` user ids that part the rows into ranges of similar sizes; sorted.

  Args:
    samples: the sample of every block.
    sizes: number of rows of every block.
    number: of the ranges.
  """
  weighted = sorted(
    (name, size / len(names)) for names, size in zip(samples, sizes, strict=True) for name in names
  )
  ends = np.cumsum([weight for _, weight in weighted])
  wanted = ends[-1] * np.arange(1, number) / number
  found = {weighted[n][0] for n in np.searchsorted(ends, wanted).tolist()}
  return sorted(found)


def parted(texts: pa.Array, borders: Sequence[str]) -> np.ndarray:
  """Returns the first index of every range in sorted texts, and their number: int64 `[ranges + 1]`.

  A border is the first text of its range.
  """
  starts = [bisect.bisect_left(_Texts(texts), border) for border in borders]
  return np.array([0, *starts, len(texts)], np.int64)


@dataclasses.dataclass(frozen=True)
class _Texts:
  """An Arrow array as a sequence of str, for `bisect`."""

  array: pa.Array

  def __len__(self) -> int:
    return len(self.array)

  def __getitem__(self, n: int) -> str:
    return self.array[n].as_py()


def scatter(block: Block, borders: Sequence[str]) -> Iterator[tuple[int, Block]]:
  """Yields the rows of every range that has some, with the users of the range."""
  bounds = parted(block.user_ids, borders)
  order = np.argsort(block.users, kind='stable')
  starts = np.searchsorted(block.users[order], bounds)
  for number in np.flatnonzero(np.diff(starts)).tolist():
    first, last = int(bounds[number]), int(bounds[number + 1])
    rows = block.take(order[starts[number] : starts[number + 1]])
    yield (
      number,
      dataclasses.replace(
        rows,
        user_ids=block.user_ids.slice(first, last - first),
        users=(rows.users - first).astype(np.int32),
      ),
    )


def folded(texts: pa.Array) -> pa.Array:
  """Returns the keys of `numbering.alike`: ids that differ only by case or white space have one key."""
  return pc.utf8_lower(pc.utf8_trim_whitespace(texts))


def scatter_alike(texts: pa.Array, borders: Sequence[str]) -> Iterator[tuple[int, pa.Array]]:
  """Yields ids by range of their folded key, so that ids that are alike meet in one range."""
  keys = folded(texts)
  order = pc.sort_indices(keys)
  sorted_borders = sorted(set(folded(pa.array(borders, pa.large_string())).to_pylist()))
  bounds = parted(keys.take(order), sorted_borders)
  for number in np.flatnonzero(np.diff(bounds)).tolist():
    yield number, texts.take(order.slice(bounds[number], bounds[number + 1] - bounds[number]))
