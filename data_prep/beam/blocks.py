"""Blocks: consecutive rows of a raw log as typed columns, with ids as codes; they travel between workers as bytes."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.beam import parts
from data_prep.log import numbering
from data_prep.log.ids import Ids

_COLUMNS = ('users', 'items', 'times', 'rows', 'ratings', 'events')


@dataclasses.dataclass(frozen=True)
class Block:
  """Rows of a log.

  Attributes:
    user_ids: the distinct raw ids of the users, sorted.
    item_ids: those of the items; None if `items` are codes of all items of the log.
    event_ids: the kinds of interactions; None without events, or if `events` are codes of all kinds of the log.
    users: int32 `[n]`, indices of `user_ids`.
    items: int32 `[n]`.
    times: int64 `[n]`.
    rows: int64 `[n]`, row numbers, which order rows of equal times.
    ratings: float32 `[n]`, or None.
    events: int32 `[n]`, or None.
  """

  user_ids: pa.Array
  item_ids: pa.Array | None
  users: np.ndarray
  items: np.ndarray
  times: np.ndarray
  rows: np.ndarray
  ratings: np.ndarray | None = None
  events: np.ndarray | None = None
  event_ids: pa.Array | None = None

  def __len__(self) -> int:
    return len(self.times)

  def take(self, rows: np.ndarray | slice) -> 'Block':
    """Returns some rows, with all ids."""
    columns = {name: column[rows] for name, column in self._columns().items()}
    return dataclasses.replace(self, **columns)

  def coded(self, item_ids: pa.Array, event_ids: pa.Array, start: int) -> 'Block':
    """Returns the rows with codes of all items and events of the log, and row numbers from `start`."""
    events = None if self.events is None else codes(self.event_ids, event_ids)[self.events]
    items = codes(self.item_ids, item_ids)[self.items]
    rows = self.rows + start
    return dataclasses.replace(
      self, item_ids=None, items=items, rows=rows, events=events, event_ids=None
    )

  def renumbered(self, numbers_I: np.ndarray) -> 'Block':
    """Returns the rows with other numbers of items."""
    return dataclasses.replace(self, items=numbers_I[self.items])

  def _columns(self) -> dict[str, np.ndarray]:
    known = {name: getattr(self, name) for name in _COLUMNS}
    return {name: column for name, column in known.items() if column is not None}

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the block as arrays by name; `of_arrays` is the inverse."""
    texts = {'user_ids': self.user_ids, 'item_ids': self.item_ids, 'event_ids': self.event_ids}
    found = self._columns()
    for name, ids in texts.items():
      if ids is not None:
        found |= parts.text_arrays(name, ids)
    return found


def of_arrays(arrays: Mapping[str, np.ndarray]) -> Block:
  """Returns the block whose `arrays` are given."""
  texts = {
    name: parts.texts_of(name, arrays) if f'{name}.offsets' in arrays else None
    for name in ('user_ids', 'item_ids', 'event_ids')
  }
  return Block(
    **texts,
    **{name: arrays[name] for name in _COLUMNS if name in arrays},
  )


def compact(block: Block) -> Block:
  """Drops the users without rows."""
  is_used = np.zeros(len(block.user_ids), bool)
  is_used[block.users] = True
  number = np.cumsum(is_used, dtype=np.int32) - 1
  return dataclasses.replace(
    block, user_ids=block.user_ids.filter(pa.array(is_used)), users=number[block.users]
  )


def union(texts: Sequence[pa.Array]) -> pa.Array:
  """Returns the distinct texts of all arrays, sorted by code points."""
  every = [pa.array([], pa.large_string()), *(part.cast(pa.large_string()) for part in texts)]
  joined = pc.unique(pa.concat_arrays(every))
  return joined.take(pc.sort_indices(joined))  # UTF-8 sorts as code points do


def codes(texts: pa.Array, names: pa.Array) -> np.ndarray:
  """Returns the index in `names` of every text, int32; every text must be in `names`."""
  return pc.index_in(texts, names).to_numpy(zero_copy_only=False).astype(np.int32)


def join(blocks: Sequence[Block]) -> Block:
  """Concatenates blocks whose items are codes of the log; numbers their users anew. Takes linear time."""
  user_ids, ranks = numbering.factorise(*(Ids(block.user_ids, block.users) for block in blocks))
  users = [rank[block.users] for rank, block in zip(ranks, blocks, strict=True)]
  columns: dict[str, np.ndarray] = {'users': np.concatenate(users)}
  for name in _COLUMNS[1:]:
    values = [getattr(block, name) for block in blocks]
    if values[0] is not None:
      columns[name] = np.concatenate(values)
  return Block(user_ids.texts, None, **columns)
