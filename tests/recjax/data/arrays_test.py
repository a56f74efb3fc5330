"""Arrays of a bucket, read by range from a file system in memory, against the same arrays on a disk."""

import threading

from etils import epath
import numpy as np
import pytest

from recjax import describe, train
from recjax.baselines import BASELINES
from recjax.data import arrays, log_change
from recjax.data.dataset import Dataset
from recjax.data.prepared import Prepared
from recjax.data.sequences import Sequences
from recjax.decode import lookups
from recjax.metrics import leakage, rivals
from recjax.report import sid_map
from recjax.schema.stream import Loader
from tests.recjax.data import buckets


@pytest.fixture
def bucket(monkeypatch):
  """A bucket of which files of more than a KiB are read by range."""
  monkeypatch.setattr(arrays, 'WHOLE', 1024)
  monkeypatch.setattr(arrays, '_BLOCK', 256)
  with buckets.fake() as fs:
    yield fs


def _put(fs, name, array):
  with fs.open(name, 'wb') as f:
    np.save(f, array)
  return epath.Path(f'gs:/{name}')


@pytest.mark.parametrize('dtype', [np.int32, np.int64, np.float32])
def test_any_index_gives_the_entries_of_the_array(bucket, dtype):
  want = np.random.default_rng(0).integers(0, 1000, 777).astype(dtype)
  got = arrays.load_log(_put(bucket, '/a.npy', want))
  assert isinstance(got, arrays.Ranged)
  assert (len(got), got.shape, got.dtype) == (777, (777,), want.dtype)
  for rows in (
    slice(None), slice(3, 9), slice(60, 70), slice(-5, None), slice(9, 3), slice(1, 700, 7),
    slice(None, None, -1), 0, -1, 776, np.array([5, 700, 5, -2]), np.array([[1, 2], [3, 776]]),
    np.zeros(0, np.int64), want > 500, np.arange(9, 700), np.arange(9, 11).reshape(2, 1), np.arange(500, 9, -3),
    np.random.default_rng(1).integers(0, 777, (20, 9)),
  ):  # fmt: skip
    np.testing.assert_array_equal(got[rows], want[rows])
    assert got[rows].dtype == want.dtype
  np.testing.assert_array_equal(np.asarray(got), want)
  np.testing.assert_array_equal(got + 1, want + 1)
  with pytest.raises(IndexError, match='777'):
    got[np.array([777])]


def test_only_the_blocks_of_a_range_are_read_and_few_are_kept(bucket, monkeypatch):
  monkeypatch.setattr(arrays, '_CACHE', 4096)  # 16 blocks of 64 entries
  got = arrays.load_log(_put(bucket, '/a.npy', np.arange(6400, dtype=np.int32)))
  bucket.ranges.clear()
  assert got[100:130].tolist() == list(range(100, 130))
  assert [end - start for _, start, end in bucket.ranges] == [256, 256]  # blocks 1 and 2
  got[110], got[70:80]
  assert len(bucket.ranges) == 2
  for n in range(10, 40):
    got[64 * n]
  assert len(got._blocks) == 16
  got[100]
  assert len(bucket.ranges) == 33


def test_consecutive_entries_are_one_range(bucket):
  got = arrays.load_log(_put(bucket, '/a.npy', np.arange(6400, dtype=np.int32)))
  sequences = Sequences(got, np.array([0, 700, 3000, 6400]))
  bucket.ranges.clear()
  assert sequences.take(np.array([1, 2])).values.tolist() == list(range(700, 6400))
  assert len(bucket.ranges) == 1


def test_threads_share_an_array(bucket):
  want = np.random.default_rng(1).integers(0, 9, 5000)
  got, found = arrays.load_log(_put(bucket, '/a.npy', want)), {}

  def read(n):
    found[n] = np.concatenate([got[at : at + 50] for at in range(n, 4900, 97)])

  threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for n, values in found.items():
    expected = np.concatenate([want[at : at + 50] for at in range(n, 4900, 97)])
    np.testing.assert_array_equal(values, expected)


def test_damaged_files_are_refused_by_name(bucket):
  path = _put(bucket, '/a.npy', np.arange(900))
  content = bucket.cat_file('/a.npy')
  bucket.pipe_file('/a.npy', content[:-8])
  with pytest.raises(ValueError, match=r'a\.npy must have \d+ bytes, as its header says'):
    arrays.load_log(path)
  bucket.pipe_file('/a.npy', b'nonsense' * 500)
  with pytest.raises(ValueError, match=r'a\.npy must be a \.npy file'):
    arrays.load_log(path)
  with pytest.raises(ValueError, match=r'one dimension; got \[30, 30\]'):
    arrays.load_log(_put(bucket, '/b.npy', np.zeros((30, 30))))
  got = arrays.load_log(_put(bucket, '/c.npy', np.arange(900)))
  bucket.pipe_file('/c.npy', content[:300])
  with pytest.raises(ValueError, match=r'c\.npy must not change while it is used'):
    got[800]


def test_small_files_and_local_files_are_plain_arrays(bucket, tmp_path):
  path = _put(bucket, '/a.npy', np.arange(9))
  assert type(arrays.load_log(path)) is np.ndarray
  np.save(tmp_path / 'a.npy', np.arange(9))
  assert isinstance(arrays.load_log(tmp_path / 'a.npy'), np.memmap)
  assert type(arrays.plain(arrays.load_log(tmp_path / 'a.npy'))) is np.ndarray


def test_counts_of_an_array_that_is_read_by_range(bucket):
  values = np.random.default_rng(0).integers(0, 50, 2000).astype(np.int32)
  ranged = arrays.load_log(_put(bucket, '/a.npy', values))
  counts = Sequences(ranged, np.array([0, 500, 2000])).counts(60)
  np.testing.assert_array_equal(counts, np.bincount(values, minlength=60))


def _uploaded(fs, dataset):
  fs.put(str(dataset.folder.root), '/prepared', recursive=True)
  remote = Dataset.load(Prepared('gs://prepared', dataset.folder.folders))
  assert isinstance(remote.train.values, arrays.Ranged)
  return remote


def test_a_stream_from_a_bucket_is_that_from_the_disk(rated, bucket):
  config, dataset = rated
  local, remote = train.make_stream(config, dataset), _uploaded(bucket, dataset)
  stream = train.make_stream(config, remote)
  assert stream.plan == local.plan
  for group in (0, 7):
    for name, want in local.group(group).items():
      np.testing.assert_array_equal(stream.group(group)[name], want)
  wanted = local.host_batch(0, 1, 2) if local.groups % 2 == 0 else local.host_batch(0, 0, 1)
  hosts = (1, 2) if local.groups % 2 == 0 else (0, 1)
  batch = next(stream.batches(0, 1, *hosts, Loader()))
  for name, want in wanted.items():
    np.testing.assert_array_equal(batch[name], want)


def test_a_run_reads_the_rest_of_its_data_from_a_bucket_too(rated, bucket):
  config, dataset = rated
  remote = _uploaded(bucket, dataset)
  for read in (
    lambda log: describe.describe(log, config) | {'folder': ''},
    lambda log: leakage.check(log, config.data.split),
    lambda log: sid_map.sid_map(config, log),
    lambda log: log_change.compare(*[log_change.Summary.of(log)] * 2),
    lambda log: lookups.text_vectors(log).tolist(),
    lambda log: [
      baseline.recommend(rivals.split_of(log, split, np.arange(5), 9)).tolist()
      for split in ('validation', 'test')
      for baseline in BASELINES.values()
    ],
  ):
    assert read(remote) == read(dataset)
