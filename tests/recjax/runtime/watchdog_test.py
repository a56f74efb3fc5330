"""The watchdog with a board in memory: what it says of whom, and when it says nothing."""

import threading
import time

import jax
import pytest

from recjax.runtime import exit_status, watchdog

PERIOD = 0.06  # an eighth of it, as in a run
SILENCE = 0.5


class Board:
  """The texts of all processes; a test may stop one from writing, or the whole board from answering."""

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
  """A watchdog for each of some processes; `ended` holds status and message by process."""

  def __init__(self, processes, shared=True):
    texts, self.ended, self._left = {}, {}, [threading.Event() for _ in range(processes)]
    self.boards = [Board(texts, process) if shared else None for process in range(processes)]
    self.dogs = [
      watchdog.Watchdog(
        board, process, processes, SILENCE, PERIOD,
        say=lambda status, message, p=process: self.ended.update({p: (status, message)}),
        leave=lambda _, p=process: self._left[p].set(),
      )
      for process, board in enumerate(self.boards)
    ]  # fmt: skip

  def wait(self, *processes):
    for process in processes:
      assert self._left[process].wait(10), f'process {process} did not end'


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


def test_who_is_silent_is_named_by_the_others(start):
  run = start(3)
  with run.dogs[1].expect('step 41', 0), run.dogs[2].expect('step 42', 0):
    time.sleep(5 * PERIOD)
    run.boards[1].is_stopped = True
    run.wait(0, 2)
  status, message = run.ended[2]
  assert status == exit_status.HUNG == 124
  if 'ends the run' in message:  # process 0 was first
    status, message = run.ended[0]
  assert message.startswith('the run hangs: process 1 did not answer for 0 s')
  lines = message.splitlines()[1:]
  assert lines[0].startswith('  process 1 on ')  # whom to look at comes first
  assert 'silent for' in lines[0]
  assert 'before that in step 41' in lines[0]
  assert len(lines) == 3


def test_work_that_takes_too_long_ends_all_with_one_reason(start):
  run = start(2)
  with run.dogs[0].expect('evaluation', 0), run.dogs[1].expect('step 7', 0.2):
    run.wait(0, 1)
  status, message = run.ended[1]
  assert status == exit_status.HUNG
  assert message.startswith('the run hangs: no end of step 7 after 0 s')
  assert 'in evaluation for' in message
  status, message = run.ended[0]
  assert status == exit_status.HUNG
  assert message.startswith('process 1 on ')
  assert message.endswith('ends the run: the run hangs: no end of step 7 after 0 s')


def test_a_failure_ends_the_others_at_once(start):
  run = start(2)
  run.dogs[1].end(1, 'ValueError: bad input', '\nTraceback')
  run.wait(0, 1)
  assert run.ended[1] == (1, 'ValueError: bad input\nTraceback')
  assert run.ended[0][0] == 1
  assert run.ended[0][1].endswith('ends the run: ValueError: bad input')


def test_a_board_that_does_not_answer_is_process_0(start):
  run = start(2)
  time.sleep(5 * PERIOD)
  run.boards[1].is_broken = True
  run.wait(1)
  assert 'process 0, through which the processes hear of each other' in run.ended[1][1]


def test_who_left_is_not_missed_and_inner_work_gives_new_time(start):
  run = start(2)
  run.dogs[1].stop()
  with run.dogs[0].expect('step 1', SILENCE):
    for _ in range(4):
      with run.dogs[0].expect('ranking', 0):
        time.sleep(SILENCE / 2)
  assert run.ended == {}
  assert run.dogs[0].describe(1).endswith('has ended')


def test_one_process_alone_watches_its_own_work(start):
  run = start(1, shared=False)
  time.sleep(2 * SILENCE)
  assert run.ended == {}
  with run.dogs[0].expect('step 3', 0.1):
    run.wait(0)
  assert run.ended[0][1].startswith('the run hangs: no end of step 3 after 0 s')


def test_the_odd_one_out_of_many_comes_first(start):
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
  lines = run.ended[3][1].splitlines()
  assert lines[1].startswith('  process 13 on ')
  assert 'in reading for' in lines[1]
  assert lines[-1] == '  and 4 more'
  assert len(lines) == 18


def test_steps_are_watched_and_the_first_ones_longer(monkeypatch):
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


def test_without_a_watchdog_nothing_happens():
  with watchdog.expect('anything', 1e-9):
    time.sleep(0.01)
  watchdog.fail('nobody listens')
  watchdog.stop()
  assert watchdog.describe(3) == 'process 3'
