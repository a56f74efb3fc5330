"""Stored parts survive a run that ends early; incomplete parts are computed again."""

from etils import epath
import numpy as np
import pytest

from data_prep.encoders import resumable

ROWS = [np.array([4, 1]), np.array([0, 7, 3]), np.array([6]), np.array([2, 5])]
EXPECTED = np.stack([np.arange(9) * 10, np.arange(9) * 10 + 1], axis=1).astype(np.float32)
EXPECTED[8] = 0  # in no batch


class Encoder:
  """Records the started batches; fails at batch `fails_at`."""

  def __init__(self, fails_at=None):
    self.started, self.fails_at = [], fails_at

  def __call__(self, n):
    self.started.append(n)
    if n == self.fails_at:
      raise KeyboardInterrupt
    rows = np.append(ROWS[n], 99)  # a row that pads the batch
    return np.stack([rows * 10, rows * 10 + 1], axis=1).astype(np.float32)


def run(encoder, parts, width=2):
  return resumable.run(ROWS, encoder, 9, width, parts)


@pytest.fixture
def parts(tmp_path, monkeypatch):
  monkeypatch.setattr(resumable, 'SECONDS', 0)
  return epath.Path(tmp_path / 'parts' / 'x')


def test_vectors_are_written_to_the_rows_of_their_batch(parts):
  np.testing.assert_array_equal(run(Encoder(), None), EXPECTED)
  np.testing.assert_array_equal(run(Encoder(), parts), EXPECTED)
  assert [p.name[-16:-4] for p in sorted(parts.iterdir())] == [f'{n:012}' for n in (2, 5, 6, 8)]


def test_a_run_resumes_after_the_stored_parts(parts):
  with pytest.raises(KeyboardInterrupt):
    run(Encoder(fails_at=2), parts)
  later = Encoder()
  np.testing.assert_array_equal(run(later, parts), EXPECTED)
  assert later.started == [1, 2, 3]  # batch 1 was not stored when batch 2 failed
  again = Encoder()
  np.testing.assert_array_equal(run(again, parts), EXPECTED)
  assert again.started == []


@pytest.mark.parametrize('damage', ['cut', 'lost', 'partial'])
def test_an_incomplete_part_is_computed_again(parts, damage):
  run(Encoder(), parts)
  second = sorted(parts.iterdir())[1]
  if damage == 'cut':
    second.write_bytes(second.read_bytes()[:-3])
  else:
    second.unlink()
  if damage == 'partial':
    (parts / 'partial').write_bytes(b'half')
  later = Encoder()
  np.testing.assert_array_equal(run(later, parts), EXPECTED)
  assert later.started == [1]  # the parts after it are complete
  assert sum(p.stat().length for p in parts.glob('*.f32')) >= 8 * 2 * 4


def test_stored_parts_are_used_up_to_a_batch_border(parts):
  """With another number of devices, the order is the same and the batches differ."""
  run(Encoder(), parts)
  for part in sorted(parts.iterdir())[2:]:
    part.unlink()
  whole = np.concatenate(ROWS)
  later = []

  def start(n):
    later.append(n)
    rows = [whole[:4], whole[4:]][n]
    return np.stack([rows * 10, rows * 10 + 1], axis=1).astype(np.float32)

  got = resumable.run([whole[:4], whole[4:]], start, 9, 2, parts)
  np.testing.assert_array_equal(got, EXPECTED)
  assert later == [1]


def test_a_part_is_written_after_a_minute(tmp_path):
  parts = epath.Path(tmp_path / 'parts')
  np.testing.assert_array_equal(run(Encoder(), parts), EXPECTED)
  assert not parts.exists()


@pytest.mark.parametrize('processes', [2, 3, 5])
def test_shares_of_several_processes_make_the_result_of_one(tmp_path, processes):
  parts, started = epath.Path(tmp_path / 'parts'), []
  for process in reversed(range(processes)):
    encoder = Encoder()
    share = resumable.Share(parts, process, processes)
    got = resumable.run(ROWS, encoder, 9, 2, share)
    assert encoder.started == [n for n in range(4) if n % processes == process]
    for n in (*encoder.started, *started):
      np.testing.assert_array_equal(got[ROWS[n]], EXPECTED[ROWS[n]])
    started += encoder.started
  last = Encoder()
  np.testing.assert_array_equal(run(last, parts), EXPECTED)
  assert last.started == []


def test_the_last_process_computes_what_a_killed_one_left(tmp_path):
  parts = epath.Path(tmp_path / 'parts')
  resumable.run(ROWS, Encoder(), 9, 2, resumable.Share(parts, 1, 2))
  last = Encoder()
  np.testing.assert_array_equal(run(last, parts), EXPECTED)
  assert last.started == [0, 2]
