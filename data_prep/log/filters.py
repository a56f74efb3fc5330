"""Chooses rows of a raw log by their kind of event and by the item table; marks the rows that are only context."""

from collections.abc import Collection, Iterator, Sequence
import dataclasses
import logging
from typing import Any

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


def select(columns: Columns, filters: Filters) -> Selection:
  """Chooses the rows of a log.

  Raises:
    ValueError: the settings name events that the log lacks, or leave no row; or an item has no record and must
      have one; or no item has a record.
  """
  log, event_names = columns.log, columns.event_names
  kept_events, is_context, dropped = None, None, {}
  if filters.events or filters.context_events:
    counts = _event_counts(columns, filters)
    is_target_E = np.array([name in filters.events for name in event_names])
    is_context_E = np.array([name in filters.context_events for name in event_names])
    if not filters.events:
      is_target_E = ~is_context_E
    if not is_target_E.any():
      raise ValueError(
        f'data.context_events must leave an event that may be a target; it names all of the log: '
        f'{_listed(counts)}. Set --config.data.context_events'
      )
    others = ~(is_target_E | is_context_E)
    if others.any():
      kept_events = ~others
      left_out = {
        name: counts[name] for name, is_other in zip(event_names, others, strict=True) if is_other
      }
      dropped['other_events_dropped'] = left_out
      _log.info('left out interactions of other events: %s', _listed(left_out))
    if filters.context_events:
      is_context = is_context_E
  known = _known_items(columns, filters, Selection(kept_events))
  chosen = Selection(kept_events, known, is_context, dropped)
  if known is not None and not known.all():
    count, num_items, row = _unknown(columns, Selection(kept_events), known)
    if count:
      dropped |= {'unknown_items_dropped': num_items, 'unknown_item_interactions_dropped': count}
      _log.info(
        'left out %d interactions with %d items that %s lacks, such as %r',
        *(count, num_items, log.catalogue_file, log.items[row]),
      )
  kept = (chosen.keep(items, events) for _, items, events in columns.blocks())
  if len(log.items) and not any(keep is None or keep.any() for keep in kept):
    raise ValueError(
      f'the log must keep at least one interaction; of {len(log.items):,}, all are of other events or of items that '
      f'{log.catalogue_file} lacks. Set --config.data.events or --config.data.item_id_column'
    )
  return chosen


def _event_counts(columns: Columns, filters: Filters) -> dict[str, int]:
  """The number of rows of each kind, by name; checks that the log has all kinds that the settings name."""
  settings = {'events': filters.events, 'context_events': filters.context_events}
  if columns.event_numbers is None:
    field = next(name for name, kinds in settings.items() if kinds)
    raise ValueError(
      f'data.{field} needs a log with the kind of each interaction; this log has none. '
      f'Set --config.data.event_column to its column, or --config.data.{field}="()"'
    )
  names = columns.event_names
  numbers = sum(np.bincount(events, minlength=len(names)) for _, _, events in columns.blocks())
  counts = dict(zip(names, numbers.tolist(), strict=True))
  for field, kinds in settings.items():
    absent = [name for name in kinds if name not in counts]
    if absent:
      similar = near(absent[0], counts)
      question = f'. Did you mean {similar[0]!r}?' if similar else '.'
      raise ValueError(
        f'data.{field} must name events of the log, which are {_listed(counts)}; got '
        f'{", ".join(map(repr, absent))}{question} Set --config.data.{field}'
      )
  return counts


def _listed(counts: dict[str, int]) -> str:
  """Events with their numbers of rows, the most frequent first."""
  ranked = sorted(counts.items(), key=lambda pair: -pair[1])
  more = f' and {len(ranked) - _SHOWN:,} more' if len(ranked) > _SHOWN else ''
  return ', '.join(f'{name!r} ({count:,})' for name, count in ranked[:_SHOWN]) + more


def _known_items(columns: Columns, filters: Filters, chosen: Selection) -> np.ndarray | None:
  """Which of the items have a record, bool `[I]`; None if the rows of all items are kept.

  Raises:
    ValueError: an item of the chosen rows has no record and must have one, or no item has a record.
  """
  log, item_ids = columns.log, columns.item_ids
  mode = filters.unknown_items
  if mode == 'auto':
    mode = 'refuse' if log.is_catalogue_whole else 'keep'
  if not log.catalogue_file or (mode == 'keep' and _any_in(item_ids, log.item_records)):
    return None
  known = np.fromiter((name in log.item_records for name in item_ids), bool, len(item_ids))
  if not known.any():
    example = next(iter(log.item_records), None)
    has = '' if example is None else f', which has others, such as {example!r}'
    raise ValueError(
      f'the interactions and {log.catalogue_file} must share items; none of the {len(item_ids):,} items of '
      f'the log, such as {log.items[0]!r}, is in it{has}. Set --config.data.item_column or '
      '--config.data.item_id_column to the columns with the same ids'
    )
  if mode == 'drop' or known.all():
    return known
  count, num_items, row = _unknown(columns, chosen, known)
  if count:
    names = _first_unknown(columns, chosen, known)
    raise ValueError(
      f'{log.place(row)}: an item must be in {log.catalogue_file}; got {log.items[row]!r}. '
      f'{count:,} interactions have {num_items:,} such items ({", ".join(names[:3])}'
      f"{', …' if num_items > 3 else ''}). Set --config.data.unknown_items='drop' to leave them out, or "
      "'keep' to have these items without texts"
    )
  return known


def _unknown(columns: Columns, chosen: Selection, known: np.ndarray) -> tuple[int, int, int]:
  """The numbers of chosen rows with unknown items and of these items, and the first such row."""
  count, first = 0, -1
  seen = np.zeros(len(known), bool)
  for rows, items, events in columns.blocks():
    keep = chosen.keep(items, events)
    found = np.flatnonzero(~known[items] if keep is None else ~known[items] & keep)
    if len(found):
      first = rows.start + int(found[0]) if first < 0 else first
      count += len(found)
      seen[items[found]] = True
  return count, arrays.count(seen), first


def _first_unknown(columns: Columns, chosen: Selection, known: np.ndarray) -> list[str]:
  """The items of the first chosen rows with unknown items."""
  for _, items, events in columns.blocks():
    keep = chosen.keep(items, events)
    found = items[~known[items] if keep is None else ~known[items] & keep][:_SHOWN]
    if len(found):
      return list(dict.fromkeys(columns.item_ids.take(found)))
  return []


def _any_in(names: Sequence[str], records: Collection[str]) -> bool:
  return any(name in records for name in names)
