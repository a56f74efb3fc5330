"""The work of the workers: functions of a job and an element. They need no Beam.

Parts, by name:

  shard-<n>, block-<n>-<m>   a shard's facts, and its rows in blocks
  items                      the distinct item ids of the log
  plan                       what the launcher decided from these: borders of ranges, items and events to keep
  pieces-<n>-<m>             the rows of a block by range of users, and its users by range of their folded ids
  range-<r>                  the clean rows of a range of users, and the rows of its items
  counts, alike              sums over all ranges
  core-<n>                   the items that are left after some rounds of the k-core
  final                      the numbers of the items that are kept
  clean-<r>                  the rows of a range that are kept, and its split
  keys-<r>, borders, split-<r>   the split by global time
"""

from collections.abc import Iterator
import functools
import itertools
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.beam import blocks, cleaning, core, parts, ranges, reading, splitting
from data_prep.beam.job import Job
from data_prep.beam.parts import Place, Work
from data_prep.log import numbering, splits
from data_prep.log.ids import Names

ITEMS, PLAN, COUNTS, ALIKE, FINAL, BORDERS = 'items', 'plan', 'counts', 'alike', 'final', 'borders'
Arrays = dict[str, np.ndarray]
Part = tuple[Arrays, dict[str, Any]]


def range_name(element: Any) -> str:
  return f'range-{_number(element):05d}'


def clean_name(element: Any) -> str:
  return f'clean-{_number(element):05d}'


def keys_name(element: Any) -> str:
  return f'keys-{_number(element):05d}'


def split_name(element: Any) -> str:
  return f'split-{_number(element):05d}'


def _number(element: Any) -> int:
  return element[0] if isinstance(element, tuple) else element


@functools.lru_cache(maxsize=8)
def loaded(work: Work, name: str) -> Arrays:
  """Returns the arrays of a part that every element of a worker needs."""
  return work.read(name)


def read_shard(job: Job, shard: int) -> Part:
  """Reads a shard and writes its blocks."""
  return {}, reading.read(job, shard)


def shard_items(job: Job, shard: int) -> Iterator[pa.Array]:
  """Yields the distinct items of a shard."""
  names = job.work.need(reading.shard_name(shard))['blocks']
  columns = ('item_ids.offsets', 'item_ids.bytes')
  texts = [parts.texts_of('item_ids', job.work.read(name, columns)) for name in names]
  yield blocks.union(texts)


def write_items(job: Job, texts: pa.Array) -> Part:
  """Writes the distinct items of the log."""
  del job
  return parts.text_arrays('item_ids', texts), {'items': len(texts)}


def pieces_name(element: tuple[str, int]) -> str:
  return element[0].replace('block', 'pieces')


def scatter_block(job: Job, element: tuple[str, int]) -> tuple[bytes, dict[str, Any]]:
  """Returns the pieces of a block. The element is its name, and the number of rows before it.

  With R ranges, piece r holds the rows of range r, and piece R + r users such that ids that differ only by case or white
  space meet.
  """
  name, start = element
  plan, facts = loaded(job.work, PLAN), job.work.need(PLAN)
  block = blocks.of_arrays(job.work.read(name))
  block = reading.formed(block, job.work.need(name), facts['form'])
  item_ids = parts.texts_of('item_ids', loaded(job.work, ITEMS))
  coded = block.coded(item_ids, parts.texts_of('event_ids', plan), start)
  borders = parts.texts_of('borders', plan).to_pylist()
  rows = ((number, part.arrays()) for number, part in ranges.scatter(coded, borders))
  alike = (
    (len(borders) + 1 + number, parts.text_arrays('ids', texts))
    for number, texts in ranges.scatter_alike(block.user_ids, borders)
  )
  return parts.joined(itertools.chain(rows, alike))


def clean_range(job: Job, element: tuple[int, list[Place]]) -> Part:
  """Cleans the rows of a range: its number, and the places of its pieces."""
  _, places = element
  plan = loaded(job.work, PLAN)
  rules = cleaning.Rules(
    job.work.need(ITEMS)['items'], *(plan.get(name) for name in ('known', 'is_kept', 'is_context'))
  )
  found = [blocks.of_arrays(piece) for piece in job.work.pieces(places)]
  if not found:
    return {}, {'seen': 0, 'rows': 0}
  cleaned = cleaning.clean(blocks.join(found), rules)
  items = np.flatnonzero(cleaned.chosen_I)
  counts = {
    'counted': items.astype(np.int32),
    'chosen': cleaned.chosen_I[items],
    'left': cleaned.left_I[items],
  }
  return cleaned.block.arrays() | counts, cleaned.facts


def range_counts(job: Job, number: int) -> Iterator[np.ndarray]:
  """Yields the number of rows of every item in a range, before and after the cleaning: int64 `[2, I]`."""
  if job.work.need(range_name(number))['seen']:
    arrays = job.work.read(range_name(number), ('counted', 'chosen', 'left'))
    counts = np.zeros((2, job.work.need(ITEMS)['items']), np.int64)
    counts[:, arrays['counted']] = arrays['chosen'], arrays['left']
    yield counts


def write_counts(job: Job, counts: np.ndarray) -> Part:
  """Writes the sums of `range_counts`."""
  del job
  return {'chosen': counts[0], 'left': counts[1]}, {}


def alike_range(job: Job, element: tuple[int, list[Place]]) -> Iterator[dict[str, Any]]:
  """Yields the number of alike ids in a range, and the first two."""
  texts = [parts.texts_of('ids', piece) for piece in job.work.pieces(element[1])]
  groups = numbering.alike(Names(blocks.union(texts)))
  yield {'count': sum(map(len, groups)), 'example': groups[0][:2] if groups else []}


def write_alike(job: Job, found: list[dict[str, Any]]) -> Part:
  """Writes the sum of `alike_range`."""
  del job
  examples = [part['example'] for part in found if part['count']]
  return {}, {'count': sum(part['count'] for part in found), 'example': min(examples, default=[])}


def count_range(job: Job, number: int, state: tuple[bytes, bool], k: int) -> Iterator[np.ndarray]:
  """Yields the number of rows of every item in a range after a round of the k-core: int64 `[I]`."""
  left_I, is_done = unpacked(job, state)
  if is_done or not job.work.need(range_name(number))['rows']:
    return
  users, items, is_context = _columns(job, number)
  kept = core.kept_rows(users, items, None if is_context is None else ~is_context, left_I, k)
  yield core.item_counts(items, kept, len(left_I))


def next_state(
  job: Job, element: int, state: tuple[bytes, bool], counts_I: np.ndarray | None, k: int
) -> Iterator[tuple[bytes, bool]]:
  """Yields the items that are left after a round, and whether it dropped none."""
  del element
  left_I, is_done = unpacked(job, state)
  if is_done:
    yield state
    return
  counts_I = np.zeros(len(left_I), np.int64) if counts_I is None else counts_I
  next_I = core.next_items(left_I, counts_I, k)
  yield np.packbits(next_I).tobytes(), bool((next_I == left_I).all())


def write_core(job: Job, element: tuple[str, tuple[bytes, bool]]) -> Part:
  """Writes the state after some rounds."""
  left_I, is_done = unpacked(job, element[1])
  return {'left': left_I}, {'is_done': is_done}


def unpacked(job: Job, state: tuple[bytes, bool]) -> tuple[np.ndarray, bool]:
  """Returns the items that are left, bool `[I]`, and whether the rounds have ended."""
  count = job.work.need(ITEMS)['items']
  return np.unpackbits(np.frombuffer(state[0], np.uint8), count=count).astype(bool), state[1]


def _columns(job: Job, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """Users, items and marks of context of a range."""
  arrays = job.work.read(range_name(number), ('users', 'items', 'events'))
  is_context_E = loaded(job.work, PLAN).get('is_context')
  is_context = None if is_context_E is None else is_context_E[arrays['events']]
  return arrays['users'], arrays['items'], is_context


def finish_range(job: Job, number: int) -> Part:
  """Returns the rows of a range that are kept, with the final numbers of items, and their split."""
  if not job.work.need(range_name(number))['rows']:
    return {}, {'rows': 0}
  final = loaded(job.work, FINAL)
  block = blocks.of_arrays(job.work.read(range_name(number)))
  if job.data.k_core:
    users, items, is_context = _columns(job, number)
    is_target = None if is_context is None else ~is_context
    kept = core.kept_rows(users, items, is_target, final['left'], job.data.k_core)
    if is_context is not None:
      kept = core.with_context(users, items, kept, is_context, final['left'])
    block = block.take(kept)
  if not len(block):
    return {}, {'rows': 0}
  log = splitting.range_log(block.renumbered(final['numbers']), *_events(job))
  arrays = {'log_items': log.items, 'log_rows': log.rows, 'log_times': log.times}
  arrays |= {'log_offsets': log.offsets, **parts.text_arrays('user_ids', log.user_ids.texts)}
  for name in ('ratings', 'events'):
    if getattr(log, name) is not None:
      arrays[f'log_{name}'] = getattr(log, name)
  facts = {'rows': len(log.items), 'users': len(log.user_ids)}
  if log.events is not None:
    facts['events'] = np.bincount(log.events, minlength=len(log.event_names)).tolist()
  if job.data.split == 'global_time':
    times = log.times[splitting.targets(log)]
    return arrays, facts | {'targets': len(times), 'sample': splitting.sample(times)}
  found = splits.split(log, job.data.split, job.data.split_shares, job.data.max_history)
  return arrays | found, facts | {'arrays': list(found)}


def _events(job: Job) -> tuple[list[str], tuple[str, ...] | None]:
  """The names of all events, and those of context."""
  facts = job.work.need(PLAN)
  return facts['events'], None if facts['context'] is None else tuple(facts['context'])


def clean_log(job: Job, number: int):
  """Returns the log of a clean range."""
  arrays = job.work.read(clean_name(number))
  columns = {
    name: arrays[f'log_{name}']
    for name in ('items', 'times', 'rows', 'ratings', 'events')
    if f'log_{name}' in arrays
  }
  users = np.repeat(
    np.arange(len(arrays['log_offsets']) - 1, dtype=np.int32), np.diff(arrays['log_offsets'])
  )
  block = blocks.Block(parts.texts_of('user_ids', arrays), None, users, **columns)
  return splitting.range_log(block, *_events(job))


def range_keys(job: Job, element: tuple[int, tuple[tuple[int, int], ...]]) -> Part:
  """Returns the targets of a range in the two brackets."""
  number, brackets = element
  if not job.work.need(clean_name(number))['rows']:
    return {}, {'rows': 0}
  log = clean_log(job, number)
  at = splitting.targets(log)
  arrays = {}
  for n, (low, high) in enumerate(brackets):
    found = splitting.keys(log.times[at], log.rows[at], low, high)
    arrays |= {f'{n}.{name}': values for name, values in found.items()}
  return arrays, {'rows': len(at)}


def split_range(job: Job, number: int) -> Part:
  """Returns the split of a range by global time."""
  if not job.work.need(clean_name(number))['rows']:
    return {}, {'rows': 0}
  borders = job.work.need(BORDERS)
  log = clean_log(job, number)
  arrays = splitting.global_time(
    log, tuple(borders['validation']), tuple(borders['test']), job.data.max_history
  )
  return arrays, {'rows': len(log.items), 'arrays': list(arrays)}
