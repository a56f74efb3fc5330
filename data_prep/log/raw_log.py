"""The output of a source: a raw log."""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np


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


@dataclasses.dataclass(frozen=True)
class RawLog:
  """The output of a source: one row per interaction, in file order.

  Attributes:
    users: str `[N]`, raw ids.
    items: str `[N]`, raw ids.
    times: int64 `[N]`; later times are larger numbers.
    item_records: catalogue records by raw item id, with any of title, brand, categories, price and
      description (see `data_prep.log.item_text.tidy`). An item may lack a record. Items without interactions
      are ignored unless `data.catalogue` is 'all'.
    ratings: float32 `[N]`, NaN for rows without a rating; or None.
    events: str `[N]`, kinds of interactions, or None.
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

  users: np.ndarray
  items: np.ndarray
  times: np.ndarray
  item_records: dict[str, dict[str, Any]]
  ratings: np.ndarray | None = None
  events: np.ndarray | None = None
  held_out: dict[str, HeldOutRows] | None = None
  ticks_per_second: int = 1
  unreadable_ratings: int = 0
  place: Callable[[int], str] = lambda row: f'interaction {row + 1:,} of the log'
  catalogue_file: str = ''
  is_catalogue_whole: bool = False
  ignored_columns: dict[str, list[str]] = dataclasses.field(default_factory=dict)
