"""The TFDS data sets: read back, compared with the encoding of TFDS, and equal bytes on every run."""

from etils import epath
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.proto import tf_example_pb2

from data_prep.log import builder, interactions, log_writer, splits
from data_prep.log.raw_log import RawLog
from tests.folders import contents


def raw_log(with_notes=True):
  rng = np.random.default_rng(0)
  users = np.repeat([f'user {u}' for u in range(50)], 6)
  items = np.array([f'i{n}' for n in rng.integers(0, 30, 300)])
  times = rng.integers(0, 2**40, 300)
  times[:6] = -times[:6]  # before 1970
  times[-6:] += 2**41  # after all others
  records = {'i1': {'title': 'Ä title'}, 'i2': {'description': 'no title'}}
  if not with_notes:
    return RawLog(users, items, times, records)
  ratings = (rng.integers(1, 11, 300) / 2).astype(np.float32)
  events = np.array(['buy', 'vïew'])[rng.integers(0, 2, 300)]
  return RawLog(users, items, times, records, ratings, events)


def write(folder, log, kind='leave_one_out'):
  folder.mkdir()
  cleaned = interactions.clean(log, 0)
  arrays = splits.split(cleaned, kind, (0.8, 0.1, 0.1), 3)
  log_writer.write(cleaned, arrays, log.item_records, epath.Path(folder))
  return cleaned, arrays


def read(folder, name, split='train'):
  path = folder / 'tfds' / name / builder.VERSION
  return tfds.builder_from_directory(path).as_data_source()[split]


def check_row(example, arrays, prefix, rows, names):
  """Compares rows of the flat arrays `prefix*` with the features of the same names."""
  for ending in ('items', 'times', 'ratings'):
    found = example[f'history_{ending}' if 'history' in prefix else ending]
    np.testing.assert_array_equal(found, arrays[prefix + ending][rows])
    assert {value.dtype for value in found} <= {arrays[prefix + ending].dtype}
  kinds = [names[n] for n in arrays[f'{prefix}events'][rows]]
  found = example['history_events' if 'history' in prefix else 'events']
  assert [kind.decode() for kind in found] == kinds


def test_tfds_reads_the_log_back_and_a_second_write_gives_the_same_bytes(tmp_path):
  folder = tmp_path / 'a'
  cleaned, arrays = write(folder, raw_log())
  sequences = read(folder, 'sequences')
  assert len(sequences) == 50
  for u, user in enumerate(sorted(f'user {u}' for u in range(50))):
    example = sequences[u]
    rows = slice(arrays['train_offsets'][u], arrays['train_offsets'][u + 1])
    assert example['user'].decode() == user
    check_row(example, arrays, 'train_', rows, cleaned.event_names)
    for split in ('validation', 'test'):
      for feature, ending in (('item', 'items'), ('time', 'times'), ('rating', 'ratings')):
        assert example[f'{split}_{feature}'] == arrays[f'{split}_{ending}'][u]
      kind = cleaned.event_names[arrays[f'{split}_events'][u]]
      assert example[f'{split}_event'].decode() == kind
  items = read(folder, 'items')
  ids = sorted(f'i{n}' for n in range(30))
  assert [item['id'].decode() for item in items] == ids
  assert [item['index'] for item in items] == list(range(30))
  assert items[ids.index('i1')]['title'].decode() == 'Ä title'
  assert items[ids.index('i2')]['title'] == b''
  assert items[ids.index('i2')]['text'] == b'no title'
  write(tmp_path / 'b', raw_log())
  assert contents(tmp_path / 'b') == contents(folder)


def test_held_out_rows_are_the_tfds_splits_validation_and_test(tmp_path):
  folder = tmp_path / 'a'
  cleaned, arrays = write(folder, raw_log(), 'global_time')
  sequences = read(folder, 'sequences')
  assert set(sequences[0]) == {'user', 'items', 'times', 'ratings', 'events'}
  empty = np.flatnonzero(np.diff(arrays['train_offsets']) == 0)
  assert len(empty)
  assert len(sequences[int(empty[0])]['items']) == 0
  for split in ('validation', 'test'):
    rows = read(folder, 'held_out', split)
    assert len(rows) == len(arrays[f'{split}_items'])
    for n, example in enumerate(rows):
      start, end = arrays[f'{split}_history_offsets'][n : n + 2]
      assert example['user'].decode() == cleaned.user_ids[arrays[f'{split}_users'][n]]
      assert example['item'] == arrays[f'{split}_items'][n]
      assert example['time'] == arrays[f'{split}_times'][n]
      assert example['rating'] == arrays[f'{split}_ratings'][n]
      check_row(example, arrays, f'{split}_history_', slice(start, end), cleaned.event_names)


def test_a_log_without_ratings_and_events_has_no_such_features(tmp_path):
  write(tmp_path / 'a', raw_log(with_notes=False))
  names = {'user', 'items', 'times'} | {
    f'{split}_{name}' for split in ('validation', 'test') for name in ('item', 'time')
  }
  assert set(read(tmp_path / 'a', 'sequences')[0]) == names
  assert not (tmp_path / 'a' / 'tfds' / 'held_out').exists()


def test_large_data_sets_are_sharded_into_several_files(tmp_path, monkeypatch):
  monkeypatch.setattr(builder, 'SHARD_EXAMPLES', 20)
  monkeypatch.setattr(builder, '_BLOCK', 7)
  folder = tmp_path / 'a'
  cleaned, arrays = write(folder, raw_log())
  files = sorted(path.name for path in (folder / 'tfds/sequences/1.0.0').glob('*array_record*'))
  assert files == [f'sequences-train.array_record-0000{n}-of-00003' for n in range(3)]
  sequences = read(folder, 'sequences')
  assert len(sequences) == 50
  assert [example['user'].decode() for example in sequences] == cleaned.user_ids
  flat = np.concatenate([example['items'] for example in sequences])
  np.testing.assert_array_equal(flat, arrays['train_items'])


@pytest.mark.parametrize('seed', range(5))
def test_encoded_records_equal_those_of_tfds(tmp_path, seed):
  """Compares with the encoding of TFDS, serialized again with its features in sorted order."""
  rng = np.random.default_rng(seed)
  features = {
    'ints': tfds.features.Sequence(np.int64),
    'floats': tfds.features.Sequence(np.float32),
    'texts': tfds.features.Sequence(tfds.features.Text()),
    'int': np.int32,
    'float': np.float32,
    'text': tfds.features.Text(),
  }
  count = int(rng.integers(0, 3))
  example = {
    'ints': rng.integers(-(2**62), 2**62, count).tolist(),
    'floats': rng.normal(size=count).astype(np.float32).tolist(),
    'texts': ['', 'ü', '\U0001f600'][:count],
    'int': int(rng.integers(-9, 9)),
    'float': float(np.float32(rng.normal())),
    'text': 'ä' * int(rng.integers(0, 300)),
  }
  described = tfds.features.FeaturesDict(features)
  serializer = example_serializer.ExampleSerializer(described.get_serialized_info())
  theirs = serializer.serialize_example(described.encode_example(example))
  data_set = builder._DataSet(tmp_path, 'x', 'x', features)
  kinds = {'ints': np.int64, 'floats': np.float32, 'texts': str}
  kinds |= {'int': np.int32, 'float': np.float32, 'text': str}
  values = {}
  for name, value in example.items():
    cells = value if isinstance(value, list) else [value]
    column = cells if kinds[name] is str else np.array(cells, kinds[name])
    offsets = np.array([0, len(cells)]) if isinstance(value, list) else None
    values[name] = builder._Column(kinds[name], column, offsets).encoded(0, 1)
  (ours,) = data_set.encode(values)
  parsed = tf_example_pb2.Example.FromString(theirs)
  assert ours == parsed.SerializeToString(deterministic=True)
