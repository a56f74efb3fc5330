"""Collects the batches of a source into a raw log."""

from typing import TYPE_CHECKING

from etils import epath
import numpy as np

from data_prep.log.ids import Coder
from data_prep.log.raw_log import RawLog
from data_prep.sources import readers

if TYPE_CHECKING:
  from data_prep.sources.base import Source


def raw_log(source: 'Source', raw_dir: epath.Path) -> RawLog:
  """Returns the log of a source that has a `reader`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is invalid, or the log is empty; the message names the file and the line.
  """
  reader = source.reader(raw_dir)
  users, items, events = Coder(), Coder(), Coder()
  read, ratings, facts, has_events = [], [], readers.Facts(), False
  for batch in reader.batches():
    facts += batch.facts
    users.add(batch.users)
    items.add(batch.items)
    read.append(batch.times)
    if batch.ratings is not None:
      ratings.append(batch.ratings)
    if batch.events is not None:
      has_events = True
      events.add(batch.events)
  form = reader.form(facts)
  catalogue = source.item_table(raw_dir, lambda: items.texts.to_pylist())
  unused = {'interactions': reader.unused, 'items': list(catalogue.unused)}
  return RawLog(
    users.ids(),
    items.ids(),
    np.concatenate([form.times(times) for times in read]),
    catalogue.records,
    ratings=np.concatenate(ratings) if form.has_ratings else None,
    ticks_per_second=form.ticks_per_second,
    events=events.ids() if has_events else None,
    unreadable_ratings=form.unreadable_ratings,
    place=reader.place,
    catalogue_file='' if catalogue.file is None else catalogue.file.name,
    is_catalogue_whole=catalogue.is_whole,
    ignored_columns={table: names for table, names in unused.items() if names},
  )
