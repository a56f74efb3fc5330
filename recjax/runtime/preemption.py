"""SIGTERM and Ctrl-C: a run saves a checkpoint and ends with a status of `exit_status`.

After SIGTERM (a preemption) launchers restart the run; after SIGINT (the user's Ctrl-C) they do not. With several
processes, JAX's preemption service chooses the step after which all of them stop. A single process uses its own
signal handlers. Outside of a training the signals end a process at once.
"""

import contextlib
import signal
import threading

import jax
from jax.experimental import multihost_utils

from recjax.runtime import distributed, exit_status, interrupt


class Preempted(SystemExit):
  """Ends the process with `status`; in a `Watch` it is raised after everything is saved."""

  status = exit_status.PREEMPTED
  word = 'preempted'

  def __init__(self):
    super().__init__(self.status)


class Interrupted(Preempted):
  """The same after Ctrl-C."""

  status = exit_status.INTERRUPTED
  word = 'interrupted'


def exit_on_sigterm() -> None:
  """Makes SIGTERM end this process with exit_status.PREEMPTED whenever no `Watch` is active.

  Call it before `jax.distributed` is initialised, whose own handler replaces this one.
  """
  signal.signal(signal.SIGTERM, _exit)


def handle_sigint() -> None:
  """Makes SIGINT end this process at once, or stop a training that a `Watch` surrounds; see `interrupt`."""
  signal.signal(signal.SIGINT, _interrupt)
  interrupt.start()


def _exit(*_) -> None:
  raise Preempted


def _interrupt(*_) -> None:
  if _watch is not None:
    _watch.request()


_calls = 0  # calls of `_agreed`; JAX's service needs an increasing step number
_watch: 'Watch | None' = None  # the active one


def _agreed() -> bool:
  """Returns whether to stop now; True at the same call in all processes."""
  global _calls
  _calls += 1
  return multihost_utils.reached_preemption_sync_point(_calls)


def stop() -> Preempted:
  """Returns the exception that ends all processes: `Interrupted` if any of them received SIGINT.

  All processes must call it after the same step.
  """
  flags = distributed.exchange('interrupted', '1' if interrupt.is_requested() else '')
  return Interrupted() if any(flags) else Preempted()


def check() -> None:
  """Raises `Preempted` after SIGTERM or SIGINT; call it between evaluation batches.

  All processes must make the same number of calls. In a run of one process without an active `Watch` it does
  nothing, since the signal ends such a process at once.

  Raises:
    Preempted: a signal arrived. Nothing is saved; a restart repeats the evaluation.
  """
  if _agreed() if jax.process_count() > 1 else _watch is not None and _watch.reached():
    raise stop()


class Watch:
  """A context manager around training steps: SIGTERM and SIGINT set a flag, which `reached` returns."""

  def __init__(self):
    self._is_single_process = jax.process_count() == 1
    self._is_requested = False
    self._previous = None
    self._finishing = contextlib.ExitStack()

  def reached(self) -> bool:
    """Returns whether to save and stop now; True after the same step in all processes.

    Every process must call it once after each step. With several processes, any of them may receive the
    signal, and `reached` returns True up to a few seconds later.
    """
    return self._is_requested if self._is_single_process else _agreed()

  def request(self, *_) -> None:
    """Makes `reached` return True, with several processes in all of them; a signal handler."""
    self._is_requested = True
    if not self._is_single_process:
      signal.raise_signal(signal.SIGTERM)  # JAX's service listens for SIGTERM alone

  def __enter__(self) -> 'Watch':
    global _watch
    self._finishing.enter_context(interrupt.finishing('saving this step'))
    _watch = self
    if self._is_single_process and threading.current_thread() is threading.main_thread():
      self._previous = signal.signal(signal.SIGTERM, self.request)
    return self

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    global _watch
    _watch = None
    self._finishing.close()
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)
    is_requested = self._is_requested or interrupt.is_requested()
    if is_requested and kind is None and self._is_single_process:
      raise stop()  # it arrived after the last call of `reached`
