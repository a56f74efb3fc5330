"""Reads a log shard by shard, some rows at a time, without holding all its rows.

A shard is a file, or some row groups of a Parquet file. `Reader.read` gives its rows as typed batches. A few facts
about all rows decide the unit of the times and whether the log has ratings: every batch has its `facts`, their sum
gives the `Form` of the log, and `Form.times` then gives the times of a batch. Shards may be read in any order, by
several processes.
"""

import abc
from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools

from etils import epath
import numpy as np
import pyarrow as pa

from data_prep.log.ids import Ids
from data_prep.sources import columns, parquet, records, tables, times_text
from data_prep.sources import rows as rows_lib
from data_prep.sources import times as times_lib
from data_prep.sources.rows import Rows


@dataclasses.dataclass(frozen=True)
class Shard:
  """A part of the rows of a log.

  Attributes:
    number: its place among the shards of the log; their rows follow one another in this order.
    path: the file.
    groups: Parquet: the row groups; None: the whole file.
    start: number of the file's rows before the shard.
  """

  number: int
  path: epath.Path
  groups: tuple[int, ...] | None = None
  start: int = 0


@dataclasses.dataclass(frozen=True)
class Facts:
  """Facts about some rows of a log. Facts of several batches are added.

  Attributes:
    rows: number of rows.
    rated: number of rows with a rating.
    unreadable: number of rows whose rating is no finite number.
    times: what the times say about their unit; None: there are no rows.
  """

  rows: int = 0
  rated: int = 0
  unreadable: int = 0
  times: times_lib.Facts | None = None

  def __add__(self, other: 'Facts') -> 'Facts':
    found = [part.times for part in (self, other) if part.times is not None]
    return Facts(
      self.rows + other.rows,
      self.rated + other.rated,
      self.unreadable + other.unreadable,
      found[0] + found[1] if len(found) == 2 else next(iter(found), None),
    )


@dataclasses.dataclass(frozen=True)
class Batch:
  """Consecutive rows of a shard, parsed and checked.

  Attributes:
    users, items: ids; `Ids.rows()` gives them as large_string.
    times: as they were read; `Form.times` gives them in the unit of the log.
    ratings: float32 `[n]`, NaN for rows without a rating, infinity for one that is no number; None: no column.
    events: kinds of interactions, or None.
    rows: the raw rows; `rows.place(n)` is the file and line of row n of the batch.
  """

  users: Ids
  items: Ids
  times: times_lib.Times
  ratings: np.ndarray | None
  events: Ids | None
  rows: Rows

  def __len__(self) -> int:
    return len(self.users)

  @functools.cached_property
  def facts(self) -> Facts:
    """What the rows say about the form of the log."""
    unreadable = rated = 0
    if self.ratings is not None:
      unreadable = int(np.isinf(self.ratings).sum())
      rated = len(self) - unreadable - int(np.isnan(self.ratings).sum())
    return Facts(len(self), rated, unreadable, self.times.facts if len(self) else None)


@dataclasses.dataclass(frozen=True)
class Form:
  """The form of a log, which all its rows decide together.

  Attributes:
    times_form: of the times.
    has_ratings: whether the log has ratings. It has none if one of them cannot be read.
    unreadable_ratings: number of ratings that cannot be read.
  """

  times_form: times_lib.Form
  has_ratings: bool
  unreadable_ratings: int

  @property
  def ticks_per_second(self) -> int:
    """The unit of the times."""
    return self.times_form.ticks_per_second

  def times(self, read: times_lib.Times) -> np.ndarray:
    """Returns times of a batch as int64 `[n]`, in ticks."""
    return self.times_form.apply(read)


class Reader(abc.ABC):
  """Reads the interactions of a source.

  Attributes:
    names: 'user', 'item', 'time', 'rating' and 'event' → the column of each, if it exists or not.
    is_rating_named: whether the config names the column of ratings, so that the log must have some.
    row_kind: name of the rows, for a message.
  """

  names: Mapping[str, str]
  is_rating_named: bool
  row_kind: str

  @property
  @abc.abstractmethod
  def path(self) -> epath.Path:
    """The first file."""

  @property
  @abc.abstractmethod
  def shards(self) -> Sequence[Shard]:
    """The shards, in the order of the log's rows.

    Raises:
      ValueError: the shards do not belong to one table.
    """

  @abc.abstractmethod
  def read(self, shard: Shard) -> Iterator[Batch]:
    """Yields the rows of a shard.

    Raises:
      ValueError: a row is invalid; the message names its file and line.
    """

  @property
  @abc.abstractmethod
  def unused(self) -> list[str]:
    """The columns that are not read."""

  def batches(self) -> Iterator[Batch]:
    """Yields all rows of the log, in order."""
    return itertools.chain.from_iterable(map(self.read, self.shards))

  def place(self, row: int) -> str:
    """Returns the file and line of a row of the log, from 0. Reads the log up to that row."""
    for batch in self.batches():
      if row < len(batch):
        return batch.rows.place(row)
      row -= len(batch)
    raise IndexError(row)

  def form(self, facts: Facts) -> Form:
    """Returns the form of the log, and prints a line if ratings cannot be read.

    Args:
      facts: the sum of the facts of all batches.

    Raises:
      ValueError: the log is empty; its times have several units; or the config names the column of ratings, and it
        has none or an unreadable one.
    """
    if not facts.rows:
      raise ValueError(f'{self.path} must hold {self.row_kind}; it holds none')
    times_form = facts.times.form
    if times_form is None:
      raise self._times_error(facts.times)
    return Form(times_form, self._has_ratings(facts), facts.unreadable)

  def _times_error(self, facts: times_lib.Facts) -> ValueError:
    """The error about times without a common form."""
    numbers = ((batch.times.values, batch.rows.place) for batch in self.batches())
    return times_lib.unit_error(numbers, self.names['time'])

  def _has_ratings(self, facts: Facts) -> bool:
    name, is_named = self.names['rating'], self.is_rating_named
    if not facts.unreadable:
      if is_named and not facts.rated:
        raise ValueError(
          f'{self.path}: {name} must be a number in at least one row; all {facts.rows:,} rows are without. '
          'Set --config.data.rating_column to another column, or leave it out'
        )
      return bool(facts.rated)
    batch = next(batch for batch in self.batches() if batch.facts.unreadable)
    row, rows = int(np.argmax(np.isinf(batch.ratings))), batch.rows
    known = name in rows.columns
    got = f'; got {records.short(rows.columns[name][row].as_py())}' if known else ''
    if is_named:
      raise ValueError(
        f'{rows.place(row)}: {name} must be a finite number or empty{got}. Correct the file, or do not set '
        '--config.data.rating_column; the log then has no ratings'
      )
    print(
      f'{rows.place(row)}: {name} is not a finite number{got}. {facts.unreadable:,} of '
      f'{facts.rows:,} ratings cannot be read: the log has no ratings',
      flush=True,
    )
    return False


@dataclasses.dataclass(frozen=True)
class TableReader(Reader):
  """Reads a table, in one file or several parts.

  Attributes:
    parts: the files.
    names, is_rating_named, row_kind: see `Reader`.
    time_format: `data.time_format`.
  """

  parts: tuple[tables.Part, ...]
  names: Mapping[str, str]
  is_rating_named: bool = False
  time_format: str | None = None
  row_kind: str = 'interactions'

  @property
  def path(self) -> epath.Path:
    return self.parts[0].path

  @property
  def unused(self) -> list[str]:
    every = dict.fromkeys(name for part in self.parts for name in part.names)
    return [name for name in every if name not in self._kinds]

  @functools.cached_property
  def _kinds(self) -> dict[str, pa.DataType]:
    """The type of every column that exists, common to all parts. Empty parts do not influence it."""
    present = {name for part in self.parts for name in (*part.stored, *part.folders)}
    filled = [part for part in self.parts if not part.is_parquet or sum(part.group_rows)]
    found = {}
    for column in self.names.values():
      if column not in present:
        continue
      kinds = [(part.path, part.kind(column)) for part in filled or self.parts[:1]]
      if len({kind for _, kind in kinds}) > 1:
        kinds = [(path, rows_lib.plain_type(kind)) for path, kind in kinds]
      found[column] = rows_lib.common_type(kinds)
      if found[column] is None:
        raise rows_lib.type_error(column, kinds, self._advice(column))
    return found

  def _advice(self, column: str) -> str:
    return Rows(self.path, {}, str, self.parts[0].fields).advice(column)

  @functools.cached_property
  def shards(self) -> Sequence[Shard]:
    _ = self._kinds  # the error about parts of several types comes before those about rows
    found: list[Shard] = []
    for part in self.parts:
      if not part.is_parquet:
        found.append(Shard(len(found), part.path))
        continue
      ends = np.cumsum(part.group_rows, dtype=np.int64)
      pieces = (
        ends - 1
      ) // parquet.GROUPS  # groups that end in the same piece of the rows are one shard
      for piece in np.unique(pieces).tolist():
        groups = np.flatnonzero(pieces == piece)
        start = int(ends[groups[0]]) - part.group_rows[groups[0]]
        found.append(Shard(len(found), part.path, tuple(groups.tolist()), start))
    return tuple(found)

  def read(self, shard: Shard) -> Iterator[Batch]:
    item, user, event = (self.names[name] for name in ('item', 'user', 'event'))
    rating = self.names['rating']
    for rows in self._rows(shard, self._kinds):
      items = columns.ids(rows, item)
      read = times_lib.parse(rows, self.names['time'], self.time_format, self._every_time)
      yield Batch(
        columns.ids(rows, user),
        items,
        read,
        columns.numbers(rows, rating) if rating in rows.columns else None,
        columns.ids(rows, event) if event in rows.columns else None,
        rows,
      )

  def place(self, row: int) -> str:
    for shard in self.shards:
      part = self._part(shard)
      if shard.groups is None:
        counts = map(len, part.batches([next(iter(part.stored))]))
      else:
        counts = [part.group_rows[group] for group in shard.groups]
      start = shard.start
      for count in counts:
        if row < count:
          return part.place(start, row)
        row, start = row - count, start + count
    raise IndexError(row)

  def _part(self, shard: Shard) -> tables.Part:
    return next(part for part in self.parts if part.path == shard.path)

  def _rows(self, shard: Shard, wanted: Collection[str]) -> Iterator[Rows]:
    """The raw rows of a shard, with the types of the whole table."""
    part = self._part(shard)
    for rows in part.batches(wanted, shard.groups, shard.start):
      typed = {name: self._typed(rows, name) for name in wanted}
      yield dataclasses.replace(rows, columns=typed)

  def _typed(self, rows: Rows, column: str) -> pa.ChunkedArray:
    """A column in the type of the whole table; text that is not UTF-8 stays bytes."""
    kind = self._kinds[column]
    if column not in rows.columns:
      return pa.chunked_array([pa.nulls(len(rows), kind)])
    values = rows.columns[column]
    if values.type == kind or (columns.is_bytes(values.type) and columns.is_text(kind)):
      return values
    try:
      return rows_lib.decoded(values).cast(kind)
    except pa.ArrowInvalid:
      kinds = [(part.path, part.kind(column)) for part in self.parts]
      raise rows_lib.type_error(column, kinds, self._advice(column)) from None

  def _every_time(self) -> Iterator[Rows]:
    """The times of all rows of the table."""
    wanted = [self.names['time']]
    return itertools.chain.from_iterable(self._rows(shard, wanted) for shard in self.shards)

  def _times_error(self, facts: times_lib.Facts) -> ValueError:
    if columns.is_text(self._kinds[self.names['time']]) and not facts.kind:
      return times_text.error(self.names['time'], self._every_time)
    return super()._times_error(facts)
