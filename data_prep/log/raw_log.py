"""The output of a source: a raw log."""

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from data_prep.log.ids import Ids


@dataclasses.dataclass(frozen=True)
class HeldOutRows:
  """The rows of a source's own validation or test part.

  Attributes:
    users: str `[n]`, raw ids.
    histories: for each target the items before it: raw ids, oldest first.
    targets: str `[n]`, raw item ids.
  """

  users: np.ndarray
  histories: list[list[str]]
  targets: np.ndarray


class ItemRecords(Mapping[str, dict[str, Any]]):
  """Records of a large item table, which are made when they are asked for."""

  @abc.abstractmethod
  def many(self, names: Sequence[str]) -> list[dict[str, Any] | None]:
    """Returns the records of some items, None for those without."""


def records_of(
  records: Mapping[str, dict[str, Any]], names: Sequence[str]
) -> list[dict[str, Any] | None]:
  """Returns the records of some items, None for those without."""
  if isinstance(records, ItemRecords):
    return records.many(names)
  return [records.get(name) for name in names]


@dataclasses.dataclass(frozen=True)
class RawLog:
  """The output of a source: one row per interaction, in file order.

  Attributes:
    users: raw ids of the N rows; an array of texts becomes `Ids`.
    items: raw ids, likewise.
    times: int64 `[N]`; later times are larger numbers.
    item_records: catalogue records by raw item id, with any of title, brand, categories, price and
      description (see `data_prep.log.item_text.tidy`). An item may lack a record. Items without interactions
      are ignored unless `data.catalogue` is 'all'.
    ratings: float32 `[N]`, NaN for rows without a rating; or None.
    events: kinds of interactions, likewise, or None.
    ticks_per_second: unit of the times; 0: the times only define an order.
    held_out: the rows of a source's own `validation` and `test` parts; the other columns are then its
      training part. None: the source has no split.
    unreadable_ratings: number of ratings that cannot be read. If it is not 0, `ratings` is None.
    place: row number, from 0 → file and line, for a message.
    catalogue_file: name of the file of the item table, for a message; '': the source has none.
    is_catalogue_whole: whether every item should have a record (see `data.unknown_items`).
    ignored_columns: 'interactions' and 'items' → columns of these tables that are not used; without tables whose
      columns are all used.
  """

  users: Ids
  items: Ids
  times: np.ndarray
  item_records: Mapping[str, dict[str, Any]]
  ratings: np.ndarray | None = None
  events: Ids | None = None
  held_out: dict[str, HeldOutRows] | None = None
  ticks_per_second: int = 1
  unreadable_ratings: int = 0
  place: Callable[[int], str] = lambda row: f'interaction {row + 1:,} of the log'
  catalogue_file: str = ''
  is_catalogue_whole: bool = False
  ignored_columns: dict[str, list[str]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name in ('users', 'items', 'events'):
      if (column := getattr(self, name)) is not None:
        object.__setattr__(self, name, Ids.of(column))
