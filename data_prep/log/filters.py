"""Chooses rows of a raw log by their kind of event and by the item table; marks the rows that are only context."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import dataclasses
import logging
from typing import Any, Protocol

import numpy as np

from data_prep.log import arrays
from data_prep.log.ids import Names
from data_prep.log.raw_log import RawLog
from recjax.schema.data import Data
from recjax.schema.names import near

_SHOWN = 10  # names in a message
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Filters:
  """The settings that choose rows.

  Attributes:
    events: kinds that may be targets; empty: all but `context_events`.
    context_events: kinds that are kept as context and are never targets.
    unknown_items: 'refuse', 'drop' or 'keep' interactions with items that have no record; 'auto': refuse if
      the records are the whole catalogue, else keep.
  """

  events: tuple[str, ...] = ()
  context_events: tuple[str, ...] = ()
  unknown_items: str = 'auto'

  @classmethod
  def of(cls, data: Data) -> 'Filters':
    """Returns the filters that a data section sets."""
    return cls(data.events, data.context_events, data.unknown_items)


@dataclasses.dataclass(frozen=True)
class Selection:
  """Rows of a raw log.

  Attributes:
    kept_events: bool `[E]`, the kinds of events whose rows are kept; None: all.
    known_items: bool `[I]`, the items whose rows are kept; None: all.
    is_context: bool `[E]`, the kinds that are never targets; None: every row may be a target.
    dropped: statistics of the dropped rows, by name; empty if all are kept.
  """

  kept_events: np.ndarray | None = None
  known_items: np.ndarray | None = None
  is_context: np.ndarray | None = None
  dropped: dict[str, Any] = dataclasses.field(default_factory=dict)

  def keep(self, items: np.ndarray, events: np.ndarray | None) -> np.ndarray | None:
    """Returns which rows with these numbers of items and events are kept, bool; None: all."""
    keep = None if self.kept_events is None else self.kept_events[events]
    if self.known_items is None:
      return keep
    known = self.known_items[items]
    return known if keep is None else keep & known


@dataclasses.dataclass(frozen=True)
class Columns:
  """The items and events of a raw log, numbered.

  Attributes:
    log: the log.
    item_ids: raw ids of the items, and of no other items than those in the log.
    item_numbers: int32, the number of each distinct id of `log.items`.
    event_names: the kinds of events in the log.
    event_numbers: the same for `log.events`, or None.
  """

  log: RawLog
  item_ids: Names
  item_numbers: np.ndarray
  event_names: Sequence[str] = ()
  event_numbers: np.ndarray | None = None

  def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
    """Yields the rows of a block, and the numbers of their items and events."""
    for rows in arrays.blocks(len(self.log.items)):
      items = self.item_numbers[self.log.items.codes[rows]]
      has_events = self.event_numbers is not None
      yield rows, items, self.event_numbers[self.log.events.codes[rows]] if has_events else None

  def event_counts(self) -> dict[str, int]:
    """Returns the number of rows of each kind, by name; {} without kinds."""
    names = self.event_names
    if self.event_numbers is None:
      return {}
    counts = sum(np.bincount(events, minlength=len(names)) for _, _, events in self.blocks())
    return dict(zip(names, counts.tolist(), strict=True))

  def without_record(
    self, chosen: Selection, known: np.ndarray
  ) -> tuple[int, int, list[tuple[int, str]]]:
    """Returns the numbers of chosen rows with unknown items and of these items, and some such rows with their items.

    Args:
      chosen: the rows.
      known: bool `[I]`, the items with a record.
    """
    count, seen, shown = 0, np.zeros(len(known), bool), []
    for rows, items, events in self.blocks():
      keep = chosen.keep(items, events)
      found = np.flatnonzero(~known[items] if keep is None else ~known[items] & keep)
      count += len(found)
      seen[items[found]] = True
      first = found[: _SHOWN - len(shown)]
      names = self.item_ids.take(items[first])
      shown += zip((rows.start + first).tolist(), names, strict=True)
    return count, arrays.count(seen), shown


@dataclasses.dataclass(frozen=True)
class Events:
  """Kinds of interactions.

  Attributes:
    is_kept_E: bool, the kinds that are targets or context.
    is_context_E: bool, the kinds that are never targets.
    dropped: statistics of the rows of other kinds; empty if there are none.
  """

  is_kept_E: np.ndarray
  is_context_E: np.ndarray
  dropped: dict[str, Any]


def select(columns: Columns, filters: Filters) -> Selection:
  """Chooses the rows of a log.

  Raises:
    ValueError: the settings name events that the log lacks, or leave no row; or an item has no record and must
      have one; or no item has a record.
  """
  log = columns.log
  kept_events, is_context, dropped = None, None, {}
  if filters.events or filters.context_events:
    chosen = choose_events(filters, columns.event_counts())
    dropped |= chosen.dropped
    kept_events = None if chosen.is_kept_E.all() else chosen.is_kept_E
    is_context = chosen.is_context_E if filters.context_events else None
  first = log.items[0] if len(log.items) else ''
  known = known_items(log, filters, columns.item_ids, first)
  if known is not None and not known.all():
    count, num_items, shown = columns.without_record(Selection(kept_events), known)
    if count:
      dropped |= drop_unknown(log, filters, log.place, shown, count, num_items)
  selection = Selection(kept_events, known, is_context, dropped)
  kept = (selection.keep(items, events) for _, items, events in columns.blocks())
  is_any_left = not len(log.items) or any(keep is None or keep.any() for keep in kept)
  check_any(log, len(log.items), is_any_left)
  return selection


def choose_events(filters: Filters, counts: Mapping[str, int]) -> Events:
  """Chooses kinds of interactions; `filters` name some.

  Args:
    filters: the settings.
    counts: number of rows of each kind in the log, by name; empty for a log without kinds.

  Raises:
    ValueError: the settings name kinds that the log lacks, or leave no target.
  """
  _check_events(filters, counts)
  is_target_E = np.array([name in filters.events for name in counts])
  is_context_E = np.array([name in filters.context_events for name in counts])
  if not filters.events:
    is_target_E = ~is_context_E
  if not is_target_E.any():
    raise ValueError(
      f'data.context_events must leave an event that may be a target; it names all of the log: '
      f'{_listed(counts)}. Set --config.data.context_events'
    )
  is_kept_E, dropped = is_target_E | is_context_E, {}
  if not is_kept_E.all():
    left_out = {
      name: count
      for (name, count), is_kept in zip(counts.items(), is_kept_E, strict=True)
      if not is_kept
    }
    dropped = {'other_events_dropped': left_out}
    _log.info('left out interactions of other events: %s', _listed(left_out))
  return Events(is_kept_E, is_context_E, dropped)


def _check_events(filters: Filters, counts: Mapping[str, int]) -> None:
  """Checks that the log has all kinds that the settings name."""
  settings = {'events': filters.events, 'context_events': filters.context_events}
  if not counts:
    field = next(name for name, kinds in settings.items() if kinds)
    raise ValueError(
      f'data.{field} needs a log with the kind of each interaction; this log has none. '
      f'Set --config.data.event_column to its column, or --config.data.{field}="()"'
    )
  for field, kinds in settings.items():
    absent = [name for name in kinds if name not in counts]
    if absent:
      similar = near(absent[0], counts)
      question = f'. Did you mean {similar[0]!r}?' if similar else '.'
      raise ValueError(
        f'data.{field} must name events of the log, which are {_listed(counts)}; got '
        f'{", ".join(map(repr, absent))}{question} Set --config.data.{field}'
      )


def _listed(counts: Mapping[str, int]) -> str:
  """Events with their numbers of rows, the most frequent first."""
  ranked = sorted(counts.items(), key=lambda pair: -pair[1])
  more = f' and {len(ranked) - _SHOWN:,} more' if len(ranked) > _SHOWN else ''
  return ', '.join(f'{name!r} ({count:,})' for name, count in ranked[:_SHOWN]) + more


class Catalogue(Protocol):
  """What is known of the item table; see `RawLog`."""

  item_records: Collection[str]
  catalogue_file: str
  is_catalogue_whole: bool


def known_items(
  log: Catalogue, filters: Filters, item_ids: Sequence[str], first_item: str
) -> np.ndarray | None:
  """Returns which of the items have a record, bool `[I]`; None if the rows of all items are kept.

  Raises:
    ValueError: no item has a record.
  """
  mode = _unknown_mode(log, filters)
  if not log.catalogue_file or (mode == 'keep' and _any_in(item_ids, log.item_records)):
    return None
  known = np.fromiter((name in log.item_records for name in item_ids), bool, len(item_ids))
  if not known.any():
    example = next(iter(log.item_records), None)
    has = '' if example is None else f', which has others, such as {example!r}'
    raise ValueError(
      f'the interactions and {log.catalogue_file} must share items; none of the {len(item_ids):,} items of '
      f'the log, such as {first_item!r}, is in it{has}. Set --config.data.item_column or '
      '--config.data.item_id_column to the columns with the same ids'
    )
  return known


def _unknown_mode(log: Catalogue, filters: Filters) -> str:
  if filters.unknown_items == 'auto':
    return 'refuse' if log.is_catalogue_whole else 'keep'
  return filters.unknown_items


def drop_unknown(
  log: Catalogue,
  filters: Filters,
  place: Callable[[int], str],
  shown: Sequence[tuple[int, str]],
  count: int,
  num_items: int,
) -> dict[str, int]:
  """Returns the statistics of dropped rows with items that have no record.

  Args:
    log: the catalogue.
    filters: the settings.
    place: row number, from 0 → file and line.
    shown: row number and item of the first such rows, at least one.
    count: number of such rows.
    num_items: number of their items.

  Raises:
    ValueError: such rows are refused.
  """
  row, item = shown[0]
  if _unknown_mode(log, filters) != 'drop':
    names = dict.fromkeys(name for _, name in shown[:_SHOWN])
    raise ValueError(
      f'{place(row)}: an item must be in {log.catalogue_file}; got {item!r}. '
      f'{count:,} interactions have {num_items:,} such items ({", ".join(list(names)[:3])}'
      f"{', …' if num_items > 3 else ''}). Set --config.data.unknown_items='drop' to leave them out, or "
      "'keep' to have these items without texts"
    )
  _log.info(
    'left out %d interactions with %d items that %s lacks, such as %r',
    *(count, num_items, log.catalogue_file, item),
  )
  return {'unknown_items_dropped': num_items, 'unknown_item_interactions_dropped': count}


def check_any(log: Catalogue, count: int, is_any_left: bool) -> None:
  """Raises a ValueError if no row of `count` is left."""
  if not is_any_left:
    raise ValueError(
      f'the log must keep at least one interaction; of {count:,}, all are of other events or of items that '
      f'{log.catalogue_file} lacks. Set --config.data.events or --config.data.item_id_column'
    )


def _any_in(names: Sequence[str], records: Collection[str]) -> bool:
  return any(name in records for name in names)
