"""Reads the shards of a log as blocks of typed columns."""

from collections.abc import Iterator
import pickle
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.beam import ranges
from data_prep.beam.blocks import Block
from data_prep.beam.job import Job
from data_prep.log.ids import Ids
from data_prep.log.raw_log import RawLog

BLOCK_ROWS = 1 << 20
RECORDS = 'records'  # the part of the catalogue


def shard_name(shard: int) -> str:
  return f'shard-{shard:05d}'


def block_name(shard: int, block: int) -> str:
  return f'block-{shard:05d}-{block:05d}'


def shards(job: Job) -> list[str]:
  """Returns a name of every shard, for messages."""
  return [job.data.source]


def read(job: Job, shard: int) -> dict[str, Any]:
  """Reads a shard, writes its blocks, and returns its facts."""
  del shard
  log = job.data.load(epath.Path(job.raw_dir))
  if log.held_out is not None:
    raise ValueError(
      f'data.engine must be local for data.source={job.data.source!r}, which has its own validation and test rows; '
      "got 'beam'. Set --config.data.engine=local"
    )
  record_B = np.frombuffer(pickle.dumps(log.item_records), np.uint8)
  job.work.write(RECORDS, {'records': record_B}, {})
  facts = _facts(log)
  facts['blocks'] = []
  for number, block in enumerate(_blocks(log)):
    name = block_name(0, number)
    about = {'rows': len(block), 'sample': ranges.sample(block)}
    job.work.write(name, block.arrays(), about)
    facts['blocks'].append(name)
  return facts


def _facts(log: RawLog) -> dict[str, Any]:
  """What the launcher must know of a log."""
  events = {}
  if log.events is not None:
    ids = Ids.of(log.events)
    counts = np.bincount(ids.codes, minlength=len(ids.texts)).tolist()
    events = dict(zip(ids.names, counts, strict=True))
  return {
    'rows': len(log.times),
    'first_item': str(log.items[0]),
    'events': events,
    'has_events': log.events is not None,
    'has_ratings': log.ratings is not None,
    'ticks_per_second': log.ticks_per_second,
    'unreadable_ratings': log.unreadable_ratings,
    'catalogue_file': log.catalogue_file,
    'is_catalogue_whole': log.is_catalogue_whole,
    'ignored_columns': log.ignored_columns,
  }


def _blocks(log: RawLog) -> Iterator[Block]:
  users, items = Ids.of(log.users), Ids.of(log.items)
  event_ids, event_codes = None, None
  if log.events is not None:
    event_ids, event_codes = _sorted(Ids.of(log.events))
  for start in range(0, len(log.times), BLOCK_ROWS):
    part = slice(start, start + BLOCK_ROWS)
    user_ids, user_codes = _sorted(users[part])
    item_ids, item_codes = _sorted(items[part])
    yield Block(
      user_ids,
      item_ids,
      user_codes,
      item_codes,
      np.asarray(log.times[part], np.int64),
      np.arange(start, start + len(user_codes)),
      None if log.ratings is None else np.asarray(log.ratings[part], np.float32),
      None if event_codes is None else event_codes[part],
      event_ids,
    )


def _sorted(ids: Ids) -> tuple[pa.Array, np.ndarray]:
  """The ids that occur, sorted, and the codes of all rows in this order."""
  used = np.flatnonzero(np.bincount(ids.codes, minlength=len(ids.texts)))
  texts = ids.texts.take(pa.array(used))
  order = pc.sort_indices(texts).to_numpy()
  rank = np.zeros(len(ids.texts), np.int32)
  rank[used[order]] = np.arange(len(order), dtype=np.int32)
  return texts.take(pa.array(order)), rank[ids.codes]


def records(job: Job) -> dict[str, dict[str, Any]]:
  """Returns the catalogue records that the shards hold, by raw item id."""
  return pickle.loads(job.work.read(RECORDS)['records'].tobytes())
