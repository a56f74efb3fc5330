"""Chooses rows of a raw log by their kind of event and by the item table; marks the rows that are only context."""

from collections.abc import Collection, Sequence
import dataclasses
import logging
from typing import Any

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
    counts = _event_counts(log, filters, event_names, events)
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
      keep = ~others[events]
      left_out = {
        name: counts[name] for name, is_other in zip(event_names, others, strict=True) if is_other
      }
      dropped['other_events_dropped'] = left_out
      _log.info('left out interactions of other events: %s', _listed(left_out))
    if filters.context_events:
      is_context = is_context_E[events]
  known = _known_items(log, filters, item_ids, items, keep)
  if known is not None:
    rows = ~known[items] if keep is None else ~known[items] & keep
    count = int(rows.sum())
    if count:
      keep = ~rows if keep is None else keep & ~rows
      num_items = len(np.unique(items[rows]))
      dropped |= {'unknown_items_dropped': num_items, 'unknown_item_interactions_dropped': count}
      example = item_ids[items[np.argmax(rows)]]
      _log.info(
        'left out %d interactions with %d items that %s lacks, such as %r',
        *(count, num_items, log.catalogue_file, example),
      )
  if keep is not None and not keep.any():
    raise ValueError(
      f'the log must keep at least one interaction; of {len(items):,}, all are of other events or of items that '
      f'{log.catalogue_file} lacks. Set --config.data.events or --config.data.item_id_column'
    )
  return Selection(keep, is_context, dropped)


def _event_counts(
  log: RawLog, filters: Filters, event_names: Sequence[str], events: np.ndarray | None
) -> dict[str, int]:
  """The number of rows of each kind, by name; checks that the log has all kinds that the settings name."""
  settings = {'events': filters.events, 'context_events': filters.context_events}
  if events is None:
    field = next(name for name, kinds in settings.items() if kinds)
    raise ValueError(
      f'data.{field} needs a log with the kind of each interaction; this log has none. '
      f'Set --config.data.event_column to its column, or --config.data.{field}="()"'
    )
  numbers = np.bincount(events, minlength=len(event_names)).tolist()
  counts = dict(zip(event_names, numbers, strict=True))
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


def _known_items(
  log: RawLog,
  filters: Filters,
  item_ids: Sequence[str],
  items: np.ndarray,
  keep: np.ndarray | None,
) -> np.ndarray | None:
  """Which of the items have a record, bool `[I]`; None if the rows of all items are kept.

  Raises:
    ValueError: an item of the kept rows has no record and must have one, or no item has a record.
  """
  mode = filters.unknown_items
  if mode == 'auto':
    mode = 'refuse' if log.is_catalogue_whole else 'keep'
  if not log.catalogue_file or (mode == 'keep' and _any_in(item_ids, log.item_records)):
    return None
  known = np.array([name in log.item_records for name in item_ids], bool)
  if not known.any():
    example = next(iter(log.item_records), None)
    has = '' if example is None else f', which has others, such as {example!r}'
    raise ValueError(
      f'the interactions and {log.catalogue_file} must share items; none of the {len(item_ids):,} items of '
      f'the log, such as {item_ids[items[0]]!r}, is in it{has}. Set --config.data.item_column or '
      '--config.data.item_id_column to the columns with the same ids'
    )
  if mode == 'drop' or known.all():
    return known
  rows = ~known[items] if keep is None else ~known[items] & keep
  if rows.any():
    row = int(np.argmax(rows))
    unknown = np.unique(items[rows])
    names = dict.fromkeys(item_ids[n] for n in items[rows][:_SHOWN])
    raise ValueError(
      f'{log.place(row)}: an item must be in {log.catalogue_file}; got {item_ids[items[row]]!r}. '
      f'{int(rows.sum()):,} interactions have {len(unknown):,} such items ({", ".join(list(names)[:3])}'
      f"{', …' if len(unknown) > 3 else ''}). Set --config.data.unknown_items='drop' to leave them out, or "
      "'keep' to have these items without texts"
    )
  return known


def _any_in(names: Sequence[str], records: Collection[str]) -> bool:
  return any(name in records for name in names)
