"""The TFDS data sets: read back as written, and the same bytes every time."""

import numpy as np
import tensorflow_datasets as tfds

from data_prep import builder, interactions
from tests.folders import contents


def write(folder):
  rng = np.random.default_rng(0)
  users = np.repeat([f'user {u}' for u in range(50)], 6)
  items = np.array([f'i{n}' for n in rng.integers(0, 30, 300)])
  times = rng.integers(0, 2**40, 300)
  records = {'i1': {'title': 'Ä title'}, 'i2': {'description': 'no title'}}
  folder.mkdir()
  interactions.write(
    interactions.clean(interactions.RawLog(users, items, times, records), 0), records, folder
  )
  return folder


def read(folder, name):
  path = folder / 'tfds' / name / builder.VERSION
  return tfds.builder_from_directory(path).as_data_source()['train']


def test_round_trip_and_the_same_bytes(tmp_path):
  folder = write(tmp_path / 'a')
  arrays = {p.stem: np.load(p) for p in folder.glob('*.npy')}
  sequences = read(folder, 'sequences')
  assert len(sequences) == 50
  for u, user in enumerate(sorted(f'user {u}' for u in range(50))):
    example = sequences[u]
    rows = slice(arrays['train_offsets'][u], arrays['train_offsets'][u + 1])
    assert example['user'].decode() == user
    np.testing.assert_array_equal(example['items'], arrays['train_items'][rows])
    np.testing.assert_array_equal(example['times'], arrays['train_times'][rows])
    for split in ('validation', 'test'):
      assert example[f'{split}_item'] == arrays[f'{split}_items'][u]
      assert example[f'{split}_time'] == arrays[f'{split}_times'][u]
  items = read(folder, 'items')
  ids = sorted(f'i{n}' for n in range(30))
  assert [item['id'].decode() for item in items] == ids
  assert [item['index'] for item in items] == list(range(30))
  assert items[ids.index('i1')]['title'].decode() == 'Ä title'
  assert items[ids.index('i2')]['title'] == b''
  assert items[ids.index('i2')]['text'] == b'no title'
  assert contents(write(tmp_path / 'b')) == contents(folder)
