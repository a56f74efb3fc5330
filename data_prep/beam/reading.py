"""Reads the shards of a log as blocks of typed columns."""

from collections.abc import Iterator, Sequence
import dataclasses
import pickle
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.beam import ranges
from data_prep.beam.blocks import Block
from data_prep.beam.job import Job
from data_prep.log.ids import Coder, Ids
from data_prep.log.raw_log import RawLog
from data_prep.sources import readers, times
from data_prep.sources.readers import Batch, Facts, Form

BLOCK_ROWS = 1 << 20
CATALOGUE = 'catalogue'  # the part that holds the item table of a source that is read as a whole


def shard_name(shard: int) -> str:
  return f'shard-{shard:05d}'


def block_name(shard: int, block: int) -> str:
  return f'block-{shard:05d}-{block:05d}'


def reader(job: Job) -> readers.Reader | None:
  """Returns what reads the shards of the log; None: one worker reads it as a whole."""
  return job.data.reader(epath.Path(job.raw_dir))


def read(job: Job, shard: int) -> dict[str, Any]:
  """Reads a shard, writes its blocks, and returns its facts: see `_facts`."""
  source = reader(job)
  if source is None:
    batches = _whole(job)
  else:
    batches = source.read(source.shards[shard])
  names, facts, first, has_events = [], Facts(), None, False
  events: dict[str, int] = {}
  for found in _grouped(batches):
    name = block_name(shard, len(names))
    block = _block(found, facts.rows)
    facts = sum((batch.facts for batch in found), facts)
    first = found[0].items[0] if first is None else first
    if block.events is not None:
      has_events = True
      counts = np.bincount(block.events, minlength=len(block.event_ids)).tolist()
      for event, count in zip(block.event_ids.to_pylist(), counts, strict=True):
        events[event] = events.get(event, 0) + count
    form = {'kind': found[0].times.kind, 'zone': found[0].times.zone}
    about = {'rows': len(block), 'sample': ranges.sample(block), **form}
    job.work.write(name, block.arrays(), about)
    names.append(name)
  return {
    'facts': dataclasses.asdict(facts),
    'blocks': names,
    'first_item': first,
    'events': events,
    'has_events': has_events,
  }


def facts_of(found: dict[str, Any]) -> Facts:
  """Returns the facts of the rows of a shard, from those of its part."""
  about = dict(found['facts'])
  if about['times'] is not None:
    about['times'] = times.Facts(**about['times'])
  return Facts(**about)


def form_facts(form: Form) -> dict[str, Any]:
  """Returns the form of a log as JSON values."""
  return dataclasses.asdict(form)


def formed(block: Block, about: dict[str, Any], form: dict[str, Any]) -> Block:
  """Returns a block with times in the unit of the log, and without ratings if the log has none.

  Args:
    block: as it was read.
    about: the facts of its part.
    form: `form_facts` of the log.
  """
  read = times.Times(block.times, about['kind'], about['zone'])
  ratings = block.ratings if form['has_ratings'] else None
  values = times.Form(**form['times_form']).apply(read)
  return dataclasses.replace(block, times=values, ratings=ratings)


def _grouped(batches: Iterator[Batch]) -> Iterator[list[Batch]]:
  """Yields consecutive batches of about `BLOCK_ROWS` rows, whose times were read in one form."""
  found: list[Batch] = []
  for batch in batches:
    if not len(batch):
      continue
    if found and (
      sum(map(len, found)) + len(batch) > BLOCK_ROWS or _kind(batch) != _kind(found[0])
    ):
      yield found
      found = []
    found.append(batch)
  if found:
    yield found


def _kind(batch: Batch) -> tuple[Any, ...]:
  return batch.times.kind, batch.times.zone, batch.times.values.dtype


def _block(batches: Sequence[Batch], start: int) -> Block:
  """Batches as a block; `start` is the number of rows of the shard before them."""
  user_ids, users = _coded([batch.users for batch in batches])
  item_ids, items = _coded([batch.items for batch in batches])
  events, event_ids = None, None
  if batches[0].events is not None:
    event_ids, events = _coded([batch.events for batch in batches])
  values = np.concatenate([batch.times.values for batch in batches])
  ratings = None
  if batches[0].ratings is not None:
    ratings = np.concatenate([batch.ratings for batch in batches])
  rows = np.arange(start, start + len(users))
  return Block(user_ids, item_ids, users, items, values, rows, ratings, events, event_ids)


def _coded(columns: Sequence[Ids]) -> tuple[pa.Array, np.ndarray]:
  """The distinct ids of a column in parts, sorted, and the codes of all rows."""
  coder = Coder()
  for column in columns:
    coder.add(column)
  ids = coder.ids()
  used = np.flatnonzero(np.bincount(ids.codes, minlength=len(ids.texts)))
  texts = ids.texts.take(pa.array(used))
  order = pc.sort_indices(texts).to_numpy()  # UTF-8 sorts as code points do
  rank = np.zeros(len(ids.texts), np.int32)
  rank[used[order]] = np.arange(len(order), dtype=np.int32)
  return texts.take(pa.array(order)), rank[ids.codes]


def _whole(job: Job) -> Iterator[Batch]:
  """Yields the rows of a source that is read as a whole, and writes its item table."""
  log = job.data.load(epath.Path(job.raw_dir))
  if log.held_out is not None:
    raise ValueError(
      f'data.engine must be local for data.source={job.data.source!r}, which has its own validation and test rows; '
      "got 'beam'. Set --config.data.engine=local"
    )
  empty = Ids.of([])
  without = dataclasses.replace(
    log,
    users=empty,
    items=empty,
    times=np.zeros(0, np.int64),
    ratings=None if log.ratings is None else np.zeros(0, np.float32),
    events=None,
    place=str,
  )
  content = np.frombuffer(pickle.dumps(without), np.uint8)
  job.work.write(CATALOGUE, {'log': content}, {})
  for start in range(0, len(log.times), BLOCK_ROWS):
    part = slice(start, start + BLOCK_ROWS)
    yield Batch(
      log.users[part],
      log.items[part],
      times.Times(np.asarray(log.times[part], np.int64), 'integer'),
      None if log.ratings is None else log.ratings[part],
      None if log.events is None else log.events[part],
      None,
    )


def whole(job: Job) -> RawLog:
  """Returns a log that was read as a whole, without its rows."""
  return pickle.loads(job.work.read(CATALOGUE)['log'].tobytes())
