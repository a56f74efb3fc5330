"""SIGTERM means that the machine is taken away: save, and end with a status that launchers restart on.

Several processes learn of it through JAX's preemption service, which tells all of them the same step. A
single process has a signal handler of its own.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils

from recjax.runtime import exit_status


class Preempted(SystemExit):
  """Ends the process with exit_status.PREEMPTED; everything that a restart needs is saved."""

  def __init__(self):
    super().__init__(exit_status.PREEMPTED)


def exit_on_sigterm() -> None:
  """Makes SIGTERM end this process with exit_status.PREEMPTED, for the time outside of a `Watch`.

  Call it before `jax.distributed` is initialised: several processes then hear SIGTERM through JAX alone.
  """
  signal.signal(signal.SIGTERM, _exit)


def _exit(*_) -> None:
  raise Preempted


_calls = 0  # of `_agreed`: JAX's service wants a number that never falls
_watch: 'Watch | None' = None  # the one around the steps that run now


def _agreed() -> bool:
  """Whether it is time to leave; True at the same call of every one of several processes."""
  global _calls
  _calls += 1
  return multihost_utils.reached_preemption_sync_point(_calls)


def check() -> None:
  """Ends work that is repeated by a restart, such as an evaluation, where the machine is taken away.

  Several processes must call it equally often. A single one that is in no `Watch` ends by itself.

  Raises:
    Preempted: SIGTERM came.
  """
  if _agreed() if jax.process_count() > 1 else _watch is not None and _watch.reached():
    raise Preempted


class Watch:
  """Asks after each step whether to save and leave; a context manager around the steps."""

  def __init__(self):
    self._is_alone = jax.process_count() == 1
    self._is_requested = False
    self._previous = None

  def reached(self) -> bool:
    """Whether to save now; True after the same step in every process.

    Every process must call it once after each step. With several processes the answer comes up to a few
    seconds after the signal, which any one of them may have received.
    """
    return self._is_requested if self._is_alone else _agreed()

  def __enter__(self) -> 'Watch':
    global _watch
    _watch = self
    if self._is_alone and threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self._request)
    return self

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    global _watch
    _watch = None
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)
    if self._is_requested and kind is None:  # it came after the last step was asked about
      signal.raise_signal(signal.SIGTERM)

  def _request(self, *_) -> None:
    self._is_requested = True
