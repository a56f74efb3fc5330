import errno
import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys

import pytest
from tensorboardX.proto import event_pb2

from recjax.workdir import metrics_file as writer


def _events(workdir) -> list[event_pb2.Event]:
  """All events in the TFRecord files: length, its crc, the payload, its crc."""
  events = []
  for path in sorted((workdir / writer.FOLDER).iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (length,) = struct.unpack_from('<Q', data, at)
      events.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
      at += 16 + length
  return events


def _scalars(workdir) -> dict[tuple[str, int], float]:
  """What TensorBoard shows: a session start hides earlier events from its step on."""
  shown = {}
  for event in sorted(_events(workdir), key=lambda event: event.wall_time):
    if event.session_log.status == event_pb2.SessionLog.START:
      shown = {key: value for key, value in shown.items() if key[1] < event.step}
    for value in event.summary.value:
      assert (value.tag, event.step) not in shown
      shown[value.tag, event.step] = value.simple_value
  return shown


def test_steps_are_written_as_lines_and_events(tmp_path):
  with writer.Writer(tmp_path, 0) as out:
    for step in (1, 2, 3):
      out.write(step, {'loss': 4.0 / step, 'tokens': 100 * step})
    out.write_evaluation(3, {'ndcg@10': 0.25})
    out.write(4, {'loss': 1.0, 'tokens': 400})
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert rows == writer.read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  assert rows[2] == {'step': 3, 'loss': 4 / 3, 'tokens': 300, 'validation/ndcg@10': 0.25}
  scalars = _scalars(tmp_path)
  assert scalars['loss', 2] == 2.0
  assert scalars['validation/ndcg_10', 3] == 0.25
  assert len(scalars) == 9
  assert sorted(path.name for path in tmp_path.iterdir()) == ['metrics.jsonl', 'tensorboard']


def test_continued_run_writes_each_step_once(tmp_path):
  with writer.Writer(tmp_path, 0) as out:
    for step in range(1, 8):
      out.write(step, {'loss': float(step)})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 8, "lo')  # torn by a kill
  assert [row['step'] for row in writer.read_metrics(tmp_path)] == list(range(1, 8))
  with writer.Writer(tmp_path, 5) as out:
    for step in range(6, 11):
      out.write(step, {'loss': float(10 * step)})
  rows = writer.read_metrics(tmp_path)
  assert [row['step'] for row in rows] == list(range(1, 11))
  assert [row['loss'] for row in rows] == [1, 2, 3, 4, 5, 60, 70, 80, 90, 100]
  scalars = _scalars(tmp_path)
  assert [scalars['loss', step] for step in range(1, 11)] == [row['loss'] for row in rows]


def test_a_start_at_step_0_drops_earlier_lines(tmp_path):
  for _ in range(2):
    with writer.Writer(tmp_path, 0) as out:
      out.write(1, {'loss': 1.0})
  assert len(writer.read_metrics(tmp_path)) == 1
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 2  # no start overwrites another's file


def test_lines_are_on_disk_before_a_kill(tmp_path):
  program = (
    'import os, signal, sys; from recjax.workdir import metrics_file as writer\n'
    'out = writer.Writer(sys.argv[1], 0)\n'
    'out.write(1, {"loss": 1.0}); out.write(2, {"loss": 2.0})\n'
    'os.kill(os.getpid(), signal.SIGKILL)'
  )
  done = subprocess.run([sys.executable, '-c', program, os.fspath(tmp_path)], check=False)
  assert done.returncode == -signal.SIGKILL
  assert [row['step'] for row in writer.read_metrics(tmp_path)] == [1, 2]


def test_flush_writes_the_full_file_to_a_bucket(tmp_path):
  out = writer.Writer(tmp_path, 0)
  out._is_local = False  # as for gs://, where nothing can be appended
  out.write(1, {'loss': 1.0})
  out.write(2, {'loss': 2.0})
  assert writer.read_metrics(tmp_path) == []
  out.flush()
  assert [row['step'] for row in writer.read_metrics(tmp_path)] == [1, 2]
  out.write_evaluation(2, {'ndcg@10': 0.5})
  out.write(3, {'loss': 3.0})
  out.close()
  assert [row['step'] for row in writer.read_metrics(tmp_path)] == [1, 2, 3]
  assert writer.read_metrics(tmp_path)[1]['validation/ndcg@10'] == 0.5


def test_values_that_are_not_finite_become_null(tmp_path):
  with writer.Writer(tmp_path, 0) as out:
    out.write(1, {'loss': math.nan})
  assert 'NaN' not in (tmp_path / 'metrics.jsonl').read_text()
  assert writer.read_metrics(tmp_path) == [{'step': 1, 'loss': None}]


def test_other_hosts_write_nothing(tmp_path):
  with writer.Writer(tmp_path / 'run', 0, enabled=False) as out:
    out.write(1, {'loss': 1.0})
    out.write_evaluation(1, {'ndcg@10': 0.1})
    out.flush()
  assert not (tmp_path / 'run').exists()
  assert writer.read_metrics(tmp_path / 'run') == []


def test_steps_out_of_order_are_refused(tmp_path):
  with writer.Writer(tmp_path, 3) as out:
    with pytest.raises(ValueError, match='step 3 after 3'):
      out.write(3, {'loss': 1.0})
    out.write(4, {'loss': 1.0})
    with pytest.raises(ValueError, match='follow the metrics of its step 5'):
      out.write_evaluation(5, {'ndcg@10': 0.1})


def test_damaged_lines_do_not_block_a_resume(tmp_path, caplog):
  lines = [
    b'{"step": 1, "loss": 1.0}',
    b'{"st',  # torn by a kill, then continued
    b'{"step": 2, "loss": 2.0, "validation/ndcg@10": 0.5}',
    b'{"epoch": 3}',
    b'[2]',
    b'\xff\x00',
    b'{"step": 3, "loss": "x"}',
    b'{"step": -1}',
    b'[' * 100_000,
    b'{"step": 2, "loss": 2.0}',  # by a second process
    b'{"step": 4, "loss": 4.0}',
    b'{"step": 3, "loss": 3.0}',
    b'{"step": 5, "lo',
  ]
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'\n'.join(lines))
  rows = writer.read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  assert rows[1]['validation/ndcg@10'] == 0.5
  assert 'metrics.jsonl: damaged lines 2, 4, 5, 6, 7 and 2 more are left out' in caplog.text
  assert path.read_bytes() == b'\n'.join(lines)  # a reader changes nothing
  caplog.clear()
  with writer.Writer(tmp_path, 3) as out:
    out.write(4, {'loss': 40.0})
  assert 'damaged lines 2, 4, 5, 6, 7 and 2 more are moved to metrics.damaged' in caplog.text
  assert [row['loss'] for row in writer.read_metrics(tmp_path)] == [1.0, 2.0, 3.0, 40.0]
  assert (tmp_path / 'metrics.damaged').read_bytes().split(b'\n')[:-1] == lines[1:2] + lines[3:9]


@pytest.mark.parametrize('line', ['{"step": 3, "loss": null}\n', '{"step": 3, "lo', ''])
def test_an_evaluation_of_a_resumed_step_needs_no_whole_line(tmp_path, line):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 2, "loss": 2.0}\n' + line)
  with writer.Writer(tmp_path, 3) as out:
    out.write_evaluation(3, {'ndcg@10': 0.5})
    out.write(4, {'loss': 4.0})
  rows = writer.read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [2, 3, 4]
  assert rows[1]['validation/ndcg@10'] == 0.5


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with writer.Writer(tmp_path, 0) as out:
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
      with pytest.raises(
        OSError, match=r'metrics\.jsonl could not be written: .*File too large.*free or repair'
      ):
        out.write(1, {'x' * (1 << 20): 1.0})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def full(_):
      raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(out._events, 'write_event', full)
    with pytest.raises(
      OSError, match=r'tensorboard could not be written: .*No space left on device'
    ):
      out.write(2, {'loss': 1.0})
