"""Chooses rows of a raw log by their kind of event and by the item table; marks the rows that are only context."""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import logging
from typing import Any, Protocol

import numpy as np

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
    keep: bool `[N]`; None: all rows are kept.
    is_context: bool `[N]`, the rows that are never targets; None: every row may be a target.
    dropped: statistics of the dropped rows, by name; empty if all are kept.
  """

  keep: np.ndarray | None = None
  is_context: np.ndarray | None = None
  dropped: dict[str, Any] = dataclasses.field(default_factory=dict)


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


def select(
  log: RawLog,
  filters: Filters,
  item_ids: Sequence[str],
  items: np.ndarray,
  event_names: Sequence[str],
  events: np.ndarray | None,
) -> Selection:
  """Chooses the rows of a log.

  Args:
    log: the log.
    filters: the settings.
    item_ids: raw ids of the items, and of no other items than those in the log.
    items: int32 `[N]`, indices of `item_ids`.
    event_names: the kinds of events in the log.
    events: int32 `[N]`, indices of `event_names`, or None.

  Raises:
    ValueError: the settings name events that the log lacks, or leave no row; or an item has no record and must
      have one; or no item has a record.
  """
  keep, is_context, dropped = None, None, {}
  if filters.events or filters.context_events:
    counts = {}
    if events is not None:
      numbers = np.bincount(events, minlength=len(event_names)).tolist()
      counts = dict(zip(event_names, numbers, strict=True))
    chosen = choose_events(filters, counts)
    dropped |= chosen.dropped
    if not chosen.is_kept_E.all():
      keep = chosen.is_kept_E[events]
    if filters.context_events:
      is_context = chosen.is_context_E[events]
  known = known_items(log, filters, item_ids, item_ids[items[0]] if len(items) else '')
  if known is not None:
    rows = ~known[items] if keep is None else ~known[items] & keep
    count = int(rows.sum())
    if count:
      keep = ~rows if keep is None else keep & ~rows
      shown = [(row, item_ids[items[row]]) for row in np.flatnonzero(rows)[:_SHOWN].tolist()]
      num_items = len(np.unique(items[rows]))
      dropped |= drop_unknown(log, filters, log.place, shown, count, num_items)
  check_any(log, len(items), keep is None or bool(keep.any()))
  return Selection(keep, is_context, dropped)


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
  known = np.array([name in log.item_records for name in item_ids], bool)
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
