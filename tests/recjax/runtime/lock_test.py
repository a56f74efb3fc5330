import json
import multiprocessing
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


def test_another_process_is_refused_by_name(holder, tmp_path):
  said = rf'process {holder.pid} on .* \(training, since 20.*\) uses it.*set --workdir'
  with pytest.raises(lock.Held, match=said), take(tmp_path / 'f'):
    pass
  with pytest.raises(lock.Held, match=said):
    lock.check_free(tmp_path / 'f', '--workdir')


def test_a_killed_owner_holds_nothing(holder, tmp_path):
  os.kill(holder.pid, signal.SIGKILL)
  holder.wait()
  assert (tmp_path / 'f' / lock.FILE).exists()
  lock.check_free(tmp_path / 'f', '--workdir')
  with take(tmp_path / 'f'):
    assert json.loads((tmp_path / 'f' / lock.FILE).read_text())['process'] == os.getpid()
  assert not (tmp_path / 'f' / lock.FILE).exists()


def test_who_waits_goes_on_when_the_owner_ends(holder, tmp_path, caplog):
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
        os.kill(child, 0)  # it is still there
    finally:
      os.kill(child, signal.SIGKILL)


def _count(folder, times):
  for _ in range(times):
    with take(folder, wait=True):
      path = os.path.join(folder, 'count')
      before = int(open(path).read()) if os.path.exists(path) else 0  # noqa: SIM115
      time.sleep(0.001)
      with open(path, 'w') as f:
        f.write(str(before + 1))


def test_one_owner_at_a_time(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, '_POLL_S', 0.002)
  context = multiprocessing.get_context('fork')
  counters = [context.Process(target=_count, args=(str(tmp_path), 20)) for _ in range(4)]
  for process in counters:
    process.start()
  for process in counters:
    process.join()
  assert (tmp_path / 'count').read_text() == '80'


def test_a_lease_is_renewed_refuses_and_ends(tmp_path, monkeypatch):
  monkeypatch.setattr(lock, 'LEASE_S', 1.0)
  monkeypatch.setattr(lock, '_RENEW_S', 0.2)
  monkeypatch.setattr(lock, '_POLL_S', 0.05)
  folder = epath.Path(tmp_path)
  with lock.leased(folder, 'training', False, '--workdir'):
    time.sleep(1.5)  # longer than the lease: it was renewed
    with (
      pytest.raises(lock.Held, match=f'process {os.getpid()} on'),
      lock.leased(folder, 'x', False, '--workdir'),
    ):
      pass
  assert not (folder / lock.FILE).exists()
  (folder / lock.FILE).write_text(
    json.dumps({'token': 'of a dead one', 'renewed': time.time() - 2})
  )
  with lock.leased(folder, 'training', False, '--workdir'):
    assert 'of a dead one' not in (folder / lock.FILE).read_text()
