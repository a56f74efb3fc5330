"""From any source's raw log to the clean one: k-core, order in time, leave-one-out, and its files."""

from collections.abc import Iterable
import dataclasses
import html
import json
import re
from typing import Any

from etils import epath
import numpy as np

from data_prep import builder

MIN_LENGTH = 3  # something to train on, one validation and one test interaction
MAX_TITLE = (
  10_000  # characters; a longer title is a broken file, sources refuse it by file and line
)
MAX_DESCRIPTION = 2_000  # characters of a description that encoders get to read
# Surrogates too: JSON can spell half of a character, and UTF-8 cannot.
_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')


@dataclasses.dataclass(frozen=True)
class HeldOutRows:
  """The rows of a source's own validation or test part.

  Attributes:
    users: str `[n]`, raw ids.
    histories: what is known before each target: raw item ids, oldest first.
    targets: str `[n]`, raw item ids.
  """

  users: np.ndarray
  histories: list[list[str]]
  targets: np.ndarray


@dataclasses.dataclass(frozen=True)
class RawLog:
  """What a source reads: one row an interaction, in file order.

  Attributes:
    users: str `[N]`, raw ids.
    items: str `[N]`, raw ids.
    times: int64 `[N]`; seconds, or any number that grows with time.
    item_records: what is known of an item, by raw id: any of title, brand, categories (a list of
      paths), price, description. Items that nobody interacted with are ignored unless
      `data.catalogue` is 'all'; an item may lack a record.
    ratings: float32 `[N]`, None where the source has none.
    events: str `[N]`, what kind of interaction a row is; None where the source has none.
    held_out: a source's own split: `validation` and `test`; the rows above are then its training part.
  """

  users: np.ndarray
  items: np.ndarray
  times: np.ndarray
  item_records: dict[str, dict[str, Any]]
  ratings: np.ndarray | None = None
  events: np.ndarray | None = None
  held_out: dict[str, HeldOutRows] | None = None


@dataclasses.dataclass(frozen=True)
class CleanLog:
  """Sequences of a log, users and items in the order of their sorted raw ids.

  Attributes:
    user_ids: U raw ids.
    item_ids: I raw ids.
    items: int32 `[N]`, item indices; user u's, oldest first, are `items[offsets[u]:offsets[u + 1]]`.
    times: int64 `[N]`.
    offsets: int64 `[U + 1]`.
  """

  user_ids: list[str]
  item_ids: list[str]
  items: np.ndarray
  times: np.ndarray
  offsets: np.ndarray


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
  """The largest part of a log in which every user and every item has at least k rows.

  The k-core of the bipartite multigraph of users and items (Seidman, "Network structure and minimum
  degree", 1983): repeated interactions of a pair count as often as they occur.

  Args:
    users: int `[N]`, user indices from 0.
    items: int `[N]`, item indices from 0.
    k: 0 keeps all.

  Returns:
    bool `[N]`: the rows that stay.
  """
  keep = np.ones(len(users), bool)
  while keep.any():
    stays = keep.copy()
    for nodes in (users, items):
      stays &= np.bincount(nodes[keep], minlength=int(nodes.max()) + 1)[nodes] >= k
    if (stays == keep).all():
      break
    keep = stays
  return keep


def clean(log: RawLog, k: int) -> CleanLog:
  """Filters a raw log to its k-core and sorts each user's rows by time.

  The sort is stable: rows of one user with one time stay in file order.

  Raises:
    ValueError: the columns differ in length, nothing is left, or a user has fewer than `MIN_LENGTH`
      rows left.
  """
  if not len(log.users) == len(log.items) == len(log.times):
    raise ValueError(
      'a raw log must have as many users as items and times; '
      f'got {len(log.users)}, {len(log.items)} and {len(log.times)}'
    )
  _, users = np.unique(log.users, return_inverse=True)
  _, items = np.unique(log.items, return_inverse=True)
  keep = np.flatnonzero(k_core(users, items, k))
  if not len(keep):
    raise ValueError(
      f'no interaction is left: of {len(log.users)}, the {k}-core keeps none. '
      'Set --config.data.k_core to a smaller number'
    )
  user_ids, users = np.unique(log.users[keep], return_inverse=True)
  item_ids, items = np.unique(log.items[keep], return_inverse=True)
  times = np.asarray(log.times, np.int64)[keep]
  lengths = np.bincount(users)
  if lengths.min() < MIN_LENGTH:
    short = int(np.argmax(lengths < MIN_LENGTH))
    raise ValueError(
      f'every user must have at least {MIN_LENGTH} interactions, to be split into training, '
      f'validation and test; user {str(user_ids[short])!r} has {lengths[short]}. '
      f'Set --config.data.k_core to {MIN_LENGTH} or more (it is {k})'
    )
  order = np.lexsort((times, users))
  return CleanLog(
    user_ids.tolist(),
    item_ids.tolist(),
    items[order].astype(np.int32),
    times[order],
    np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
  )


def encoder_text(record: dict[str, Any]) -> str:
  """What encoders read of an item: title, brand and category paths, in this order.

  A description, cut at `MAX_DESCRIPTION` characters, stands in where there is no category. An item of
  which nothing is known has the empty text.
  """
  parts = [record.get('title', ''), record.get('brand', '')]
  if record.get('categories'):
    parts += [' > '.join(path) for path in record['categories']]
  else:
    parts.append(record.get('description', '')[:MAX_DESCRIPTION])
  return '. '.join(part for part in parts if part)


def item_row(item_id: str, record: dict[str, Any]) -> dict[str, Any]:
  """One line of items.jsonl: the known fields with entities and white space tidied, and the text."""
  row: dict[str, Any] = {'id': item_id}
  for field in ('title', 'brand', 'description'):
    if value := tidy(record.get(field) or ''):
      row[field] = value
  if paths := [[tidy(part) for part in path] for path in record.get('categories') or [] if path]:
    row['categories'] = paths
  if record.get('price') is not None:
    row['price'] = record['price']
  return {**row, 'text': encoder_text(row)}


def tidy(text: str) -> str:
  """Plain text from a catalogue's: entities resolved, control characters and white space made one space."""
  return ' '.join(_CONTROL.sub(' ', html.unescape(text)).split())


def write(log: CleanLog, records: dict[str, dict[str, Any]], folder: epath.Path) -> dict[str, Any]:
  """Splits by leave-one-out and writes the `interactions` stage.

  The last interaction of a user is for test, the one before for validation, the rest for training.

  Returns:
    The statistics, as in statistics.json.
  """
  last = log.offsets[1:] - 1
  in_train = np.ones(len(log.items), bool)
  in_train[last] = in_train[last - 1] = False
  train_offsets = log.offsets - 2 * np.arange(len(log.offsets))
  arrays = {
    'train_items': log.items[in_train],
    'train_times': log.times[in_train],
    'train_offsets': train_offsets,
    'validation_items': log.items[last - 1],
    'validation_times': log.times[last - 1],
    'test_items': log.items[last],
    'test_times': log.times[last],
  }
  for name, array in arrays.items():
    with (folder / f'{name}.npy').open('wb') as f:
      np.save(f, array)
  rows = [item_row(item_id, records.get(item_id, {})) for item_id in log.item_ids]
  (folder / 'users.json').write_text(json.dumps(log.user_ids) + '\n')
  (folder / 'items.jsonl').write_text(_lines(rows))
  builder.write(folder / 'tfds', log.user_ids, rows, arrays)
  statistics = _statistics(log, rows, records)
  (folder / 'statistics.json').write_text(json.dumps(statistics, indent=2) + '\n')
  return statistics


def _lines(rows: Iterable[dict[str, Any]]) -> str:
  return ''.join(json.dumps(row) + '\n' for row in rows)


def _statistics(
  log: CleanLog, rows: list[dict[str, Any]], records: dict[str, dict[str, Any]]
) -> dict[str, Any]:
  num_users, num_items, num_rows = len(log.user_ids), len(log.item_ids), len(log.items)
  lengths = np.diff(log.offsets)
  owners = np.repeat(np.arange(num_users), lengths)
  pairs = len(np.unique(owners * num_items + log.items))
  return {
    'users': num_users,
    'items': num_items,
    'interactions': num_rows,
    'mean_length': round(num_rows / num_users, 3),
    'max_length': int(lengths.max()),
    'repeated_interactions': num_rows - pairs,
    'items_without_record': sum(item_id not in records for item_id in log.item_ids),
    'items_without_title': sum('title' not in row for row in rows),
    'items_without_text': sum(not row['text'] for row in rows),
  }
