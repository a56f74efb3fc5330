"""The watchdog with a store in memory: which failures it reports, and when it stays silent."""

import threading
import time

import jax
import pytest

from recjax.runtime import exit_status, watchdog

HEARTBEAT_TIMEOUT = 0.5
PERIOD = 0.06  # an eighth of the timeout, as in a run


class Store:
  """A store in memory. `is_stopped` makes writes of this process vanish; `is_broken` makes them fail."""

  def __init__(self, texts, process):
    self._texts, self._process = texts, process
    self.is_stopped = self.is_broken = False

  def write(self, text):
    if self.is_broken:
      raise jax.errors.JaxRuntimeError('UNAVAILABLE')
    if not self.is_stopped:
      self._texts[self._process] = text

  def read(self):
    return dict(self._texts)


class Run:
  """One watchdog for each process; `failures` holds exit status and message by process."""

  def __init__(self, processes, is_distributed=True):
    texts, self.failures = {}, {}
    self._exited = [threading.Event() for _ in range(processes)]
    self.stores = [Store(texts, p) if is_distributed else None for p in range(processes)]
    self.dogs = [
      watchdog.Watchdog(
        store, process, processes, HEARTBEAT_TIMEOUT, PERIOD,
        on_fail=lambda status, message, p=process: self.failures.update({p: (status, message)}),
        exit_process=lambda _, p=process: self._exited[p].set(),
      )
      for process, store in enumerate(self.stores)
    ]  # fmt: skip

  def wait(self, *processes):
    for process in processes:
      assert self._exited[process].wait(10), f'process {process} did not end'


@pytest.fixture
def start():
  runs = []

  def make(*args, **kwargs):
    runs.append(Run(*args, **kwargs))
    return runs[-1]

  yield make
  for run in runs:
    for dog in run.dogs:
      dog.stop()


def test_the_other_processes_name_a_silent_one(start):
  run = start(3)
  with run.dogs[1].expect('step 41', 0), run.dogs[2].expect('step 42', 0):
    time.sleep(5 * PERIOD)
    run.stores[1].is_stopped = True
    run.wait(0, 2)
  status, message = run.failures[2]
  assert status == exit_status.HUNG == 124
  if 'ends the run' in message:  # process 0 was first
    status, message = run.failures[0]
  assert message.startswith('the run hangs: process 1 sent no heartbeat for 0 s')
  lines = message.splitlines()[1:]
  assert lines[0].startswith('  process 1 on ')  # the most suspicious process comes first
  assert 'no heartbeat for' in lines[0]
  assert 'before that in step 41' in lines[0]
  assert len(lines) == 3


def test_an_exceeded_limit_ends_all_processes_with_the_same_reason(start):
  run = start(2)
  with run.dogs[0].expect('evaluation', 0), run.dogs[1].expect('step 7', 0.2):
    run.wait(0, 1)
  status, message = run.failures[1]
  assert status == exit_status.HUNG
  assert message.startswith('the run hangs: step 7 has not ended after 0 s')
  assert 'in evaluation for' in message
  status, message = run.failures[0]
  assert status == exit_status.HUNG
  assert message.startswith('process 1 on ')
  assert message.endswith('ends the run: the run hangs: step 7 has not ended after 0 s')


def test_a_failure_ends_the_other_processes(start):
  run = start(2)
  run.dogs[1].fail(1, 'ValueError: bad input', '\nTraceback')
  run.wait(0, 1)
  assert run.failures[1] == (1, 'ValueError: bad input\nTraceback')
  assert run.failures[0][0] == 1
  assert run.failures[0][1].endswith('ends the run: ValueError: bad input')


def test_a_store_that_does_not_answer_is_blamed_on_process_0(start):
  run = start(2)
  time.sleep(5 * PERIOD)
  run.stores[1].is_broken = True
  run.wait(1)
  assert 'process 0, which hosts the coordination service, has not answered' in run.failures[1][1]


def test_an_ended_process_is_not_reported_and_inner_activities_restart_the_limit(start):
  run = start(2)
  run.dogs[1].stop()
  with run.dogs[0].expect('step 1', HEARTBEAT_TIMEOUT):
    for _ in range(4):
      with run.dogs[0].expect('ranking', 0):
        time.sleep(HEARTBEAT_TIMEOUT / 2)
  assert run.failures == {}
  assert run.dogs[0].describe(1).endswith('has ended')


def test_a_single_process_watches_its_own_activity(start):
  run = start(1, is_distributed=False)
  time.sleep(2 * HEARTBEAT_TIMEOUT)
  assert run.failures == {}
  with run.dogs[0].expect('step 3', 0.1):
    run.wait(0)
  assert run.failures[0][1].startswith('the run hangs: step 3 has not ended after 0 s')


def test_the_process_with_a_different_activity_is_listed_first(start):
  run = start(20)
  odd = run.dogs[13].expect('reading', 0)
  others = [dog.expect('step 5', 0) for dog in run.dogs[:13] + run.dogs[14:]]
  with odd:
    for other in others:
      other.__enter__()
    time.sleep(10 * PERIOD)
    with run.dogs[3].expect('step 5', 0.1):
      run.wait(3)
    for other in others:
      other.__exit__(None, None, None)
  lines = run.failures[3][1].splitlines()
  assert lines[1].startswith('  process 13 on ')
  assert 'in reading for' in lines[1]
  assert lines[-1] == '  and 4 more'
  assert len(lines) == 18


def test_the_first_steps_have_a_longer_limit(monkeypatch):
  expected = []

  class Recorder:
    def expect(self, what, seconds):
      expected.append((what, seconds))
      return watchdog.contextlib.nullcontext()

  monkeypatch.setattr(watchdog, '_running', Recorder())
  assert list(watchdog.watched(range(8, 13), 60, 5)) == [8, 9, 10, 11, 12]
  assert expected == [
    ('step 8', 60),
    ('step 9', 60),
    ('step 10', 60),
    ('step 11', 5),
    ('step 12', 5),
  ]


def test_nothing_happens_without_a_watchdog():
  with watchdog.expect('anything', 1e-9):
    time.sleep(0.01)
  watchdog.fail('ignored')
  watchdog.stop()
  assert watchdog.describe(3) == 'process 3'
