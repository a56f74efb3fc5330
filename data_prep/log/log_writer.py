"""Writes the files of the `interactions` stage: arrays, catalogue, users, statistics, TFDS data sets."""

from collections import Counter
from collections.abc import Iterator, Mapping
import json
import logging
from typing import IO, Any

from etils import epath
import numpy as np

from data_prep import files
from data_prep.log import arrays as arrays_lib
from data_prep.log import builder, item_text, unreachable
from data_prep.log.interactions import CleanLog
from data_prep.log.raw_log import records_of
from recjax.data.dataset import CONTEXT_EVENTS, EVENT_NAMES, TIMES

_log = logging.getLogger(__name__)


def write(
  log: CleanLog,
  arrays: Mapping[str, np.ndarray],
  records: Mapping[str, dict[str, Any]],
  folder: epath.Path,
  text: item_text.Text | None = None,
) -> dict[str, Any]:
  """Writes all files of the stage.

  Args:
    log: the clean log.
    arrays: the split of the log, as `splits.split` returns it.
    records: catalogue records by raw item id.
    folder: an existing, empty folder.
    text: makes the text for encoders from the tidied fields of an item. None: `item_text.encoder_text`.

  Returns:
    The statistics, which are also written to statistics.json.
  """
  for name, array in arrays.items():
    files.save(folder / f'{name}.npy', array)
  _write_users(folder / 'users.json', log)
  (folder / TIMES).write_text(json.dumps({'ticks_per_second': log.ticks_per_second}) + '\n')
  if log.events is not None:
    (folder / EVENT_NAMES).write_text(json.dumps(log.event_names) + '\n')
  if log.context_events is not None:
    (folder / CONTEXT_EVENTS).write_text(json.dumps(log.context_events) + '\n')
  builder.write_sequences(folder / 'tfds', log.user_ids, arrays, log.event_names)
  missing, tidied = dict.fromkeys(('record', 'title', 'text'), 0), Counter()
  # Written one item at a time: rows and records of a large catalogue together do not fit into memory.
  with (folder / 'items.jsonl').open('w') as f:
    builder.write_items(
      folder / 'tfds', _rows(log, records, missing, tidied, f, text), len(log.item_ids)
    )
  statistics = _statistics(log, arrays, missing)
  if changes := {name: count for name, count in sorted(tidied.items()) if count}:
    statistics['tidied_fields'] = changes
    _log.info(
      'number of items with catalogue fields that were cleaned, cut or dropped: %s', changes
    )
  (folder / 'statistics.json').write_text(json.dumps(statistics, indent=2) + '\n')
  return statistics


def _write_users(path: epath.Path, log: CleanLog) -> None:
  """Writes the ids as `json.dumps` writes a list, some at a time."""
  with path.open('w') as f:
    for rows in arrays_lib.blocks(len(log.user_ids), 1 << 16):
      f.write('[' if not rows.start else ', ')
      f.write(json.dumps(log.user_ids[rows])[1:-1])
    f.write(']\n')


def _rows(
  log: CleanLog,
  records: Mapping[str, dict[str, Any]],
  missing: dict[str, int],
  tidied: item_text.Counts,
  lines: IO[str],
  text: item_text.Text | None,
) -> Iterator[dict[str, Any]]:
  """Yields the rows of the catalogue and writes them to `lines`; counts missing and tidied fields."""
  for items in arrays_lib.blocks(len(log.item_ids), 1 << 12):
    names = log.item_ids[items]
    for item_id, record in zip(names, records_of(records, names), strict=True):
      row = item_text.item_row(item_id, record or {}, tidied, text)
      lines.write(json.dumps(row) + '\n')
      missing['record'] += record is None
      missing['title'] += 'title' not in row
      missing['text'] += not row['text']
      yield row


def _repeats(log: CleanLog) -> int:
  """The number of interactions whose user had the item before."""
  found = 0
  for users, rows in arrays_lib.runs(log.offsets):
    lengths = np.diff(log.offsets[users.start : users.stop + 1])
    pairs = np.repeat(np.arange(len(lengths)), lengths) * len(log.item_ids) + log.items[rows]
    pairs.sort()
    found += arrays_lib.count(pairs[1:] == pairs[:-1])
  return found


def _statistics(
  log: CleanLog, arrays: Mapping[str, np.ndarray], missing: Mapping[str, int]
) -> dict[str, Any]:
  num_users, num_items, num_rows = len(log.user_ids), len(log.item_ids), len(log.items)
  lengths = np.diff(log.offsets)
  statistics = {
    'users': num_users,
    'items': num_items,
    'interactions': num_rows,
    'mean_length': round(num_rows / num_users, 3),
    'max_length': int(lengths.max()),
    'repeated_interactions': _repeats(log),
    **{f'items_without_{name}': count for name, count in missing.items()},
  }
  # The following counts are left out if they are zero.
  if log.duplicates:
    statistics['duplicates_dropped'] = log.duplicates
  if log.equal_times:
    statistics['equal_times'] = log.equal_times
  statistics |= log.dropped
  for name in ('ignored_columns', 'ids_alike'):
    if found := getattr(log, name):
      statistics[name] = found
  if log.events is not None:
    counts = arrays_lib.counts(log.events, len(log.event_names)).tolist()
    statistics['events'] = dict(zip(log.event_names, counts, strict=True))
  if log.context_events is not None:
    statistics['context_interactions'] = num_rows - arrays_lib.count(log.is_target)
  if log.ratings is not None:
    blocks = arrays_lib.blocks(num_rows)
    if unrated := sum(arrays_lib.count(np.isnan(log.ratings[rows])) for rows in blocks):
      statistics['interactions_without_rating'] = unrated
  if log.unreadable_ratings:
    statistics['unreadable_ratings'] = log.unreadable_ratings
  if any(log.below_k_core):
    names = ('users', 'items', 'interactions')
    below = zip(names, log.below_k_core, strict=True)
    statistics |= {f'{name}_below_k_core': count for name, count in below}
  statistics[unreachable.NAME] = unreachable.count(arrays, log.target_events)
  held_out = [arrays[name] for name in arrays if name.endswith('_items')]
  seen = np.zeros(num_items, bool)
  for items in (log.items, *held_out):
    for rows in arrays_lib.blocks(len(items)):
      seen[items[rows]] = True
  if not seen.all():
    statistics['items_without_interaction'] = int((~seen).sum())
  if 'test_users' in arrays:
    statistics |= {
      'training_interactions': len(arrays['train_items']),
      'validation_rows': len(arrays['validation_items']),
      'test_rows': len(arrays['test_items']),
    }
  return statistics
