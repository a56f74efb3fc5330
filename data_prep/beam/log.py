"""The `interactions` stage on Apache Beam: pipelines make typed shards, and this process writes the files from them.

  read     shards of the raw log → blocks of typed columns, and the items of the log
  group    blocks → ranges of users, sorted and cleaned
  k-core   counts of items over all ranges, round after round, until no item falls
  finish   ranges → the rows that are kept, with final numbers, and their split

Between two pipelines, this process sees sums and facts alone. At the end it joins the ranges, and writes the files by
the code of the local engine. All parts are in a folder beside the stage, `.interactions.beam-<digest>`: a preparation
that was killed goes on after the last complete part.
"""

import dataclasses
import os
import pathlib
import shutil
import tempfile
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath
import numpy as np
import pyarrow as pa

from data_prep import stage as stage_lib
from data_prep.beam import (
  assembly,
  options,
  parts,
  phases,
  ranges,
  reading,
  splitting,
  tasks,
)
from data_prep.beam.job import Job, code_digest, identity
from data_prep.beam.parts import Work
from data_prep.log import filters as filters_lib
from data_prep.log import interactions, item_text, log_writer, numbering, splits
from data_prep.log.filters import Filters
from data_prep.log.interactions import CleanLog
from data_prep.sources.base import Source
from recjax.data.dataset import SPLITS
from recjax.runtime import files as files_lib


def write(
  stage: stage_lib.Stage, data: Source, raw_dir: epath.Path, out: epath.Path
) -> dict[str, Any]:
  """Writes the files of the stage; returns its summary.

  Args:
    stage: the stage; its inputs and params identify the parts.
    data: the data section.
    raw_dir: folder of the raw files.
    out: an empty folder beside the finished stages.

  Raises:
    ValueError, FileNotFoundError: as by the local engine; or a worker has other code or settings.
    RuntimeError: a pipeline failed.
  """
  beam_options = options.parse(data.beam_options)
  digest = identity(stage.params, stage.inputs)
  folder = out.parent / f'.{stage.name}.beam-{digest}'
  for path in out.parent.iterdir():
    if path.name.startswith(f'.{stage.name}.beam-') and path.name != folder.name:
      path.rmtree()  # of another log or of older code; the caller holds the lock
  job = Job(data, os.fspath(raw_dir), Work(os.fspath(folder), digest), code_digest())
  job.start()
  local = pathlib.Path(folder if files_lib.is_local(folder) else tempfile.mkdtemp()) / 'joined'
  try:
    local.mkdir(exist_ok=True)
    log, arrays, records = _Preparation(job, beam_options, local).run()
    summary = log_writer.write(log, arrays, records, out, item_text.of(data))
  finally:
    tasks.loaded.cache_clear()
    shutil.rmtree(local, ignore_errors=True)
  folder.rmtree()
  return summary


@dataclasses.dataclass
class _Preparation:
  """The way from raw files to a clean log and its split.

  Attributes:
    job: the job.
    options: Beam's options.
    local: a local folder for joined arrays.
  """

  job: Job
  options: PipelineOptions
  local: pathlib.Path

  def run(self) -> tuple[CleanLog, dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Returns the clean log, the arrays of its split, and the catalogue records by raw item id."""
    data, work = self.job.data, self.job.work
    raw = self._read()
    item_ids = parts.texts_of('item_ids', work.read(tasks.ITEMS)).to_pylist()
    dropped = self._plan(raw, item_ids)
    count = len(work.read(tasks.PLAN)['borders.offsets'])
    phases.group(self.job, self.options, raw.blocks, count)
    found = [work.need(tasks.range_name(n)) for n in range(count)]
    sums = work.read(tasks.COUNTS)
    duplicates = self._check_ranges(raw, item_ids, found, sums, dropped)
    left_I = self._core(count, found, sums)
    final_ids, is_used = self._number(raw, item_ids, left_I, sums)
    phases.finish(self.job, self.options, count)
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
    columns = assembly.join(
      self.job, names, lambda key: key.startswith('log_'), users, event_numbers, self.local
    )
    arrays = assembly.join(
      self.job,
      split_names,
      lambda key: key.startswith(('train_', *SPLITS)),
      users,
      event_numbers,
      self.local,
    )
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
      raw.facts['ticks_per_second'],
      raw.facts['unreadable_ratings'],
      sum(part.get('equal_times', 0) for part in found),
      dropped,
      raw.facts['ignored_columns'],
      self._alike(item_ids),
    )
    for split in SPLITS:
      if f'{split}_history_items' in arrays:
        splits.check_histories(split, len(arrays[f'{split}_history_items']))
    return log, arrays, raw.item_records

  def _read(self) -> '_Raw':
    count = len(reading.shards(self.job))
    phases.read(self.job, self.options, count)
    return _Raw.of(self.job, count)

  def _plan(self, raw: '_Raw', item_ids: list[str]) -> dict[str, Any]:
    """Writes what the workers must know of all shards; returns the statistics of rows that will be dropped."""
    chosen, filters = Filters.of(self.job.data), {}
    dropped: dict[str, Any] = {}
    if chosen.events or chosen.context_events:
      events = filters_lib.choose_events(chosen, raw.events)
      dropped |= events.dropped
      filters['is_kept'] = events.is_kept_E
      if chosen.context_events:
        filters['is_context'] = events.is_context_E
    known = filters_lib.known_items(raw, chosen, item_ids, raw.facts['first_item'])
    if known is not None:
      filters['known'] = known
    samples = [self.job.work.need(name) for name, _ in raw.blocks]
    borders = ranges.borders(
      [part['sample'] for part in samples],
      [part['rows'] for part in samples],
      ranges.count(raw.facts['rows']),
    )
    filters |= parts.text_arrays('borders', pa.array(borders, pa.large_string()))
    filters |= parts.text_arrays('event_ids', pa.array(list(raw.events), pa.large_string()))
    context = sorted(chosen.context_events) if chosen.context_events else None
    self.job.work.write(tasks.PLAN, filters, {'events': list(raw.events), 'context': context})
    return dropped

  def _check_ranges(
    self,
    raw: '_Raw',
    item_ids: list[str],
    found: list[dict[str, Any]],
    sums: dict[str, np.ndarray],
    dropped: dict[str, Any],
  ) -> int:
    """Checks the cleaned ranges as `interactions.clean` does; returns the number of repeated rows."""
    data, num_rows = self.job.data, raw.facts['rows']
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
    result = phases.k_core(self.job, self.options, count, left_I, k)
    if not result.any():
      largest = next(
        (
          n
          for n in range(k - 1, 0, -1)
          if phases.k_core(self.job, self.options, count, left_I, n, f'core{n}').any()
        ),
        0,
      )
      raise interactions.empty_core_error(
        sum(part.get('targets', 0) for part in found),
        k,
        largest,
        self.job.work.need(tasks.PLAN)['context'] is not None,
      )
    return result

  def _number(
    self, raw: '_Raw', item_ids: list[str], left_I: np.ndarray, sums: dict[str, np.ndarray]
  ) -> tuple[list[str], np.ndarray]:
    """Writes the final numbers of the items; returns the ids in this order, and which items have rows."""
    is_used = left_I & (sums['left'] > 0)
    extra = raw.item_records if self.job.data.catalogue == 'all' else ()
    used = [np.flatnonzero(is_used).astype(np.int32)]
    final_ids, (codes,) = numbering.renumber(item_ids, used, extra)
    numbers = np.full(len(item_ids), -1, np.int32)
    numbers[used[0]] = codes
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
    phases.find_borders(self.job, self.options, count, brackets)
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
    phases.split(self.job, self.options, count)
    return [tasks.split_name(n) for n in range(count) if clean[n]['rows']]

  def _event_numbers(
    self, raw: '_Raw', facts: list[dict[str, Any]]
  ) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The final number of every event, and the names of those with rows."""
    if not raw.facts['has_events']:
      return None, ()
    counts = np.sum([part['events'] for part in facts], axis=0)
    numbers = np.where(counts > 0, np.cumsum(counts > 0) - 1, -1).astype(np.int32)
    return numbers, tuple(name for name, n in zip(raw.events, counts, strict=True) if n)

  def _alike(self, item_ids: list[str]) -> dict[str, dict[str, Any]]:
    groups = numbering.alike(item_ids)
    items = {'count': sum(map(len, groups)), 'example': groups[0][:2] if groups else []}
    every = {'users': self.job.work.need(tasks.ALIKE), 'items': items}
    return {name: found for name, found in every.items() if found['count']}


@dataclasses.dataclass(frozen=True)
class _Raw:
  """What the shards say of the raw log; a `filters.Catalogue`.

  Attributes:
    job: the job.
    facts: of the whole log.
    events: kind of interaction → number of rows, sorted.
    blocks: name of every block, and the number of rows before its shard.
    item_records: catalogue records by raw item id.
  """

  job: Job
  facts: dict[str, Any]
  events: dict[str, int]
  blocks: list[tuple[str, int]]
  item_records: dict[str, dict[str, Any]]

  @classmethod
  def of(cls, job: Job, count: int) -> '_Raw':
    (facts,) = [job.work.need(reading.shard_name(n)) for n in range(count)]
    found = [(name, 0) for name in facts['blocks']]
    events = {name: facts['events'][name] for name in sorted(facts['events'])}
    return cls(job, facts, events, found, reading.records(job))

  @property
  def catalogue_file(self) -> str:
    return self.facts['catalogue_file']

  @property
  def is_catalogue_whole(self) -> bool:
    return self.facts['is_catalogue_whole']

  def place(self, row: int) -> str:
    """Returns file and line of a row; reads the log again."""
    return self.job.data.load(epath.Path(self.job.raw_dir)).place(row)


def _duplicates_error(
  raw: _Raw, item_ids: list[str], repeat: dict[str, Any], count: int
) -> ValueError:
  """The error of `interactions.clean`."""
  first, row = sorted(repeat['rows'])
  kinds = [list(raw.events)[n] for n in repeat['events'] or ()]
  return interactions.duplicates_error(
    (raw.place(first), raw.place(row)), repeat['user'], item_ids[repeat['item']], kinds, count
  )
