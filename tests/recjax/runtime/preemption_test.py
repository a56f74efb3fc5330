"""SIGTERM in one process; several processes are in kills_test.py."""

import os
import signal

import pytest

from recjax.runtime import exit_status, preemption


@pytest.fixture(autouse=True)
def handler():
  """Puts back the handler that was there."""
  before = signal.getsignal(signal.SIGTERM)
  yield
  signal.signal(signal.SIGTERM, before)


def test_a_watch_tells_of_sigterm_and_leaves_the_handler_as_it_was():
  preemption.exit_on_sigterm()
  outside = signal.getsignal(signal.SIGTERM)
  with pytest.raises(preemption.Preempted), preemption.Watch() as watch:
    assert not watch.reached()
    os.kill(os.getpid(), signal.SIGTERM)
    assert watch.reached()
    assert watch.reached()
    raise preemption.Preempted
  assert signal.getsignal(signal.SIGTERM) is outside
  with preemption.Watch() as watch:
    assert not watch.reached()


def test_outside_of_a_watch_sigterm_ends_the_process_with_the_status_of_a_preemption():
  preemption.exit_on_sigterm()
  with pytest.raises(SystemExit) as error:
    os.kill(os.getpid(), signal.SIGTERM)
  assert error.value.code == exit_status.PREEMPTED == 75


def test_sigterm_after_the_last_step_is_not_forgotten():
  preemption.exit_on_sigterm()
  with pytest.raises(preemption.Preempted), preemption.Watch() as watch:
    assert not watch.reached()
    os.kill(os.getpid(), signal.SIGTERM)
