"""The `interactions` stage on Apache Beam: pipelines make typed shards, and this process writes the files from them.

  read     shards of the raw log → blocks of typed columns, and the items of the log
  group    blocks → ranges of users, sorted and cleaned
  k-core   counts of items over all ranges, round after round, until no item falls
  finish   ranges → the rows that are kept, with final numbers, and their split

Between two pipelines, this process sees sums and facts alone. At the end it joins the ranges, and writes the files by
the code of the local engine. All parts are in a folder beside the stage, `.interactions.beam-<digest>`: a preparation
that was killed goes on after the last complete part.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
import pathlib
from typing import Any, Protocol

from etils import epath
import numpy as np
import pyarrow as pa

from data_prep.beam import (
  assembly,
  parts,
  ranges,
  reading,
  splitting,
  tasks,
)
from data_prep.beam.job import Job
from data_prep.log import filters as filters_lib
from data_prep.log import interactions, numbering, splits
from data_prep.log.filters import Filters
from data_prep.log.ids import Names
from data_prep.log.interactions import CleanLog
from data_prep.sources import readers, times
from data_prep.sources.base import Catalogue
from recjax.data.prepared import SPLITS

_COLUMNS = tuple(
  f'log_{name}' for name in ('items', 'times', 'rows', 'offsets', 'ratings', 'events')
)


class Phases(Protocol):
  """What runs the tasks of all shards or ranges; see `data_prep.beam.phases`."""

  def read(self, count: int) -> None: ...
  def group(self, found: Sequence[tuple[str, int]], count: int) -> None: ...
  def k_core(self, count: int, left_I: np.ndarray, k: int) -> np.ndarray: ...
  def finish(self, count: int) -> None: ...
  def find_borders(self, count: int, brackets: tuple[tuple[int, int], ...]) -> None: ...
  def split(self, count: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Preparation:
  """The way from raw files to a clean log and its split.

  Attributes:
    job: the job.
    phases: runs its tasks.
    local: a local folder for joined arrays.
  """

  job: Job
  phases: Phases
  local: pathlib.Path

  def run(self) -> tuple[CleanLog, dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Returns the clean log, the arrays of its split, and the catalogue records by raw item id."""
    data, work = self.job.data, self.job.work
    raw = self._read()
    item_ids = Names(parts.texts_of('item_ids', work.read(tasks.ITEMS)))
    dropped = self._plan(raw, item_ids)
    count = len(work.read(tasks.PLAN)['borders.offsets'])
    self.phases.group(raw.blocks, count)
    found = [work.need(tasks.range_name(n)) for n in range(count)]
    sums = work.read(tasks.COUNTS)
    duplicates = self._check_ranges(raw, item_ids, found, sums, dropped)
    left_I = self._core(count, found, sums)
    final_ids, is_used = self._number(raw, item_ids, left_I, sums)
    self.phases.finish(count)
    clean = [work.need(tasks.clean_name(n)) for n in range(count)]
    names = [tasks.clean_name(n) for n, facts in enumerate(clean) if facts['rows']]
    split_names = self._split(clean, names)
    facts = [work.need(name) for name in names]
    users = [part['users'] for part in facts]
    num_rows = sum(part['rows'] for part in facts)
    before = [(sum(part.get('users', 0) for part in found), sum(part['rows'] for part in found))]
    below = (
      before[0][0] - sum(users),
      int((sums['left'] > 0).sum() - is_used.sum()),
      before[0][1] - num_rows,
    )
    event_numbers, event_names = self._event_numbers(raw, facts)
    columns = assembly.join(self.job, names, _COLUMNS, users, event_numbers, self.local)
    keys = {key for name in split_names for key in work.need(name)['arrays']}
    arrays = assembly.join(self.job, split_names, keys, users, event_numbers, self.local)
    user_ids = assembly.user_ids(self.job, names)
    interactions.check_several(user_ids, final_ids, num_rows, data.k_core)
    plan = work.need(tasks.PLAN)
    log = CleanLog(
      user_ids,
      final_ids,
      columns['log_items'],
      columns['log_times'],
      columns['log_rows'],
      columns['log_offsets'],
      columns.get('log_ratings'),
      columns.get('log_events'),
      event_names,
      None if plan['context'] is None else tuple(plan['context']),
      None,
      duplicates,
      below,
      raw.ticks_per_second,
      raw.unreadable_ratings,
      sum(part.get('equal_times', 0) for part in found),
      dropped,
      raw.ignored_columns,
      self._alike(item_ids),
    )
    for split in SPLITS:
      if f'{split}_history_items' in arrays:
        splits.check_histories(split, len(arrays[f'{split}_history_items']))
    return log, arrays, raw.item_records

  def _read(self) -> '_Raw':
    reader = reading.reader(self.job)
    count = 1 if reader is None else len(reader.shards)
    self.phases.read(count)
    return _raw(self.job, reader, count)

  def _plan(self, raw: '_Raw', item_ids: Names) -> dict[str, Any]:
    """Writes what the workers must know of all shards; returns the statistics of rows that will be dropped."""
    chosen, filters = Filters.of(self.job.data), {}
    dropped: dict[str, Any] = {}
    if chosen.events or chosen.context_events:
      events = filters_lib.choose_events(chosen, raw.events)
      dropped |= events.dropped
      filters['is_kept'] = events.is_kept_E
      if chosen.context_events:
        filters['is_context'] = events.is_context_E
    known = filters_lib.known_items(raw, chosen, item_ids, raw.first_item)
    if known is not None:
      filters['known'] = known
    samples = [self.job.work.need(name) for name, _ in raw.blocks]
    borders = ranges.borders(
      [part['sample'] for part in samples],
      [part['rows'] for part in samples],
      ranges.count(raw.rows),
    )
    filters |= parts.text_arrays('borders', pa.array(borders, pa.large_string()))
    filters |= parts.text_arrays('event_ids', pa.array(list(raw.events), pa.large_string()))
    context = sorted(chosen.context_events) if chosen.context_events else None
    self.job.work.write(
      tasks.PLAN, filters, {'events': list(raw.events), 'context': context, 'form': raw.form}
    )
    return dropped

  def _check_ranges(
    self,
    raw: '_Raw',
    item_ids: Names,
    found: list[dict[str, Any]],
    sums: dict[str, np.ndarray],
    dropped: dict[str, Any],
  ) -> int:
    """Checks the cleaned ranges as `interactions.clean` does; returns the number of repeated rows."""
    data, num_rows = self.job.data, raw.rows
    seen = sum(part['seen'] for part in found)
    if seen != num_rows:
      raise ValueError(
        f'the ranges must hold all {num_rows:,} rows; they hold {seen:,}. Remove {self.job.work.folder}'
      )
    known = self.job.work.read(tasks.PLAN, ('known',)).get('known')
    if known is not None:
      unknown_I = np.where(known, 0, sums['chosen'])
      if unknown_I.any():
        rows = sorted(
          pair
          for part in found
          if part.get('unknown')
          for pair in zip(*part['unknown'], strict=True)
        )
        shown = [(row, item_ids[item]) for row, item in rows]
        dropped |= filters_lib.drop_unknown(
          raw, Filters.of(data), raw.place, shown, int(unknown_I.sum()), int((unknown_I > 0).sum())
        )
    duplicates = sum(part.get('dropped', 0) for part in found)
    left = sum(part['rows'] for part in found)
    filters_lib.check_any(raw, num_rows, bool(left))
    if duplicates and data.duplicates == 'refuse':
      repeats = [part['repeat'] for part in found if part.get('repeat')]
      raise _duplicates_error(
        raw, item_ids, min(repeats, key=lambda part: part['rows'][1]), duplicates
      )
    return duplicates

  def _core(
    self, count: int, found: list[dict[str, Any]], sums: dict[str, np.ndarray]
  ) -> np.ndarray:
    """Returns the items that are left: bool `[I]`."""
    k, left_I = self.job.data.k_core, sums['left'] > 0
    if k == 0:
      return left_I
    result = self.phases.k_core(count, left_I, k)
    if not result.any():
      # A core holds all larger ones, so that the largest is found by halving.
      smaller = range(1, k)
      largest = bisect.bisect_left(
        smaller, True, key=lambda n: not self.phases.k_core(count, left_I, n).any()
      )
      raise interactions.empty_core_error(
        sum(part.get('targets', 0) for part in found),
        k,
        largest,
        self.job.work.need(tasks.PLAN)['context'] is not None,
      )
    return result

  def _number(
    self, raw: '_Raw', item_ids: Names, left_I: np.ndarray, sums: dict[str, np.ndarray]
  ) -> tuple[Names, np.ndarray]:
    """Writes the final numbers of the items; returns the ids in this order, and which items have rows."""
    is_used = left_I & (sums['left'] > 0)
    extra = raw.item_records if self.job.data.catalogue == 'all' else ()
    final_ids, numbers = numbering.renumber(item_ids, is_used, extra)
    self.job.work.write(tasks.FINAL, {'left': left_I, 'numbers': numbers}, {})
    return final_ids, is_used

  def _split(self, clean: list[dict[str, Any]], names: list[str]) -> list[str]:
    """Returns the parts that hold the split of the ranges with rows."""
    data, count = self.job.data, len(clean)
    if data.split != 'global_time':
      return names
    facts = [self.job.work.need(name) for name in names]
    counts = [part['targets'] for part in facts]
    ranks = splits.time_borders(sum(counts), data.split_shares).tolist()
    samples = [part['sample'] for part in facts]
    brackets = tuple(splitting.bracket(samples, counts, rank) for rank in ranks)
    self.phases.find_borders(count, brackets)
    found = [self.job.work.read(tasks.keys_name(n)) for n in range(count) if clean[n]['rows']]
    borders = {}
    for n, (split, rank) in enumerate(zip(SPLITS, ranks, strict=True)):
      of_border = [
        {
          name.partition('.')[2]: values
          for name, values in part.items()
          if name.startswith(f'{n}.')
        }
        for part in found
      ]
      borders[split] = splitting.key_of_rank(of_border, rank)
    self.job.work.write(tasks.BORDERS, {}, borders)
    self.phases.split(count)
    return [tasks.split_name(n) for n in range(count) if clean[n]['rows']]

  def _event_numbers(
    self, raw: '_Raw', facts: list[dict[str, Any]]
  ) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The final number of every event, and the names of those with rows."""
    if not raw.has_events:
      return None, ()
    counts = np.sum([part['events'] for part in facts], axis=0)
    numbers = np.where(counts > 0, np.cumsum(counts > 0) - 1, -1).astype(np.int32)
    return numbers, tuple(name for name, n in zip(raw.events, counts, strict=True) if n)

  def _alike(self, item_ids: Names) -> dict[str, dict[str, Any]]:
    groups = numbering.alike(item_ids)
    items = {'count': sum(map(len, groups)), 'example': groups[0][:2] if groups else []}
    every = {'users': self.job.work.need(tasks.ALIKE), 'items': items}
    return {name: found for name, found in every.items() if found['count']}


@dataclasses.dataclass(frozen=True)
class _Raw:
  """What the shards say of the raw log; a `filters.Catalogue`.

  Attributes:
    rows: number of its rows.
    form: `reading.form_facts` of it.
    ticks_per_second, unreadable_ratings, ignored_columns, place, catalogue_file, is_catalogue_whole, item_records: see
      `RawLog`.
    first_item: raw id of the first row's item.
    events: kind of interaction → number of rows, sorted.
    has_events: whether it has kinds.
    blocks: name of every block, and the number of rows before its shard.
  """

  rows: int
  form: dict[str, Any]
  ticks_per_second: int
  unreadable_ratings: int
  ignored_columns: dict[str, list[str]]
  place: Callable[[int], str]
  catalogue_file: str
  is_catalogue_whole: bool
  item_records: Mapping[str, dict[str, Any]]
  first_item: str
  events: dict[str, int]
  has_events: bool
  blocks: list[tuple[str, int]]


def _raw(job: Job, reader: readers.Reader | None, count: int) -> _Raw:
  """Gathers the facts of all shards, and reads the item table.

  Raises:
    ValueError: the times of the shards have several units; the log is empty; or the item table is invalid.
  """
  shards = [job.work.need(reading.shard_name(n)) for n in range(count)]
  every = [reading.facts_of(shard) for shard in shards]
  starts = itertools.accumulate((facts.rows for facts in every), initial=0)
  events: dict[str, int] = {}
  for name in sorted({name for shard in shards for name in shard['events']}):
    events[name] = sum(shard['events'].get(name, 0) for shard in shards)
  facts = sum(every, readers.Facts())
  raw_dir = epath.Path(job.raw_dir)
  if reader is None:
    log = reading.whole(job)
    form = readers.Form(
      times.Form('integer', log.ticks_per_second), log.ratings is not None, log.unreadable_ratings
    )
    catalogue = Catalogue(log.item_records, None, log.is_catalogue_whole)
    file, ignored = log.catalogue_file, log.ignored_columns

    def place(row: int) -> str:
      return job.data.load(raw_dir).place(row)
  else:
    form, place = reader.form(facts), reader.place
    catalogue = job.data.item_table(
      raw_dir, lambda: parts.texts_of('item_ids', job.work.read(tasks.ITEMS)).to_pylist()
    )
    file = '' if catalogue.file is None else catalogue.file.name
    unused = {'interactions': reader.unused, 'items': list(catalogue.unused)}
    ignored = {table: names for table, names in unused.items() if names}
  return _Raw(
    facts.rows,
    reading.form_facts(form),
    form.ticks_per_second,
    form.unreadable_ratings,
    ignored,
    place,
    file,
    catalogue.is_whole,
    catalogue.records,
    next(shard['first_item'] for shard in shards if shard['blocks']),
    events,
    any(shard['has_events'] for shard in shards),
    [
      (name, start)
      for shard, start in zip(shards, starts, strict=False)
      for name in shard['blocks']
    ],
  )


def _duplicates_error(raw: _Raw, item_ids: Names, repeat: dict[str, Any], count: int) -> ValueError:
  """The error of `interactions.clean`."""
  first, row = sorted(repeat['rows'])
  kinds = [list(raw.events)[n] for n in repeat['events'] or ()]
  return interactions.duplicates_error(
    (raw.place(first), raw.place(row)), repeat['user'], item_ids[repeat['item']], kinds, count
  )
