"""Vectors from a file are matched by id and normalised, or rejected with a message."""

from etils import epath
import numpy as np
import pytest

from data_prep.encoders import vectors_file

IDS = ['b', 'a', '7']


def read(path, ids=IDS):
  return vectors_file.read(epath.Path(path), ids)


def write(path, vectors, ids=None):
  if ids is None:
    np.save(path, vectors)
  else:
    np.savez(path, ids=ids, vectors=vectors)
  return path


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64, np.int32])
def test_npy_rows_in_catalogue_order_are_normalised(tmp_path, dtype):
  path = write(tmp_path / 'v.npy', np.array([[3, 4], [0, 0], [0, -2]], dtype))
  got = read(path)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, [[0.6, 0.8], [0, 0], [0, -1]], atol=1e-7)


def test_npz_rows_are_matched_by_id_and_extra_rows_ignored(tmp_path):
  vectors = np.array([[0, 2.0], [np.nan, 1], [5, 0], [3, 4]])
  path = write(tmp_path / 'v.npz', vectors, np.array(['7', 'another', 'a', 'b']))
  np.testing.assert_allclose(read(path), [[0.6, 0.8], [1, 0], [0, 1]], atol=1e-7)
  path = write(tmp_path / 'n.npz', np.eye(2), np.array([7, 12]))  # numbers are raw ids, too
  np.testing.assert_array_equal(read(path, ['12', '7']), [[0, 1], [1, 0]])


GOOD = np.ones((3, 2))


@pytest.mark.parametrize(
  ('vectors', 'ids', 'message'),
  [
    (np.ones((2, 2)), None, r'a row for each of the 3 lines of items\.jsonl; it has 2'),
    (np.ones((4, 2)), None, r'it has 4\. A \.npz with `ids`'),
    (np.ones(3), None, r'must hold numbers \[I, D\]; got float64 \[3\]'),
    (np.float64(1), None, r'must hold numbers \[I, D\]; got float64 \[\]'),
    (np.ones((3, 0)), None, r'must hold numbers \[I, D\]'),
    (np.full((3, 2), 'x'), None, r'must hold numbers \[I, D\]; got <U1'),
    (np.array([[1, 1], [np.nan, 1], [1, np.inf]]), None, r"of 2 items are not, such as 'a', '7'"),
    (GOOD, np.array(['a', 'b', 'c']), r"1 of 3 are missing, such as '7'"),
    (GOOD, np.array(['a', 'b', 'a']), r'each id once; 1 of its ids are repeats'),
    (GOOD, np.array(['a', 'b']), r'as `ids` texts \[3\], one a row; got <U1 \[2\]'),
    (GOOD, np.array([1.0, 2.0, 3.0]), r'as `ids` texts \[3\], one a row; got float64'),
    (GOOD, np.array(['a', 'b', '7'], object), r'must be a complete NumPy file without objects'),
  ],
)
def test_vectors_that_do_not_match_the_catalogue_are_rejected(tmp_path, vectors, ids, message):
  path = write(tmp_path / ('v.npy' if ids is None else 'v.npz'), vectors, ids)
  with pytest.raises(ValueError, match=message) as error:
    read(path)
  assert str(error.value).startswith(str(path))
  assert '--config.sids.encoder' in str(error.value)


@pytest.mark.parametrize('name', ['v.npy', 'v.npz'])
@pytest.mark.parametrize('content', [b'', b'not numpy', None])
def test_damaged_files_are_rejected(tmp_path, name, content):
  path = tmp_path / name
  if content is None:  # cut in half
    write(path, GOOD, None if name == 'v.npy' else np.array(IDS))
    content = path.read_bytes()[: path.stat().st_size // 2]
  path.write_bytes(content)
  with pytest.raises(ValueError, match='must be a complete NumPy file'):
    read(path)


def test_an_npz_without_ids_and_vectors_is_rejected(tmp_path):
  np.savez(tmp_path / 'v.npz', embeddings=GOOD)
  with pytest.raises(ValueError, match='must hold ids and vectors; it holds embeddings'):
    read(tmp_path / 'v.npz')
