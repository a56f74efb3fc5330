"""Prepared logs of a few rows, without semantic IDs."""

from collections.abc import Sequence
import types

from etils import epath
import numpy as np

from data_prep.log import interactions, log_writer, splits
from data_prep.log.filters import Filters
from data_prep.log.raw_log import RawLog
from recjax.data.dataset import Log

Row = tuple[str, str, int, str, float]  # user, item, time, event, rating


def prepared(
  folder,
  rows: Sequence[Row],
  split: str,
  records=None,
  max_history: int = 0,
  k_core: int = 0,
  context: tuple[str, ...] = (),
  shares=(0.6, 0.2, 0.2),
) -> tuple[Log, types.SimpleNamespace]:
  """Returns the prepared log of these rows and the fields of its data section."""
  users, items, times, events, ratings = zip(*rows, strict=True)
  raw = RawLog(
    np.array(users),
    np.array(items),
    np.array(times, np.int64),
    {item: {'title': f'title of {item}'} for item in items} if records is None else records,
    np.array(ratings, np.float32),
    np.array(events),
  )
  return written(folder, raw, split, max_history, k_core, context, shares)


def written(folder, raw: RawLog, split, max_history=0, k_core=0, context=(), shares=()):
  """Returns a prepared raw log and the fields of its data section."""
  log = interactions.clean(raw, k_core, 'drop', 'interacted', Filters(context_events=context))
  arrays = splits.split(log, split, shares, max_history)
  out = epath.Path(folder) / 'interactions'
  out.mkdir(parents=True)
  log_writer.write(log, arrays, raw.item_records, out)
  data = types.SimpleNamespace(name='toy', source='table', split=split, max_history=max_history)
  return Log.load(folder), data


def random_rows(seed: int, users: int = 40, items: int = 25, least: int = 1) -> list[Row]:
  """Returns interactions of users with different activity, with repeats and with many equal times."""
  rng = np.random.default_rng(seed)
  lengths = least + rng.geometric(0.2, users)
  found = []
  for user, length in enumerate(lengths):
    start = int(rng.integers(0, 5000))
    for _ in range(length):
      start += int(rng.choice([0, 60, 1800, 1801, 90_000]))
      event = ('buy', 'view')[int(rng.integers(0, 2))]
      rating = float(rng.integers(1, 6)) if rng.random() < 0.7 else float('nan')
      found.append(
        (f'u{user:02}', f'i{int(rng.zipf(1.5)) % items:02}', 10**9 + start, event, rating)
      )
  return [found[n] for n in rng.permutation(len(found))]
