"""Collects the batches of a source into a raw log."""

from typing import TYPE_CHECKING

from etils import epath
import numpy as np

from data_prep.log.arrays import Column, Scratch
from data_prep.log.ids import Coder, Names
from data_prep.log.raw_log import RawLog
from data_prep.sources import readers
from data_prep.sources.times import Times

if TYPE_CHECKING:
  from data_prep.sources.base import Source


def raw_log(
  source: 'Source', reader: readers.Reader, raw_dir: epath.Path, scratch: Scratch
) -> RawLog:
  """Returns the log of a source that is read shard by shard.

  Args:
    source: the source.
    reader: its `reader`.
    raw_dir: the folder of its raw files.
    scratch: makes the columns.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is invalid, or the log is empty; the message names the file and the line.
  """
  facts = readers.Facts()
  users, items, events = Coder(scratch), Coder(scratch), Coder(scratch)
  times, ratings = _Times(scratch), Column(scratch, np.float32)
  has_events = False
  for batch in reader.batches():
    facts += batch.facts
    users.add(batch.users)
    items.add(batch.items)
    times.add(batch.times)
    if batch.ratings is not None:
      ratings.append(batch.ratings)
    if batch.events is not None:
      has_events = True
      events.add(batch.events)
  form = reader.form(facts)
  catalogue = source.item_table(raw_dir, lambda: Names(items.texts))
  unused = {'interactions': reader.unused, 'items': list(catalogue.unused)}
  return RawLog(
    users.ids(),
    items.ids(),
    times.in_ticks(form),
    catalogue.records,
    ratings=ratings.array() if form.has_ratings else None,
    ticks_per_second=form.ticks_per_second,
    events=events.ids() if has_events else None,
    unreadable_ratings=form.unreadable_ratings,
    place=reader.place,
    catalogue_file='' if catalogue.file is None else catalogue.file.name,
    is_catalogue_whole=catalogue.is_whole,
    ignored_columns={table: names for table, names in unused.items() if names},
  )


class _Times:
  """The times of all batches, as they were read, in one column of 64 bits."""

  def __init__(self, scratch: Scratch):
    self._column = Column(scratch, np.int64)
    self._batches: list[tuple[int, np.dtype, str]] = []  # number of rows, type of the numbers, kind

  def add(self, times: Times) -> None:
    self._column.append(times.values.view(np.int64))
    self._batches.append((len(times.values), times.values.dtype, times.kind))

  def in_ticks(self, form: readers.Form) -> np.ndarray:
    """Returns the times of the whole log, int64 `[N]`."""
    values, start = self._column.array(), 0
    for count, kind, name in self._batches:
      rows = slice(start, start + count)
      values[rows] = form.times(Times(values[rows].view(kind), name))
      start += count
    return values
