"""Arrays in memory and in files, a block at a time, compared with numpy."""

import numpy as np
import pytest

from data_prep.log import arrays
from recjax.data.sequences import offsets_of


@pytest.fixture(params=['memory', 'files'])
def scratch(request, tmp_path, monkeypatch):
  monkeypatch.setattr(arrays, 'BLOCK', 7)
  monkeypatch.setattr(arrays, 'LEAST', 1 if request.param == 'files' else 1 << 26)
  yield arrays.Scratch(tmp_path)
  assert not list(tmp_path.iterdir())  # the files have no name


def test_columns_grow_by_batches(scratch):
  column, rng = arrays.Column(scratch, np.int64), np.random.default_rng(0)
  batches = [rng.integers(-5, 5, n) for n in (3, 0, 20)]
  for batch in batches:
    column.append(batch)
  assert column.array().tolist() == np.concatenate(batches).tolist()
  assert arrays.Column(scratch, np.int32).array().shape == (0,)


def test_blocks_equal_whole_arrays(scratch):
  rng = np.random.default_rng(1)
  values, is_marked = rng.integers(0, 9, 50), rng.random(50) < 0.4
  column = scratch.empty(50, np.int64)
  column[:] = values
  assert scratch.select(column, is_marked).tolist() == values[is_marked].tolist()
  assert arrays.counts(column, 9).tolist() == np.bincount(values, minlength=9).tolist()
  chosen = arrays.counts(column, 9, lambda rows: is_marked[rows])
  assert chosen.tolist() == np.bincount(values[is_marked], minlength=9).tolist()
  places = np.sort(rng.integers(0, 51, 30))
  expected = [int(is_marked[:place].sum()) for place in places]
  assert arrays.marked_before(is_marked, places).tolist() == expected
  starts = rng.integers(0, 40, 12)
  ends = starts + rng.integers(0, 10, 12)
  found = scratch.ranges(column, starts, ends)
  assert found.tolist() == [n for a, b in zip(starts, ends, strict=True) for n in values[a:b]]


def test_runs_hold_whole_sequences(scratch):
  del scratch
  offsets = offsets_of([3, 0, 4, 1, 0, 0, 12, 2, 5])
  runs = list(arrays.runs(offsets))
  assert [u for users, _ in runs for u in range(users.start, users.stop)] == list(range(9))
  for users, rows in runs:
    assert (rows.start, rows.stop) == (offsets[users.start], offsets[users.stop])
    assert rows.stop - rows.start <= 7 or users.stop - users.start == 1


def test_a_disk_without_room_is_named(tmp_path):
  with pytest.raises(
    OSError, match=f'{tmp_path} must have room for [0-9.]+ GB of temporary arrays'
  ):
    arrays.Scratch(tmp_path).empty(1 << 50, np.int8)
