"""Reads and writes the predictions of an evaluation: Parquet files with one line per held-out row.

```
WORKDIR/predictions/<split>/rows.parquet             row, user, target, and one column per label of recjax.metrics.slices
WORKDIR/predictions/<split>/<evaluator>.parquet      row, user, target, and the columns of the evaluator
WORKDIR/predictions/<split>/rankers/<name>.parquet   row, user, target, items, scores, rank: one score of the model alone
WORKDIR/predictions/<split>/baselines/<name>.parquet  row, user, target, items, scores, rank
```

`row` is the number of the row in its split. `user` and `target` are raw ids, `items` are raw ids, best first, and
`scores` belong to them; a ranker without scores has no such column. `rank` is the 0-based rank of the target, null if
it is not in the list. The metadata of a file holds a JSON record under the key `recjax`; see `record`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import contextlib
import itertools
import json
from typing import Any

from etils import epath
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recjax.data.dataset import Log
from recjax.data.sequences import offsets_of
from recjax.metrics.ranked import Ranked
from recjax.metrics.slices import Labels
from recjax.runtime import distributed
from recjax.runtime.files import replacing

FOLDER = 'predictions'
ROWS = 'rows'  # the file of the labels
PLACES = ('rankers/', 'baselines/')  # folders of rankers beside the evaluators
KEY = b'recjax'
VERSION = 1
GROUP_ROWS = 1 << 16  # rows per row group, which bounds the memory

_RECORD = {'version', 'split', 'name', 'rows', 'data', 'protocol', 'step'}


def path(workdir: epath.PathLike, split: str, name: str) -> epath.Path:
  """Returns the path of a file of predictions.

  Args:
    workdir: the workdir.
    split: 'validation' or 'test'.
    name: name of an evaluator, `rows`, `rankers/<name>` or `baselines/<name>`.
  """
  return epath.Path(workdir) / FOLDER / split / f'{name}.parquet'


def record(
  split: str, name: str, rows: int, data: Mapping[str, Any], protocol: Mapping[str, Any], step: int
) -> dict[str, Any]:
  """Returns the metadata of a file.

  Args:
    split: 'validation' or 'test'.
    name: name of the file, see `path`.
    rows: number of its lines.
    data: the digests of the evaluated data, `evaluation_file.data_record`. The folder is left out.
    protocol: how rows were ranked: `split` and `exclude_seen`.
    step: step of the checkpoint.
  """
  return {
    'version': VERSION,
    'split': split,
    'name': name,
    'rows': rows,
    'data': _digests(data),
    'protocol': dict(protocol),
    'step': step,
  }


def _digests(data: Mapping[str, Any]) -> dict[str, Any]:
  return {key: value for key, value in data.items() if key != 'folder'}


class Ids:
  """Raw ids of users and items by index, as Arrow arrays; read once."""

  def __init__(self, log: Log):
    self._log = log
    self._items = pa.array([item['id'] for item in log.items], pa.string())
    self._users = pa.array(log.user_ids(), pa.string())

  def of_rows(self, split: str, rows: np.ndarray) -> dict[str, pa.Array]:
    """Returns the columns of every file, `row`, `user` and `target`. Under leave-one-out the rows are the users."""
    users = self._log.row_users(split)[rows]
    return {
      'row': pa.array(rows, pa.int64()),
      'user': self._users.take(pa.array(users)),
      'target': self.of_items(np.asarray(self._log.targets(split)[rows])),
    }

  def of_items(self, items: np.ndarray) -> pa.Array:
    """Returns the ids of items: string `[R]`, null for a negative index; or for `[R, K]` lists without negative ones."""
    if items.ndim == 2:
      return _lists(self._items.take(pa.array(items[items >= 0])), items >= 0)
    return self._items.take(pa.array(np.maximum(items, 0), mask=items < 0))


def _lists(values: pa.Array, is_kept_UK: np.ndarray) -> pa.Array:
  """Returns lists of the values of the marked cells; `values` are those cells, in order."""
  offsets = np.append(0, np.cumsum(is_kept_UK.sum(axis=1))).astype(np.int32)
  return pa.ListArray.from_arrays(pa.array(offsets), values)


def of_ranked(ranked: Ranked) -> dict[str, np.ndarray]:
  """Returns the columns of a ranker: `items`, `scores` (if it gives any) and `rank`, -1 for an absent target."""
  is_absent = ranked.ranks_U >= ranked.items_UK.shape[1]
  columns = {'items': ranked.items_UK, 'scores': ranked.scores_UK}
  columns['rank'] = np.where(is_absent, -1, ranked.ranks_U).astype(np.int32)
  return {name: values for name, values in columns.items() if values is not None}


def of_labels(labels: Mapping[str, Labels]) -> dict[str, np.ndarray]:
  """Returns the columns of rows.parquet: the bucket of every row by name."""
  return {name: each.names for name, each in labels.items()}


def groups(
  ids: Ids,
  split: str,
  rows: np.ndarray,
  columns: Mapping[str, np.ndarray],
  item_columns: Collection[str] = ('items',),
) -> Iterator[dict[str, pa.Array]]:
  """Yields the columns of a file as raw ids, a row group at a time.

  Args:
    ids: the raw ids.
    split: 'validation' or 'test'.
    rows: row numbers of the split, int `[R]`.
    columns: name → numbers or strings, `[R]` or `[R, K]`, such as `of_ranked`.
    item_columns: the columns that hold item indices; -1: none. Where a list of items ends, the lists of numbers of the
      same width end too.
  """
  for start in range(0, len(rows), GROUP_ROWS):
    part = slice(start, start + GROUP_ROWS)
    found = ids.of_rows(split, rows[part])
    cells = {name: np.asarray(values[part]) for name, values in columns.items()}
    ends = {
      cells[name].shape[1]: cells[name] >= 0
      for name in item_columns
      if name in cells and cells[name].ndim == 2
    }
    for name, values in cells.items():
      if name in item_columns:
        found[name] = ids.of_items(values)
      elif values.ndim == 2:
        is_kept = ends.get(values.shape[1], np.ones(values.shape, bool))
        found[name] = _lists(pa.array(values[is_kept]), is_kept)
      elif name == 'rank':
        found[name] = pa.array(values, mask=values < 0)
      else:
        found[name] = pa.array(values)
    yield found


def write(
  workdir: epath.PathLike, record: Mapping[str, Any], groups: Iterable[Mapping[str, pa.Array]]
) -> None:
  """Writes a file atomically, on host 0 only.

  Args:
    workdir: the workdir.
    record: see `record`; its `split` and `name` give the path.
    groups: the columns of every row group, from `groups`; all groups have the same columns. Ids are
      dictionary-encoded in the file.
  """
  if not distributed.is_host0():
    return
  to = path(workdir, record['split'], record['name'])
  tables = map(pa.table, map(dict, groups))
  if (first := next(tables, None)) is None:
    raise ValueError(f'{to} must hold at least one row; got none')
  schema = first.schema.with_metadata({KEY: json.dumps(record)})
  to.parent.mkdir(parents=True, exist_ok=True)
  with (
    replacing(to, 'wb') as f,
    pq.ParquetWriter(f, schema, compression='zstd', write_page_checksum=True) as writer,
  ):
    for table in itertools.chain([first], tables):
      writer.write_table(table.cast(schema), row_group_size=GROUP_ROWS)


def remove_others(workdir: epath.PathLike, kept: Iterable[tuple[str, str]]) -> None:
  """Removes files of an earlier evaluation: all but those of the given (split, name), on host 0 only."""
  folder = epath.Path(workdir) / FOLDER
  if not distributed.is_host0() or not folder.exists():
    return
  wanted = {path(workdir, split, name) for split, name in kept}
  for split in folder.iterdir():
    for found in itertools.chain(*(split.glob(f'{place}*.parquet') for place in ('', *PLACES))):
      if found not in wanted:
        found.unlink()


class Predictions:
  """A file of predictions, whose columns are read on demand.

  Attributes:
    path: the file.
    record: its metadata, see `record`.
  """

  def __init__(self, workdir: epath.PathLike, split: str, name: str):
    """Opens a file.

    Raises:
      ValueError: there is none, it is damaged, or another program wrote it.
    """
    self.path = path(workdir, split, name)
    if not self.path.exists():
      raise ValueError(
        f'{self.path} must exist; this workdir has no predictions of {name} on the {split} rows. Run '
        '--mode=evaluate on that --workdir first'
      )
    try:
      with self.path.open('rb') as f:
        metadata = pq.ParquetFile(f).schema_arrow.metadata or {}
    except (pa.ArrowException, OSError) as error:
      raise self._damaged(error) from error
    try:
      self.record = json.loads(metadata[KEY])
      is_ours = self.record.keys() >= _RECORD and isinstance(self.record['version'], int)
    except (KeyError, ValueError, AttributeError):
      is_ours = False
    if not is_ours:
      raise ValueError(
        f'{self.path} must hold predictions that recjax wrote; its metadata have no complete record '
        f'{KEY.decode()!r}. Remove it and run --mode=evaluate again'
      )
    if self.record['version'] > VERSION:
      raise ValueError(
        f'{self.path} must be of version {VERSION} or earlier; got {self.record["version"]}. Read it with the '
        'version of recjax that wrote it, or run --mode=evaluate again'
      )

  def _damaged(self, error: Exception) -> ValueError:
    return ValueError(
      f'{self.path} must be a whole Parquet file; it is damaged ({str(error).splitlines()[0][:200]}). Run '
      '--mode=evaluate again'
    )

  def read(self, *columns: str) -> pa.Table:
    """Returns the named columns, or all of them.

    Raises:
      ValueError: a column is absent, or the file is damaged.
    """
    with self._file() as file:
      if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise ValueError(
          f'{self.path} must have the columns {", ".join(columns)}; it lacks {", ".join(missing)}. Run '
          '--mode=evaluate again'
        )
      return file.read(list(columns) or None)

  def lines(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Returns whole lines by their number, in the order of `numbers`; one row group is in memory at a time.

    Raises:
      ValueError: the file is damaged.
    """
    numbers, found = np.asarray(numbers, np.int64), {}
    with self._file() as file:
      sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
      starts = offsets_of(sizes)
      group_of = np.searchsorted(starts, numbers, side='right') - 1
      for group in np.unique(group_of).tolist():
        inside = numbers[group_of == group]
        table = file.read_row_group(group).take(inside - starts[group])
        found |= zip(inside.tolist(), table.to_pylist(), strict=True)
    return [found[number] for number in numbers.tolist()]

  @contextlib.contextmanager
  def _file(self) -> Iterator[pq.ParquetFile]:
    try:
      with self.path.open('rb') as f:
        yield pq.ParquetFile(f, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
      raise self._damaged(error) from error


def of_evaluation(
  workdir: epath.PathLike, split: str, name: str, results: Mapping[str, Any]
) -> Predictions:
  """Opens a file that was written with evaluation.json.

  The predictions are written first, so an evaluation that is killed in between leaves the evaluation.json of an earlier
  one.

  Args:
    workdir: the workdir.
    split: 'validation' or 'test'.
    name: see `path`.
    results: the content of evaluation.json.

  Raises:
    ValueError: see `Predictions`; or another evaluation wrote the file.
  """
  found = Predictions(workdir, split, name)
  evaluator, protocol = results.get('evaluators', {}).get(name, {}), results.get('protocol', {})
  rows = {**results.get('rows', {}), **{key: each['rows'] for key, each in evaluator.items()}}
  expected = {
    'step': results['step'],
    'rows': rows.get(split),
    'data': _digests(results.get('data', {})),
    'protocol': {key: protocol.get(key) for key in found.record['protocol']},
  }
  if different := [key for key, value in expected.items() if found.record[key] != value]:
    raise ValueError(
      f'{found.path} must be of the evaluation in evaluation.json; they differ in {", ".join(different)}. Run '
      '--mode=evaluate on that --workdir again'
    )
  return found


def names(workdir: epath.PathLike, split: str) -> list[str]:
  """Returns the names of the files of a split, such as `retrieval` and `baselines/popularity`, sorted.

  Raises:
    ValueError: the workdir has no predictions.
  """
  folder = epath.Path(workdir) / FOLDER / split
  found = [f'{place}{each.stem}' for place in PLACES for each in folder.glob(f'{place}*.parquet')]
  found += [each.stem for each in folder.glob('*.parquet') if each.stem != ROWS]
  if not found:
    raise ValueError(
      f'{folder} must hold the predictions of an evaluation; this workdir has none. Run --mode=evaluate on that '
      '--workdir first'
    )
  return sorted(found)
