"""SIGTERM in a single process; kills_test.py tests several processes."""

import os
import signal

import pytest

from recjax.runtime import exit_status, preemption


@pytest.fixture(autouse=True)
def handler():
  """Restores the previous handler afterwards."""
  before = signal.getsignal(signal.SIGTERM)
  yield
  signal.signal(signal.SIGTERM, before)


def test_a_watch_reports_sigterm_and_restores_the_handler():
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


def test_sigterm_without_a_watch_ends_the_process():
  preemption.exit_on_sigterm()
  with pytest.raises(SystemExit) as error:
    os.kill(os.getpid(), signal.SIGTERM)
  assert error.value.code == exit_status.PREEMPTED == 75


def test_sigterm_after_the_last_step_is_not_lost():
  preemption.exit_on_sigterm()
  with pytest.raises(preemption.Preempted), preemption.Watch() as watch:
    assert not watch.reached()
    os.kill(os.getpid(), signal.SIGTERM)
