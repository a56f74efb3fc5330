"""Writes the clean log as TFDS data sets in ArrayRecord files, for use by other programs.

  sequences   one example per user, in index order: training items; under leave-one-out also held-out items
  held_out    other splits: one example per held-out row, in the TFDS splits `validation` and `test`
  items       one example per item, in index order

Read them with `tfds.builder_from_directory(folder / 'sequences' / VERSION).as_data_source()['train']`.

The records are `tf.train.Example`s as TFDS writes them. They are encoded by `data_prep.log.tf_example`, because the
writer of TFDS takes many times as long (it visits every feature several times in Python), and because its order of
features differs between processes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import itertools
import os
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info, naming

from data_prep.log import tf_example
from data_prep.log.ids import Names
from recjax.data.prepared import SPLITS
from recjax.runtime import logs

VERSION = '1.0.0'
SHARD_EXAMPLES = 1 << 18
_BLOCK = 1 << 14  # examples held as Python objects at a time
_ITEMS = 1 << 12  # items, whose texts may be long
_KINDS = {'items': np.int32, 'times': np.int64, 'ratings': np.float32, 'events': str}


class _Column(NamedTuple):
  """A feature of all examples.

  Attributes:
    kind: a numpy type, or str.
    values: one per example, or flat. With `names`: integer indices of `names`.
    offsets: example n has `values[offsets[n]:offsets[n + 1]]`; None: one value per example.
    names: the texts that `values` index; empty if `values` holds the values themselves.
  """

  kind: type
  values: Sequence[str] | np.ndarray
  offsets: np.ndarray | None = None
  names: Sequence[str] = ()

  @property
  def feature(self) -> Any:
    feature = tfds.features.Text() if self.kind is str else self.kind
    return feature if self.offsets is None else tfds.features.Sequence(feature)

  def encoded(self, start: int, end: int) -> tf_example.Values:
    """Returns the values of examples start to end."""
    if self.offsets is None:
      offsets = np.arange(start, end + 1)
    else:
      offsets = self.offsets[start : end + 1]
    values = self.values[int(offsets[0]) : int(offsets[-1])]
    offsets = offsets - offsets[0]
    if self.kind is not str:
      is_float = np.issubdtype(self.kind, np.floating)
      return (tf_example.floats if is_float else tf_example.integers)(values, offsets)
    if isinstance(self.names, Names):
      values = self.names.take(values)
    elif self.names:
      values = [self.names[value] for value in values.tolist()]
    return tf_example.texts([value.encode() for value in values], offsets)


def write_sequences(
  folder: epath.PathLike,
  user_ids: Sequence[str],
  arrays: Mapping[str, np.ndarray],
  event_names: Sequence[str] = (),
) -> None:
  """Writes `folder/sequences/VERSION`; for splits other than leave-one-out also `folder/held_out/VERSION`.

  Args:
    folder: created; must not hold these data sets yet.
    user_ids: raw ids of the U users.
    arrays: a split (see `data_prep.log.splits`).
    event_names: kinds of interactions, by index.
  """
  by_row = 'test_users' in arrays

  def column(name: str, ending: str, offsets: np.ndarray | None = None) -> _Column:
    names = event_names if ending == 'events' else ()
    return _Column(_KINDS[ending], arrays[name], offsets, names)

  known = [ending for ending in _KINDS if f'train_{ending}' in arrays]
  sequences = {'user': _Column(str, user_ids)}
  for ending in known:
    sequences[ending] = column(f'train_{ending}', ending, arrays['train_offsets'])
    if not by_row:
      for split in SPLITS:
        sequences[f'{split}_{ending[:-1]}'] = column(f'{split}_{ending}', ending)
  description = (
    "Users' interactions, oldest first: what is trained on."
    if by_row
    else "Users' interactions, oldest first; the last is for test, the one before validation."
  )
  _write(folder, 'sequences', description, {'train': sequences})
  if not by_row:
    return
  held_out = {}
  for split in SPLITS:
    users, offsets = arrays[f'{split}_users'], arrays[f'{split}_history_offsets']
    held_out[split] = {'user': _Column(str, users, names=user_ids)}
    for ending in known:
      if f'{split}_{ending}' in arrays:
        history = f'history_{ending}'
        held_out[split][history] = column(f'{split}_{history}', ending, offsets)
        held_out[split][ending[:-1]] = column(f'{split}_{ending}', ending)
  _write(folder, 'held_out', 'What to predict, and what came before it, oldest first.', held_out)


def _write(
  folder: epath.PathLike,
  name: str,
  description: str,
  splits: Mapping[str, Mapping[str, _Column]],
) -> None:
  columns = next(iter(splits.values()))
  features = {feature: column.feature for feature, column in columns.items()}
  data_set = _DataSet(folder, name, description, features)
  for split, columns in splits.items():
    count = len(columns['user'].values)
    blocks = (
      data_set.encode(
        {
          name: column.encoded(start, min(start + _BLOCK, count))
          for name, column in columns.items()
        }
      )
      for start in range(0, count, _BLOCK)
    )
    data_set.add(split, itertools.chain.from_iterable(blocks), count)
  data_set.finish()


def write_items(folder: epath.PathLike, rows: Iterable[Mapping[str, Any]], count: int) -> None:
  """Writes `folder/items/VERSION`.

  Args:
    folder: created; must not hold this data set yet.
    rows: objects with id, text and perhaps title, in item order; iterated once.
    count: I, the number of rows.
  """
  features = {'id': tfds.features.Text(), 'index': np.int32}
  features |= {'title': tfds.features.Text(), 'text': tfds.features.Text()}
  data_set = _DataSet(folder, 'items', 'The catalogue: raw ids and texts by item index.', features)
  data_set.add('train', _item_records(data_set, rows), count)
  data_set.finish()


def _item_records(data_set: '_DataSet', rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
  stream, start = iter(rows), 0
  while block := list(itertools.islice(stream, _ITEMS)):
    columns = {'id': _Column(str, [row['id'] for row in block])}
    columns['index'] = _Column(np.int32, np.arange(start, start + len(block)))
    columns['title'] = _Column(str, [row.get('title', '') for row in block])
    columns['text'] = _Column(str, [row['text'] for row in block])
    yield from data_set.encode(
      {name: column.encoded(0, len(block)) for name, column in columns.items()}
    )
    start += len(block)


class _DataSet:
  """A TFDS data set, written example by example."""

  def __init__(self, folder: epath.PathLike, name: str, description: str, features: dict[str, Any]):
    self._folder = epath.Path(folder) / name / VERSION
    self._folder.mkdir(parents=True)
    identity = dataset_info.DatasetIdentity(
      name, tfds.core.Version(VERSION), os.fspath(self._folder), __name__
    )
    self._info = tfds.core.DatasetInfo(
      builder=identity,
      description=description,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,  # example n is user, row or item n
    )
    self._info.set_file_format('array_record')
    self._fields = [(feature, _field_name(self._info.features[feature])) for feature in features]
    self._splits: list[tfds.core.SplitInfo] = []

  def encode(self, values: Mapping[str, tf_example.Values]) -> Iterator[bytes]:
    """Yields the records of consecutive examples, whose features are `values`."""
    return tf_example.encode([(name, field, values[name]) for name, field in self._fields])

  def add(self, split: str, records: Iterator[bytes], count: int) -> None:
    """Writes a split.

    Args:
      split: name of the split.
      records: its examples, as `encode` yields them.
      count: number of examples.
    """
    template = naming.ShardedFileTemplate(
      data_dir=self._folder,
      dataset_name=self._info.name,
      split=split,
      filetype_suffix='array_record',
    )
    label = self._info.name if split == 'train' else split
    starts = range(0, count, SHARD_EXAMPLES)
    lengths = [min(SHARD_EXAMPLES, count - start) for start in starts]
    num_bytes = 0
    with logs.progress(records, label, total=count, unit=' examples') as bar:
      stream = iter(bar)
      for shard, length in enumerate(lengths):
        path = template.sharded_filepath(shard_index=shard, num_shards=len(lengths))
        writer = ArrayRecordWriter(os.fspath(path), 'group_size:1')
        for record in itertools.islice(stream, length):
          num_bytes += len(record)
          writer.write(record)
        writer.close()
      next(stream, None)  # ends the bar
    self._splits.append(tfds.core.SplitInfo(split, lengths, num_bytes))

  def finish(self) -> None:
    """Writes the metadata of the data set."""
    self._info.set_splits(tfds.core.splits.SplitDict(self._splits))
    self._info.write_to_directory(self._folder)


def _field_name(feature: Any) -> str:
  """The field of `tf.train.Feature` that holds the values of a TFDS feature."""
  kind = getattr(feature, 'feature', feature).np_dtype
  if np.issubdtype(kind, np.integer):
    return 'int64_list'
  return 'float_list' if np.issubdtype(kind, np.floating) else 'bytes_list'
