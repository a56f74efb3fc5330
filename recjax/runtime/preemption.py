"""Preemption: after SIGTERM a run saves a checkpoint and ends with a status on which launchers restart it.

With several processes, JAX's preemption service chooses the step after which all of them stop. A single
process uses its own signal handler.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils

from recjax.runtime import exit_status


class Preempted(SystemExit):
  """Ends the process with exit_status.PREEMPTED; raised after everything is saved."""

  def __init__(self):
    super().__init__(exit_status.PREEMPTED)


def exit_on_sigterm() -> None:
  """Makes SIGTERM end this process with exit_status.PREEMPTED whenever no `Watch` is active.

  Call it before `jax.distributed` is initialised, whose own handler replaces this one.
  """
  signal.signal(signal.SIGTERM, _exit)


def _exit(*_) -> None:
  raise Preempted


_calls = 0  # calls of `_agreed`; JAX's service needs an increasing step number
_watch: 'Watch | None' = None  # the active one


def _agreed() -> bool:
  """Returns whether to stop now; True at the same call in all processes."""
  global _calls
  _calls += 1
  return multihost_utils.reached_preemption_sync_point(_calls)


def check() -> None:
  """Raises `Preempted` after SIGTERM; call it between evaluation batches.

  All processes must make the same number of calls. In a run of one process without an active `Watch` it does
  nothing, since SIGTERM ends such a process at once.

  Raises:
    Preempted: SIGTERM arrived. Nothing is saved; a restart repeats the evaluation.
  """
  if _agreed() if jax.process_count() > 1 else _watch is not None and _watch.reached():
    raise Preempted


class Watch:
  """A context manager around training steps: SIGTERM sets a flag, which `reached` returns."""

  def __init__(self):
    self._is_single_process = jax.process_count() == 1
    self._is_requested = False
    self._previous = None

  def reached(self) -> bool:
    """Returns whether to save and stop now; True after the same step in all processes.

    Every process must call it once after each step. With several processes, any of them may receive the
    signal, and `reached` returns True up to a few seconds later.
    """
    return self._is_requested if self._is_single_process else _agreed()

  def __enter__(self) -> 'Watch':
    global _watch
    _watch = self
    if self._is_single_process and threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self._request)
    return self

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    global _watch
    _watch = None
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)
    if self._is_requested and kind is None:  # it arrived after the last call of `reached`
      signal.raise_signal(signal.SIGTERM)

  def _request(self, *_) -> None:
    self._is_requested = True
