"""Locks against real processes that hold, wait, fork and are killed; leases with short times."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

from etils import epath
import pytest

from recjax.runtime import lock
from tests.folders import ROOT

HOLDER = """
import sys, time
from recjax.runtime import lock
with lock.hold(sys.argv[1], 'training', wait=False, field='--workdir'):
  print('held', flush=True)
  time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that holds tmp_path/f."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(tmp_path / 'f')], cwd=ROOT, stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'held\n'
  yield process
  process.kill()
  process.wait()
  process.stdout.close()


def take(folder, wait=False):
  return lock.hold(folder, 'testing', wait=wait, field='--workdir')


def test_the_refusal_names_the_owner(holder, tmp_path):
  message = rf'process {holder.pid} on .* \(training, since 20.*\) uses it.*set --workdir'
  with pytest.raises(lock.Held, match=message), take(tmp_path / 'f'):
    pass
  with pytest.raises(lock.Held, match=message):
    lock.check_free(tmp_path / 'f', '--workdir')


def test_a_killed_owner_holds_no_lock(holder, tmp_path):
  os.kill(holder.pid, signal.SIGKILL)
  holder.wait()
  assert (tmp_path / 'f' / lock.FILE).exists()
  lock.check_free(tmp_path / 'f', '--workdir')
  with take(tmp_path / 'f'):
    assert json.loads((tmp_path / 'f' / lock.FILE).read_text())['process'] == os.getpid()
  assert not (tmp_path / 'f' / lock.FILE).exists()


def test_a_waiting_process_continues_when_the_owner_ends(holder, tmp_path, caplog):
  caplog.set_level('INFO', lock.log.name)
  killer = threading.Timer(1.5, holder.kill)
  killer.start()
  start = time.monotonic()
  with take(tmp_path / 'f', wait=True):
    assert time.monotonic() - start > 1
  (record,) = caplog.records
  assert re.match(rf'waiting for process {holder.pid} on ', record.getMessage())


def test_a_folder_that_stays_empty_is_removed(tmp_path):
  with take(tmp_path / 'new' / 'f'):
    assert (tmp_path / 'new' / 'f').exists()
  assert not (tmp_path / 'new' / 'f').exists()
  with take(tmp_path / 'kept'):
    (tmp_path / 'kept' / 'file').write_text('x')
  assert os.listdir(tmp_path / 'kept') == ['file']


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_owner(tmp_path):
  forking = HOLDER.replace('  print', '  import os\n  child = os.fork()\n  if child: print', 1)
  forking = forking.replace("('held'", "('held', child")
  with subprocess.Popen(
    [sys.executable, '-c', forking, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
  ) as owner:
    child = int(owner.stdout.readline().split()[1])
    try:
      owner.kill()
      owner.wait()
      with take(tmp_path):
        assert os.kill(child, 0) is None  # it still runs
    finally:
      os.kill(child, signal.SIGKILL)


def run(program, *arguments):
  """Runs a program in a process of its own, where a fork disturbs no thread of JAX."""
  command = [sys.executable, '-c', program, *map(str, arguments)]
  return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


FORKING = """
import os, sys
from recjax.runtime import lock
try:
  with lock.hold(sys.argv[1], 'training', wait=False, field='--workdir'):
    child = os.fork()
    if not child:
      raise KeyboardInterrupt
    os.waitpid(child, 0)
    lock.check_free(sys.argv[1], '--workdir')
except KeyboardInterrupt:
  pass
except lock.Held:
  print('held')
"""


def test_an_error_in_a_forked_child_does_not_release_the_lock(tmp_path):
  assert run(FORKING, tmp_path).communicate()[0] == 'held\n'


COUNTING = """
import pathlib, sys, time
from recjax.runtime import lock
lock._POLL_S = 0.002
folder = pathlib.Path(sys.argv[1])
for _ in range(20):
  with lock.hold(folder / 'lock', 'counting', wait=True, field='--workdir'):
    count = folder / 'count'
    before = int(count.read_text()) if count.exists() else 0
    time.sleep(0.001)
    count.write_text(str(before + 1))
"""


def test_one_owner_at_a_time_even_if_the_folder_is_removed_each_time(tmp_path):
  counters = [run(COUNTING, tmp_path) for _ in range(4)]
  for process in counters:
    process.communicate()
  assert (tmp_path / 'count').read_text() == '80'


def test_a_concurrent_check_does_not_refuse_an_owner(tmp_path, monkeypatch):
  real, calls = lock.fcntl.flock, []

  def flock(*args):
    calls.append(args)
    if len(calls) == 1:
      raise BlockingIOError
    return real(*args)

  monkeypatch.setattr(lock.fcntl, 'flock', flock)
  with take(tmp_path):
    assert len(calls) == 2


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
  (tmp_path / 'link').symlink_to(tmp_path / 'missing')
  for folder in (tmp_path / 'link', tmp_path / ('x' * 300), '/proc/missing/run'):
    with (
      pytest.raises(ValueError, match=r'must be writable; got \[Errno .*Set --workdir'),
      lock.hold(folder, 'training', wait=False, field='--workdir'),
    ):
      pass


def test_a_folder_that_is_not_writable_is_refused(tmp_path, monkeypatch):
  def refuses(*_):
    raise PermissionError(errno.EACCES, 'Permission denied', 'the file')

  monkeypatch.setattr(lock.os, 'open', refuses)
  message = r'f must be writable; got .*Permission denied.*Set --workdir to another folder'
  with pytest.raises(ValueError, match=message), take(tmp_path / 'f'):
    pass
  assert not (tmp_path / 'f').exists()


@pytest.fixture
def short(monkeypatch):
  """Leases that are renewed every 0.2 s; they expire late, so that a busy machine changes nothing."""
  monkeypatch.setattr(lock, 'LEASE_S', 30.0)
  monkeypatch.setattr(lock, '_RENEW_S', 0.2)
  monkeypatch.setattr(lock, '_POLL_S', 0.05)


def lease(folder, wait=False):
  return lock.leased(epath.Path(folder), 'training', wait, '--workdir')


def test_a_renewed_lease_is_refused_and_removed_at_the_end(tmp_path, short):
  refusal = pytest.raises(lock.Held, match=f'process {os.getpid()} on')
  with lease(tmp_path), refusal, lease(tmp_path):
    pass
  assert not (tmp_path / lock.FILE).exists()


@pytest.mark.parametrize('clock', [-600, 600])  # seconds that the clock of the owner is wrong
def test_an_expired_lease_is_taken_even_if_the_clocks_differ(tmp_path, short, clock, monkeypatch):
  monkeypatch.setattr(lock, 'LEASE_S', 1.0)
  path, text = tmp_path / lock.FILE, {'token': 'of a dead process', 'renewed': time.time() + clock}
  path.write_text(json.dumps(text))
  start = time.monotonic()
  with lease(tmp_path):
    assert time.monotonic() - start > 1  # it was watched until it had expired
    assert 'of a dead process' not in path.read_text()


def test_a_lease_older_than_an_hour_is_taken_at_once(tmp_path):
  (tmp_path / lock.FILE).write_text(json.dumps({'token': 'x', 'renewed': time.time() - 7200}))
  assert not lock._is_renewed(epath.Path(tmp_path / lock.FILE))


def test_a_file_system_without_flock_has_leases(tmp_path, short, monkeypatch):
  def flock(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(lock.fcntl, 'flock', flock)
  with take(tmp_path):
    assert 'renewed' in (tmp_path / lock.FILE).read_text()
    with pytest.raises(lock.Held):
      lock.check_free(tmp_path, '--workdir')
    with pytest.raises(lock.Held), take(tmp_path):
      pass
  assert not (tmp_path / lock.FILE).exists()


def test_an_unreachable_bucket_is_tried_again(tmp_path, short, monkeypatch, caplog):
  with lease(tmp_path):
    before = (tmp_path / lock.FILE).read_text()
    with monkeypatch.context() as patch:
      patch.setattr(lock, '_read', lambda path: 1 / 0)
      time.sleep(0.5)
    time.sleep(0.5)
    assert (tmp_path / lock.FILE).read_text() != before
  assert 'could not be renewed: division by zero; trying again' in caplog.text


def test_a_process_that_lost_its_lease_ends(tmp_path):
  program = HOLDER.replace('with lock.hold', 'lock._RENEW_S = lock._POLL_S = 0.1\nwith lock.leased')
  program = program.replace('sys.argv[1]', 'lock.epath.Path(sys.argv[1])')
  with subprocess.Popen(
    [sys.executable, '-c', program, str(tmp_path)],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  ) as process:  # fmt: skip
    assert process.stdout.readline() == 'held\n'
    owner = {'host': 'h', 'process': 7, 'purpose': 'training', 'since': 'now', 'token': 'other'}
    (tmp_path / lock.FILE).write_text(json.dumps(owner))
    assert process.wait(20) == 1
    assert 'process 7 on h (training, since now) took the lease' in process.stderr.read()
  assert 'other' in (tmp_path / lock.FILE).read_text()
